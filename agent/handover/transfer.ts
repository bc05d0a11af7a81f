import type { OpenExportResponse } from '../../proto/gen/ferry/v1/handover_pb.ts';
import type { CopyProgress } from '../../proto/gen/ferry/v1/migration_pb.ts';

/** One pull of one export into the image of a copy. */
export interface PullWish {
  readonly host: string;
  /** The export as it was opened. */
  readonly opened: OpenExportResponse;
  /** Opens the same export again after a break; one with another snapshot fails the pull. */
  readonly openAgain: () => Promise<OpenExportResponse>;
  /** Snapshot that the copy holds; '' = none. */
  readonly held: string;
  readonly imagePath: string;
  readonly statePath: string;
  readonly sizeBytes: number;
  /** Whether the Machine runs meanwhile: such a pull obeys the host's limit, and waits longer for a silent source. */
  readonly isLive: boolean;
  readonly signal: AbortSignal;
  readonly onProgress: (progress: CopyProgress) => void;
}

/** What the hand-over needs of the volume stream. */
export interface VolumeTransfer {
  /**
   * Root over a whole kept image, from the disk itself and not from memory, where that is possible. If it is `root`, its sums
   * are at `keptPath` then.
   */
  rereadKept(paths: { imagePath: string; keptPath: string }, root: string, signal: AbortSignal): Promise<string>;
  /** Name of the snapshot whose bytes a copy holds, in part at least; '' when it holds nothing. */
  held(statePath: string): Promise<string>;
  /**
   * Fills an image from the other agent's export: what it does not hold yet and what has changed since the snapshot that it
   * holds; re-reads from the disk what came; answers the root. Throws FerryErrors no_space, io_error, copy_corrupt (never
   * retried), or copy_broken.
   */
  pull(wish: PullWish): Promise<{
    readonly root: string;
    readonly bytesTransferred: number;
    readonly bytesResumed: number;
  }>;
  /** Our own TLS certificate's SHA-256, or "" without TLS. */
  readonly fingerprint: string;
}

/** The root of a Machine without a volume. */
export const noVolumeRoot = 'no-volume';
