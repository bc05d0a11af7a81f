import { Bitmap } from './bitmap.ts';
import { CHUNK_BYTES, chunkSum, isZeroChunk, SUM_BYTES } from './chunks.ts';
import type { DiskFile } from './disk.ts';
import { diskError, TransferError } from './error.ts';
import type { AllocationMap } from './extents.ts';
import { settleAll } from './settle.ts';
import type { SumsFile } from './sums.ts';

/** Chunks whose sums are held at a time: 512 MiB of volume. */
export const WINDOW_CHUNKS = 8_192;
/** A disk with more wrong chunks than this is not worth a second try. */
const WRONG_MAX = 1_024;
const BLOCK_BYTES = 4_096;

/** Reads a copy back from its disk and compares it with the sums taken when it arrived. */
export class Verifier {
  readonly #image: DiskFile;
  readonly #sums: SumsFile;
  readonly #buffers: readonly Uint8Array[];
  readonly #page = Buffer.alloc(WINDOW_CHUNKS * SUM_BYTES);

  /** One read at a time for each buffer; a buffer holds whole chunks. */
  constructor(options: { image: DiskFile; sums: SumsFile; buffers: readonly Uint8Array[] }) {
    this.#image = options.image;
    this.#sums = options.sums;
    this.#buffers = options.buffers;
  }

  /**
   * Reads every received chunk that is not verified yet, marks what is right as verified and returns the numbers of the
   * others. Zeros are left to a later pass, or read, or, where a map is given, read unless it calls them a hole. `windows`
   * null looks at the whole volume.
   */
  async pass(
    { zeros, windows }: { zeros: 'later' | 'read' | AllocationMap; windows: ReadonlySet<number> | null },
    signal: AbortSignal,
  ): Promise<number[]> {
    const wrong: number[] = [];
    for (let first = 0; first < this.#sums.chunkCount; first += WINDOW_CHUNKS) {
      if (windows && !windows.has(first / WINDOW_CHUNKS)) continue;
      const todo = this.#unverified(first);
      if (todo.next(0, true) === todo.length) continue;
      // The bits were taken before the sums are read: a chunk received from here on is left to the next pass.
      await this.#sums.readSums(this.#page.subarray(0, todo.length * SUM_BYTES), first);
      const pieces = this.#pieces(this.#toRead(first, todo, zeros));
      await settleAll(
        this.#buffers.map(async (buffer) => {
          for (const [from, to] of pieces) {
            signal.throwIfAborted();
            await this.#check(buffer, first, from, to, wrong);
          }
        }),
      );
    }
    return wrong;
  }

  /** Number of received chunks that were not read back yet. */
  unreadCount(): number {
    let count = 0;
    for (let first = 0; first < this.#sums.chunkCount; first += WINDOW_CHUNKS) count += this.#unverified(first).count();
    return count;
  }

  #unverified(first: number): Bitmap {
    const length = Math.min(WINDOW_CHUNKS, this.#sums.chunkCount - first);
    const { received, verified } = this.#sums;
    const todo = new Bitmap(length);
    const start = first / 8;
    for (let at = 0; at < todo.bytes.length; at += 1) {
      todo.bytes[at] = received.bytes[start + at]! & ~verified.bytes[start + at]!;
    }
    return todo;
  }

  /** Which chunks of the window are to be read now; zeros that need no reading are marked as verified. */
  #toRead(first: number, todo: Bitmap, zeros: 'later' | 'read' | AllocationMap): Bitmap {
    const read = new Bitmap(todo.length);
    for (let at = todo.next(0, true); at < todo.length; at = todo.next(at + 1, true)) {
      const isData = this.#sum(at) !== 0n || zeros === 'read';
      if (isData || (zeros !== 'later' && !zeros.isHole((first + at) * CHUNK_BYTES, CHUNK_BYTES))) {
        read.fill(at, at + 1, true);
      } else if (zeros !== 'later') {
        this.#sums.verified.fill(first + at, first + at + 1, true);
      }
    }
    return read;
  }

  /** Runs of chunks as [from, to) within the window, none longer than a buffer. */
  *#pieces(read: Bitmap): Generator<readonly [number, number]> {
    const longest = this.#buffers[0]!.length / CHUNK_BYTES;
    for (const [from, to] of read.runs()) {
      for (let at = from; at < to; at += longest) yield [at, Math.min(at + longest, to)];
    }
  }

  async #check(buffer: Uint8Array, first: number, from: number, to: number, wrong: number[]): Promise<void> {
    const { sizeBytes } = this.#sums.header;
    const offset = (first + from) * CHUNK_BYTES;
    const length = Math.min((to - from) * CHUNK_BYTES, sizeBytes - offset);
    // A direct read is of whole blocks; at the end of the file it comes back shorter.
    const whole = Math.ceil(length / BLOCK_BYTES) * BLOCK_BYTES;
    const count = await this.#image.read(buffer.subarray(0, whole), offset).catch((error: unknown) => {
      throw diskError(error, `reading the copy back at ${offset}`);
    });
    for (let at = from; at < to; at += 1) {
      const start = (at - from) * CHUNK_BYTES;
      const chunk = buffer.subarray(start, Math.min(start + CHUNK_BYTES, length));
      const sum = this.#sum(at);
      const right = count >= length && (sum === 0n ? isZeroChunk(chunk, chunkSum(chunk)) : chunkSum(chunk) === sum);
      if (right) this.#sums.verified.fill(first + at, first + at + 1, true);
      else wrong.push(first + at);
    }
    if (wrong.length > WRONG_MAX) {
      const message = `over ${WRONG_MAX} chunks read back other than written: this disk cannot be trusted`;
      throw new TransferError('reread_mismatch', message, { offset });
    }
  }

  #sum(at: number): bigint {
    return this.#page.readBigUInt64LE(at * SUM_BYTES);
  }
}
