import { spawn } from 'node:child_process';
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

/**
 * Reads the allocation map of a file that nobody writes to, after syncing it. Never rejects for a missing `filefrag` or a
 * file system without extent maps: then everything is data, and `source` says why.
 */
export async function readMap(path: string, sizeBytes: number): Promise<AllocationMap> {
  const child = spawn('filefrag', ['-s', '-v', path], {
    stdio: ['ignore', 'pipe', 'ignore'],
    // Ordinary users often lack the sbin folders, where filefrag is.
    env: { ...process.env, LC_ALL: 'C', PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` },
  });
  const exited = new Promise<string | null>((resolve) => {
    child.once('error', (error) => resolve(`filefrag cannot be run: ${error.message}`));
    child.once('close', (code) => resolve(code === 0 ? null : `filefrag ended with ${code}`));
  });
  const parser = new FilefragParser(sizeBytes);
  // Cut by hand: a map of many extents is read while its Machine is down, and readline takes several times as long.
  let rest = '';
  for await (const text of child.stdout.setEncoding('latin1')) {
    const lines = `${rest}${text}`.split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) parser.line(line);
  }
  if (rest !== '') parser.line(rest);
  const failure = (await exited) ?? parser.failure();
  return failure === null ? parser.map : AllocationMap.assumed(sizeBytes, failure);
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

/** Takes the lines of `filefrag -v`. */
export class FilefragParser {
  readonly map: AllocationMap;
  #blockBytes = 0;
  #table = false;
  #extents = 0;
  #promised: number | null = null;
  #odd: string | null = null;

  constructor(sizeBytes: number) {
    this.map = new AllocationMap(sizeBytes, { kind: 'extents' });
  }

  line(line: string): void {
    const size = /^File size of .* is (\d+) \(\d+ blocks? of (\d+) bytes\)$/.exec(line);
    if (size) {
      this.#blockBytes = Number(size[2]);
      if (Number(size[1]) !== this.map.sizeBytes) this.#odd ??= `the file has ${size[1]} bytes`;
    } else if (/^\s*ext:\s+logical_offset:\s+physical_offset:\s+length:/.test(line)) {
      this.#table = true;
    } else if (/FIBMAP/.test(line)) {
      this.#odd ??= 'the file system has no extent map (FIBMAP only)';
    } else if (/^\s*\d+:/.test(line)) {
      this.#extents += 1;
      this.#extent(line);
    } else {
      const found = /: (\d+) extents? found$/.exec(line);
      if (found) this.#promised = Number(found[1]);
    }
  }

  /** Why the lines cannot be used; null when they can. */
  failure(): string | null {
    if (this.#odd !== null) return this.#odd;
    if (this.#blockBytes === 0) return 'filefrag printed no size';
    // Neighbouring pieces may be counted as one, so more lines are fine; fewer would turn data into a hole.
    if (this.#promised === null || this.#extents < this.#promised) {
      return `filefrag printed ${this.#extents} extents and found ${this.#promised}`;
    }
    return null;
  }

  #extent(line: string): void {
    const fields = /^\s*\d+:\s*(\d+)\.\.\s*(\d+):\s*(\d+)\.\.\s*\d+:\s*\d+:(?:\s*\d+:)?\s*(\S*)\s*$/.exec(line);
    if (!fields || !this.#table || this.#blockBytes === 0) {
      this.#odd ??= `filefrag printed a line that is not understood: ${line.trim()}`;
      return;
    }
    const [start, last, physical] = fields.slice(1, 4).map(Number) as [number, number, number];
    const flags = fields[4]!.split(',');
    const certain = flags.every((flag) => CERTAIN.has(flag));
    // Only a plain unwritten extent reads as zeros for certain; delayed, unknown, inline or encoded ones are data.
    if (certain && flags.includes('unwritten')) return;
    this.map.add(start * this.#blockBytes, (last + 1) * this.#blockBytes);
    this.map.places.add(
      start * this.#blockBytes,
      (last + 1) * this.#blockBytes,
      certain ? physical * this.#blockBytes : -1,
    );
  }
}

/** Flags that leave it certain which bytes lie where; with any other (delalloc, unknown_loc, inline, encoded…) nothing is. */
const CERTAIN = new Set(['', 'last', 'eof', 'shared', 'merged', 'unwritten']);
