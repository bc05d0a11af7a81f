import type { Extent } from '../../nbd/export.ts';

/** What the copy needs of a connection; `NbdClient` is one. */
export interface PullSource {
  readonly sizeBytes: number;
  readonly requestBytesMax: number;
  readonly contexts: ReadonlySet<string>;
  read(target: Uint8Array, offset: number, length: number): Promise<void>;
  blockStatus(context: string, offset: number, length: number): Promise<Extent[]>;
  close(): Promise<void>;
}
