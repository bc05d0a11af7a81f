import { NbdError } from '../../nbd/error.ts';
import { BASE_ALLOCATION, EXTENT_ZERO, type Export, type Extent } from '../../nbd/export.ts';
import { CHUNK_BYTES, chunkCount, SUM_BYTES, writeSums } from './chunks.ts';
import type { FileExport } from './file-export.ts';
import type { ServedSums } from './served-sums.ts';

/** How the sums of what is served are kept. */
export type Remembering =
  /** The bytes never change under this name: whoever reads a chunk first sums it. */
  | { readonly kind: 'fixed'; readonly snapshot: string }
  /** The file is in use: what is told last is what counts, and only to the newest reader. The first one has nothing yet. */
  | { readonly kind: 'live'; readonly isCurrent: () => boolean; readonly isFirst: boolean };

/**
 * An image as the source of a copy serves it: the sum of each chunk that is served whole is remembered. It can be taken
 * away from its reader, who is then told to ask for another export.
 */
export class SourceExport implements Export {
  readonly #file: FileExport;
  readonly #sums: ServedSums;
  readonly #how: Remembering;
  readonly #onClose: () => void;
  #underWay = 0;
  #gone: string | null = null;
  #idle: (() => void) | null = null;
  #closing: Promise<void> | null = null;

  constructor(file: FileExport, options: { sums: ServedSums; how: Remembering; onClose: () => void }) {
    this.#file = file;
    this.#sums = options.sums;
    this.#how = options.how;
    this.#onClose = options.onClose;
  }

  get sizeBytes(): number {
    return this.#file.sizeBytes;
  }

  get contexts(): readonly string[] {
    return this.#file.contexts;
  }

  readInto(target: Uint8Array, offset: number, length: number): Promise<void> {
    return this.#during(async () => {
      await this.#file.readInto(target, offset, length);
      await this.#remember(target, offset, length);
    });
  }

  blockStatus(context: string, offset: number, length: number): Promise<Extent[]> {
    return this.#during(async () => {
      const extents = await this.#file.blockStatus(context, offset, length);
      if (this.#how.kind === 'live' && context === BASE_ALLOCATION) await this.#tellHoles(this.#how, extents);
      return extents;
    });
  }

  /** Ends it for its reader, with this reason, and closes the file when the last read has ended. */
  takeAway(reason: string): Promise<void> {
    this.#gone ??= reason;
    return this.close();
  }

  close(): Promise<void> {
    this.#gone ??= 'the export is closed';
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    if (this.#underWay > 0) {
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    }
    await this.#file.close();
    this.#onClose();
    // What this reader was told is what a restarted agent must know; one that does not has to read it again.
    await this.#sums.record().catch(() => {});
  }

  async #during<T>(work: () => Promise<T>): Promise<T> {
    if (this.#gone !== null) throw new NbdError('shutdown', this.#gone);
    this.#underWay += 1;
    try {
      return await work();
    } finally {
      this.#underWay -= 1;
      if (this.#underWay === 0) this.#idle?.();
    }
  }

  async #remember(data: Uint8Array, offset: number, length: number): Promise<void> {
    const end = offset + length;
    const first = Math.ceil(offset / CHUNK_BYTES);
    const last = end === this.sizeBytes ? chunkCount(end) : Math.floor(end / CHUNK_BYTES);
    const whole = last > first;
    const how = this.#how;
    if (how.kind === 'fixed') {
      if (!whole || this.#sums.snapshot !== how.snapshot || this.#sums.hasAll(first, last)) return;
      const sums = this.#sumsOf(data, offset, first, last);
      // Nobody waits for it, and a sum that cannot be kept is read again later.
      this.#sums.put(how.snapshot, first, sums).catch(() => {});
      return;
    }
    if (!whole) return;
    const sums = this.#sumsOf(data, offset, first, last);
    if (!(await this.#sums.tell(first, sums, how.isCurrent))) throw new NbdError('shutdown', 'a newer reader came');
  }

  #sumsOf(data: Uint8Array, offset: number, first: number, last: number): Buffer {
    const sums = Buffer.alloc((last - first) * SUM_BYTES);
    const until = Math.min(last * CHUNK_BYTES, this.sizeBytes) - offset;
    writeSums(data.subarray(first * CHUNK_BYTES - offset, until), sums);
    return sums;
  }

  async #tellHoles(how: Remembering & { kind: 'live' }, extents: readonly Extent[]): Promise<void> {
    for (const { offset, length, flags } of extents) {
      if ((flags & EXTENT_ZERO) === 0) continue;
      const end = offset + length;
      const first = Math.ceil(offset / CHUNK_BYTES);
      const last = end === this.sizeBytes ? chunkCount(end) : Math.floor(end / CHUNK_BYTES);
      if (last <= first) continue;
      if (!(await this.#sums.tellHoles(first, last, how))) throw new NbdError('shutdown', 'a newer reader came');
    }
  }
}
