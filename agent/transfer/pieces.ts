import { BASE_ALLOCATION, EXTENT_ZERO } from '../../nbd/export.ts';
import { CHUNK_BYTES, chunkCount, isZeroChunk, SUM_BYTES } from './chunks.ts';
import type { PullSource } from './source.ts';

/** Chunks from `from` up to, not including, `to`, which are all zeros or not known to be. */
export interface Piece {
  readonly from: number;
  readonly to: number;
  readonly zero: boolean;
}

/** Most bytes of a volume that one block status request asks about: the most whole chunks that NBD can name in 32 bits. */
export const STATUS_BYTES = 4_294_901_760;

/** The source's allocation from chunk `first` on, as far as one question goes, in runs of whole chunks. */
export async function* zeroRuns(source: PullSource, first: number, sizeBytes: number): AsyncGenerator<Piece> {
  const chunks = chunkCount(sizeBytes);
  const offset = first * CHUNK_BYTES;
  const length = Math.min(STATUS_BYTES, sizeBytes - offset);
  if (!source.contexts.has(BASE_ALLOCATION)) {
    yield { from: first, to: chunkCount(offset + length), zero: false };
    return;
  }
  let from = first;
  let end = offset;
  for (const extent of await source.blockStatus(BASE_ALLOCATION, offset, length)) {
    end = extent.offset + extent.length;
    if ((extent.flags & EXTENT_ZERO) === 0) continue;
    // Only chunks that lie wholly in the zeros are zero; the volume's last may be short.
    const zeroFrom = Math.max(Math.ceil(extent.offset / CHUNK_BYTES), from);
    const to = end >= sizeBytes ? chunks : Math.floor(end / CHUNK_BYTES);
    if (to <= zeroFrom) continue;
    if (zeroFrom > from) yield { from, to: zeroFrom, zero: false };
    yield { from: zeroFrom, to, zero: true };
    from = to;
  }
  const to = end >= sizeBytes ? chunks : Math.max(Math.floor(end / CHUNK_BYTES), first + 1);
  if (to > from) yield { from, to, zero: false };
}

/** Runs of chunks in `data` that are zeros or are not, numbered from 0. */
export function* contentRuns(data: Uint8Array, sums: Buffer): Generator<Piece> {
  const count = sums.length / SUM_BYTES;
  const zeroAt = (index: number): boolean => {
    const start = index * CHUNK_BYTES;
    return isZeroChunk(data.subarray(start, start + CHUNK_BYTES), sums.readBigUInt64LE(index * SUM_BYTES));
  };
  let from = 0;
  let zero = zeroAt(0);
  for (let at = 1; at <= count; at += 1) {
    const next = at < count && zeroAt(at);
    if (at < count && next === zero) continue;
    yield { from, to: at, zero };
    from = at;
    zero = next;
  }
}

/** Lets many take from one generator, each item once. */
export class Turns<T> {
  readonly #items: AsyncGenerator<T>;

  constructor(items: AsyncGenerator<T>) {
    this.#items = items;
  }

  /** The next item; null at the end. An async generator answers calls one after the other. */
  async next(): Promise<T | null> {
    const { value, done } = await this.#items.next();
    return done ? null : (value as T);
  }
}
