import { EXTENT_HOLE, EXTENT_ZERO, type Extent } from '../../nbd/export.ts';

/** Where a file's bytes came from: its extents, or nothing (then all of it counts as data). */
export type MapSource = { readonly kind: 'extents' } | { readonly kind: 'assumed'; readonly reason: string };

/**
 * Which bytes of a raw image are data; all others are holes and read as zeros. Two numbers a data range, ranges that touch
 * are one.
 */
export class AllocationMap {
  readonly sizeBytes: number;
  readonly source: MapSource;
  /** Where the data lies on the device; empty in a map that is assumed. */
  readonly places = new Places();
  readonly #starts: number[] = [];
  readonly #ends: number[] = [];

  constructor(sizeBytes: number, source: MapSource) {
    this.sizeBytes = sizeBytes;
    this.source = source;
  }

  /** A map for a file whose extents cannot be asked for: all data. Zero chunks have to be found by reading. */
  static assumed(sizeBytes: number, reason: string): AllocationMap {
    const map = new AllocationMap(sizeBytes, { kind: 'assumed', reason });
    map.add(0, sizeBytes);
    return map;
  }

  /** Adds a data range; ranges come in order. */
  add(start: number, end: number): void {
    const last = this.#ends.length - 1;
    const until = Math.min(end, this.sizeBytes);
    if (until <= start) return;
    if (last >= 0 && start <= this.#ends[last]!) this.#ends[last] = Math.max(this.#ends[last]!, until);
    else {
      this.#starts.push(start);
      this.#ends.push(until);
    }
  }

  /** Number of data ranges. */
  get rangeCount(): number {
    return this.#starts.length;
  }

  /** Bytes of all data ranges. */
  get dataBytes(): number {
    let bytes = 0;
    for (let i = 0; i < this.#starts.length; i += 1) bytes += this.#ends[i]! - this.#starts[i]!;
    return bytes;
  }

  /** True when no byte between `offset` and `offset + length` is data. */
  isHole(offset: number, length: number): boolean {
    const index = this.#firstBehind(offset);
    return index === this.#starts.length || this.#starts[index]! >= offset + length;
  }

  /** Extents with the flags of `base:allocation`, in order and without gaps, at most `extentsMax`. */
  extents(offset: number, length: number, extentsMax = 8_192): Extent[] {
    const end = Math.min(offset + length, this.sizeBytes);
    const extents: Extent[] = [];
    let at = offset;
    for (let index = this.#firstBehind(offset); at < end && extents.length < extentsMax; ) {
      const start = this.#starts[index] ?? end;
      const data = start <= at;
      const until = Math.min(data ? this.#ends[index]! : start, end);
      extents.push({ offset: at, length: until - at, flags: data ? 0 : EXTENT_HOLE | EXTENT_ZERO });
      at = until;
      if (data) index += 1;
    }
    return extents;
  }

  /** Index of the first range that ends behind `offset`. */
  #firstBehind(offset: number): number {
    let low = 0;
    let high = this.#ends.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#ends[middle]! > offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

/** Bytes of a file and where they lie on the device, in order: three numbers an extent. */
export class Places {
  #rows = new Float64Array(3 * 64);
  #count = 0;

  get count(): number {
    return this.#count;
  }

  /** Adds bytes that lie at `physical`; negative = nobody can tell where, or they may move. */
  add(start: number, end: number, physical: number): void {
    const at = 3 * this.#count;
    if (at === this.#rows.length) {
      const grown = new Float64Array(2 * this.#rows.length);
      grown.set(this.#rows);
      this.#rows = grown;
    }
    this.#rows[at] = start;
    this.#rows[at + 1] = end;
    this.#rows[at + 2] = physical;
    this.#count += 1;
  }

  start(index: number): number {
    return this.#rows[3 * index]!;
  }

  end(index: number): number {
    return this.#rows[3 * index + 1]!;
  }

  /** Where the first byte lies; negative = not known. */
  physical(index: number): number {
    return this.#rows[3 * index + 2]!;
  }
}
