import { spawn } from 'node:child_process';
import { AllocationMap } from './extents.ts';

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
