import type { OpenExportResponse } from '../../proto/gen/ferry/v1/handover_pb.ts';
import type { CopyProgress } from '../../proto/gen/ferry/v1/migration_pb.ts';

/** What the hand-over needs of the volume stream. */
export interface VolumeTransfer {
  /** Root over a whole image. `direct` reads from the disk itself, not from memory, where that is possible. */
  root(imagePath: string, options: { direct: boolean; signal: AbortSignal }): Promise<string>;
  /**
   * Fills an image from the other agent's export, resumes what an earlier try brought, re-reads everything from the disk;
   * answers the root. Throws FerryErrors no_space, io_error, copy_corrupt (never retried), or copy_broken.
   */
  pull(options: {
    readonly host: string;
    readonly openExport: () => Promise<OpenExportResponse>;
    readonly imagePath: string;
    readonly statePath: string;
    readonly sizeBytes: number;
    readonly signal: AbortSignal;
    readonly onProgress: (progress: CopyProgress) => void;
  }): Promise<{ readonly root: string }>;
  /** Our own TLS certificate's SHA-256, or "" without TLS. */
  readonly fingerprint: string;
}

/** The root of a Machine without a volume. */
export const noVolumeRoot = 'no-volume';
