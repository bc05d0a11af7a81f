import type { Extent } from '../../nbd/export.ts';
import { Bitmap } from './bitmap.ts';
import { CHUNK_BYTES, chunkCount } from './chunks.ts';
import type { AllocationMap, Places } from './extents.ts';
import type { ChangedContext } from './file-export.ts';

/**
 * Chunks of `now` whose bytes may differ from those of `base`. Both maps are of files of one size that share blocks, read
 * after a sync, while nobody writes to either and `base` still exists: a block that both have at the same place of the
 * file is then the same block with the same bytes, because whoever wrote to it since was given another one. Everything
 * else may have changed: other places, holes that were data and data that was a hole, and bytes whose place is not certain.
 */
export function changedChunks(base: AllocationMap, now: AllocationMap): Bitmap {
  const { sizeBytes } = now;
  const changed = new Bitmap(chunkCount(sizeBytes));
  if (base.sizeBytes !== sizeBytes || base.source.kind !== 'extents' || now.source.kind !== 'extents') {
    changed.fill(0, changed.length, true);
    return changed;
  }
  const before = new Walk(base.places, sizeBytes);
  const after = new Walk(now.places, sizeBytes);
  for (let at = 0; at < sizeBytes; ) {
    const end = Math.min(before.untilChange(at), after.untilChange(at));
    if (!same(before.placeOf(at), after.placeOf(at))) {
      changed.fill(Math.floor(at / CHUNK_BYTES), Math.ceil(end / CHUNK_BYTES), true);
    }
    at = end;
  }
  return changed;
}

/** Two bytes of a file: both of a hole, or both certainly at the same place of the device. */
function same(before: number | null, after: number | null): boolean {
  if (before === null || after === null) return before === after;
  return before >= 0 && before === after;
}

/** Goes through a file's extents once, from its start to its end. */
class Walk {
  readonly #places: Places;
  readonly #sizeBytes: number;
  #index = 0;

  constructor(places: Places, sizeBytes: number) {
    this.#places = places;
    this.#sizeBytes = sizeBytes;
  }

  /** Where the byte at `at` lies; null in a hole, negative when that is not certain. */
  placeOf(at: number): number | null {
    this.#goTo(at);
    if (this.#index === this.#places.count || this.#places.start(this.#index) > at) return null;
    const physical = this.#places.physical(this.#index);
    return physical < 0 ? physical : physical + (at - this.#places.start(this.#index));
  }

  /** The first byte behind `at` that another extent, or none, has; the file's end when there is none. */
  untilChange(at: number): number {
    this.#goTo(at);
    if (this.#index === this.#places.count) return this.#sizeBytes;
    const start = this.#places.start(this.#index);
    return Math.min(start > at ? start : this.#places.end(this.#index), this.#sizeBytes);
  }

  #goTo(at: number): void {
    while (this.#index < this.#places.count && this.#places.end(this.#index) <= at) this.#index += 1;
  }
}

/** A set of chunks as an NBD context: flag 1 for those in it. */
export function chunksContext(name: string, chunks: Bitmap, sizeBytes: number, extentsMax = 8_192): ChangedContext {
  return {
    name,
    extents(offset, length) {
      const end = Math.min(offset + length, sizeBytes);
      const extents: Extent[] = [];
      for (let at = offset; at < end && extents.length < extentsMax; ) {
        const chunk = Math.floor(at / CHUNK_BYTES);
        const flags = chunks.has(chunk) ? 1 : 0;
        const until = Math.min(chunks.next(chunk, flags === 0) * CHUNK_BYTES, end);
        extents.push({ offset: at, length: until - at, flags });
        at = until;
      }
      return extents;
    },
  };
}

/** Bytes of a set of chunks; the volume's last chunk may be shorter than the others. */
export function bytesOfChunks(chunks: Bitmap, sizeBytes: number): number {
  let bytes = 0;
  for (const [from, to] of chunks.runs()) bytes += Math.min(to * CHUNK_BYTES, sizeBytes) - from * CHUNK_BYTES;
  return bytes;
}
