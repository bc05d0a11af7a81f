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
  for await (const bytes of child.stdout) parser.add(bytes);
  parser.end();
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

/**
 * Takes what `filefrag -v` prints. Extents are read from its bytes, not from texts: a map of many is read while its Machine is
 * down.
 */
export class FilefragParser {
  readonly map: AllocationMap;
  #rest: Buffer = Buffer.alloc(0);
  #blockBytes = 0;
  #table = false;
  #extents = 0;
  #promised: number | null = null;
  #odd: string | null = null;

  constructor(sizeBytes: number) {
    this.map = new AllocationMap(sizeBytes, { kind: 'extents' });
  }

  /** Takes the next bytes of what was printed. */
  add(bytes: Buffer): void {
    const all = this.#rest.length === 0 ? bytes : Buffer.concat([this.#rest, bytes]);
    let from = 0;
    for (let end = all.indexOf(NEWLINE); end >= 0; end = all.indexOf(NEWLINE, from)) {
      this.#line(all, from, end);
      from = end + 1;
    }
    this.#rest = all.subarray(from);
  }

  /** There is nothing more. */
  end(): void {
    if (this.#rest.length > 0) this.#line(this.#rest, 0, this.#rest.length);
    this.#rest = Buffer.alloc(0);
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

  #line(bytes: Buffer, from: number, end: number): void {
    const extent = readExtent(bytes, from, end);
    if (extent !== null) {
      this.#extents += 1;
      this.#extent(extent);
      return;
    }
    const line = bytes.toString('latin1', from, end);
    const size = /^File size of .* is (\d+) \(\d+ blocks? of (\d+) bytes\)$/.exec(line);
    if (size) {
      this.#blockBytes = Number(size[2]);
      if (Number(size[1]) !== this.map.sizeBytes) this.#odd ??= `the file has ${size[1]} bytes`;
    } else if (/^\s*ext:\s+logical_offset:\s+physical_offset:\s+length:/.test(line)) {
      this.#table = true;
    } else if (/FIBMAP/.test(line)) {
      this.#odd ??= 'the file system has no extent map (FIBMAP only)';
    } else if (/^\s*\d+:/.test(line)) {
      this.#odd ??= `filefrag printed a line that is not understood: ${line.trim()}`;
    } else {
      const found = /: (\d+) extents? found$/.exec(line);
      if (found) this.#promised = Number(found[1]);
    }
  }

  #extent({ start, last, physical, flags }: PrintedExtent): void {
    if (!this.#table || this.#blockBytes === 0) {
      this.#odd ??= 'filefrag printed an extent before the head of its table';
      return;
    }
    const names = flags === '' ? [] : flags.split(',');
    const certain = names.every((flag) => CERTAIN.has(flag));
    // Only a plain unwritten extent reads as zeros for certain; delayed, unknown, inline or encoded ones are data.
    if (certain && names.includes('unwritten')) return;
    this.map.add(start * this.#blockBytes, (last + 1) * this.#blockBytes);
    this.map.places.add(
      start * this.#blockBytes,
      (last + 1) * this.#blockBytes,
      certain ? physical * this.#blockBytes : -1,
    );
  }
}

/** A line of the table, in blocks. */
interface PrintedExtent {
  readonly start: number;
  readonly last: number;
  readonly physical: number;
  /** Separated by commas. */
  readonly flags: string;
}

const NEWLINE = 10;
const SPACE = 32;
const DOT = 46;
const ZERO = 48;
const NINE = 57;
const COLON = 58;

/**
 * The extent of a line: number, first and last block of the file, first and last of the device, length, where the one before
 * would have gone on (not always), flags. Null for any other line.
 */
function readExtent(bytes: Buffer, from: number, end: number): PrintedExtent | null {
  // One number for each of these marks behind it; the last one is optional.
  const numbers = [0, 0, 0, 0, 0, 0, 0];
  let at = from;
  for (let index = 0; index < numbers.length; index += 1) {
    while (at < end && bytes[at] === SPACE) at += 1;
    const first = at;
    let number = 0;
    for (; at < end && bytes[at]! >= ZERO && bytes[at]! <= NINE; at += 1) number = number * 10 + bytes[at]! - ZERO;
    const isRange = index === 1 || index === 3;
    const ends = isRange ? bytes[at] === DOT && bytes[at + 1] === DOT : bytes[at] === COLON;
    if (first === at || at >= end || !ends) {
      if (index < 6) return null;
      // A flag without a name is printed as a number.
      at = first;
      break;
    }
    numbers[index] = number;
    at += isRange ? 2 : 1;
  }
  const flags = bytes.toString('latin1', at, end).trim();
  if (flags.includes(' ')) return null;
  return { start: numbers[1]!, last: numbers[2]!, physical: numbers[3]!, flags };
}

/** Flags that leave it certain which bytes lie where; with any other (delalloc, unknown_loc, inline, encoded…) nothing is. */
const CERTAIN = new Set(['last', 'eof', 'shared', 'merged', 'unwritten']);
