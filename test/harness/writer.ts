// A program for a Machine that writes blocks into a file of its volume all the time and says outside, in ACK_PATH, which
// of them are durable. What it does is set by its environment:
//   WRITER_SPAN_MIB          size of the file
//   WRITER_BYTES_PER_SECOND  how fast it writes
//   WRITER_BLOCK_KIB         bytes of a block, a multiple of 4 KiB
//   WRITER_PATTERN           random | sequential | punch (every second write punches a block out instead)
//   WRITER_FILL              full: every block is written first · sparse: every second 4 KiB of the file is, which gives
//                            the image some 60 extents a MiB · none
// Longer than a page because writing and verifying belong together and it runs as one file.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  closeSync,
  constants,
  existsSync,
  fdatasyncSync,
  openSync,
  readFileSync,
  readSync,
  writeSync,
} from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';

const kib = 1024;
const mib = 1024 * kib;
const pageBytes = 4096;
/** A new start of the program numbers its writes far above the last acknowledged one: unanswered writes keep theirs. */
const restartGap = 1_000_000;

/** Content of a block: magic, its write's number, its place, and bytes that follow from both. */
export function blockOf(write: number, place: number, bytes: number): Buffer {
  const block = Buffer.alloc(bytes);
  const seed = createHash('sha256').update(`${write} ${place}`).digest();
  for (let at = 0; at < bytes; at += seed.length) seed.copy(block, at);
  block.writeUInt32BE(0x57_52_49_54, 0);
  block.writeUIntBE(write, 4, 6);
  block.writeUIntBE(place, 10, 6);
  return block;
}

/** What a writer said of one place. */
export interface Said {
  /** Newest acknowledged write; negative when it punched the block out. 0 = none yet. */
  readonly write: number;
  /** A punch was begun after it: done or not. */
  readonly isPunching: boolean;
}

/** What a writer said, by place. Lines are "PLACE WRITE", with WRITE negative for a punch, and "PLACE punch" before one. */
export function readAcknowledged(path: string): Map<number, Said> {
  const said = new Map<number, Said>();
  const text = existsSync(path) ? readFileSync(path, 'utf8') : '';
  for (const line of text.slice(0, text.lastIndexOf('\n') + 1).split('\n')) {
    const [place, what] = line.split(' ');
    if (what === undefined) continue;
    const before = said.get(Number(place))?.write ?? 0;
    const isPunching = what === 'punch';
    said.set(Number(place), { write: isPunching ? before : Number(what), isPunching });
  }
  return said;
}

/** Acknowledged blocks that a file does not hold, in words; the first few. */
export function missingBlocks(file: string, acknowledged: ReadonlyMap<number, Said>, blockBytes: number): string[] {
  const problems: string[] = [];
  const handle = openSync(file, 'r');
  const block = Buffer.alloc(blockBytes);
  for (const [place, { write, isPunching }] of acknowledged) {
    if (problems.length >= 10) break;
    block.fill(0);
    readSync(handle, block, 0, blockBytes, place * blockBytes);
    const found = block.readUInt32BE(0) === 0 ? 0 : block.readUIntBE(4, 6);
    const right = found === 0 ? block.every((byte) => byte === 0) : block.equals(blockOf(found, place, blockBytes));
    if (!right) problems.push(`place ${place}: the block is damaged (says write ${found}, acknowledged ${write})`);
    // A punched or newer block may be there too: a write that was done and not acknowledged before the stop.
    else if (found !== 0 && found < Math.abs(write))
      problems.push(`place ${place}: write ${found} instead of ${write}`);
    else if (found === 0 && write > 0 && !isPunching) problems.push(`place ${place}: empty instead of write ${write}`);
  }
  closeSync(handle);
  return problems;
}

/** Writes until it is told to stop. */
class Writer {
  readonly #file: number;
  readonly #path: string;
  readonly #ackPath: string;
  readonly #blockBytes: number;
  readonly #places: number;
  readonly #pattern: string;
  #write: number;
  #place = 0;

  constructor(path: string, ackPath: string, env: NodeJS.ProcessEnv) {
    this.#path = path;
    this.#ackPath = ackPath;
    this.#blockBytes = Number(env.WRITER_BLOCK_KIB ?? 4) * kib;
    this.#places = Math.floor((Number(env.WRITER_SPAN_MIB ?? 64) * mib) / this.#blockBytes);
    this.#pattern = env.WRITER_PATTERN ?? 'random';
    const isNew = !existsSync(path);
    this.#file = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
    const newest = [...readAcknowledged(ackPath).values()].map(({ write }) => Math.abs(write));
    this.#write = newest.reduce((most, each) => Math.max(most, each), 0) + restartGap;
    if (isNew) this.#fill(env.WRITER_FILL ?? 'none');
  }

  #fill(how: string): void {
    const sizeBytes = this.#places * this.#blockBytes;
    if (how === 'full') {
      const batch = Math.max(1, Math.floor((4 * mib) / this.#blockBytes));
      for (let place = 0; place < this.#places; place += batch) {
        const places = Array.from({ length: Math.min(batch, this.#places - place) }, (_, index) => place + index);
        const blocks = places.map((each) => blockOf(this.#write, each, this.#blockBytes));
        writeSync(this.#file, Buffer.concat(blocks), 0, places.length * this.#blockBytes, place * this.#blockBytes);
        fdatasyncSync(this.#file);
        this.#acknowledge(places.map((each) => [each, this.#write]));
      }
    }
    if (how === 'sparse') {
      // Blocks of the file system that belong together, and are written one by one with gaps between.
      execFileSync('fallocate', ['-l', String(sizeBytes), this.#path]);
      const page = Buffer.alloc(pageBytes, 0x5a);
      for (let at = 0; at < sizeBytes; at += 2 * pageBytes) writeSync(this.#file, page, 0, pageBytes, at);
      fdatasyncSync(this.#file);
    }
  }

  /** Writes `count` blocks and syncs them, then acknowledges them. */
  batch(count: number): void {
    const done: [number, number][] = [];
    for (let index = 0; index < count; index += 1) {
      this.#place = this.#pattern === 'sequential' ? this.#place + 1 : Math.floor(Math.random() * this.#places);
      const place = this.#place % this.#places;
      this.#write += 1;
      const write = this.#write;
      if (this.#pattern === 'punch' && index % 2 === 1) {
        appendFileSync(this.#ackPath, `${place} punch\n`);
        const range = ['--offset', String(place * this.#blockBytes), '--length', String(this.#blockBytes)];
        execFileSync('fallocate', ['--punch-hole', ...range, this.#path]);
        done.push([place, -write]);
      } else {
        writeSync(this.#file, blockOf(write, place, this.#blockBytes), 0, this.#blockBytes, place * this.#blockBytes);
        done.push([place, write]);
      }
    }
    fdatasyncSync(this.#file);
    this.#acknowledge(done);
  }

  #acknowledge(done: readonly (readonly [number, number])[]): void {
    appendFileSync(this.#ackPath, done.map(([place, write]) => `${place} ${write}\n`).join(''));
  }
}

if (import.meta.main) {
  const { FERRY_VOLUME_PATH = '', FERRY_BIND_IP = '', ACK_PATH = '', PORT = '8080' } = process.env;
  const writer = new Writer(join(FERRY_VOLUME_PATH, 'blocks'), ACK_PATH, process.env);
  const blockBytes = Number(process.env.WRITER_BLOCK_KIB ?? 4) * kib;
  const bytesPerSecond = Number(process.env.WRITER_BYTES_PER_SECOND ?? mib);
  const tickMs = 20;
  let owed = 0;
  let lastMs = performance.now();
  setInterval(() => {
    const nowMs = performance.now();
    // A disk that is slower than the rate is not owed more than a second of it.
    owed = Math.min(owed + ((nowMs - lastMs) / 1000) * bytesPerSecond, bytesPerSecond);
    lastMs = nowMs;
    const count = Math.floor(owed / blockBytes);
    if (count === 0) return;
    writer.batch(count);
    owed -= count * blockBytes;
  }, tickMs);
  createServer((_, response) => response.end('writing\n')).listen(Number(PORT), FERRY_BIND_IP);
  process.once('SIGINT', () => process.exit(0));
}
