import { constants } from 'node:fs';
import { copyFile, type FileHandle, mkdir, open, rename, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { StringDecoder } from 'node:string_decoder';
import type { ReadLogOptions } from '../runtime.ts';
import { DirectoryWatch, type Sleeper } from './watch.ts';

/** Above this size the log is moved aside; one old log is kept. */
const LOG_BYTES_MAX = 16 * 1024 * 1024;
/** How far back from its end a log is read for `tailLines`. */
const TAIL_BYTES_MAX = 4 * 1024 * 1024;
const TAIL_LINES_MAX = 10_000;
/** A longer line is given in pieces. */
const LINE_LENGTH_MAX = 64 * 1024;
const BLOCK_BYTES = 64 * 1024;
/** How often a followed log is looked at when no change is reported. */
const FOLLOW_INTERVAL_MS = 1000;

/** What a Machine's programs write: `output.log`, and `output.log.1` before it. */
export class Log {
  readonly #directory: string;
  readonly #path: string;
  readonly #bytesMax: number;

  constructor(directory: string, bytesMax = LOG_BYTES_MAX) {
    this.#directory = directory;
    this.#path = join(directory, 'output.log');
    this.#bytesMax = bytesMax;
  }

  /** Opens it for a program. Append-only, so that writing goes on at the start after a rotation. */
  async openForAppend(): Promise<FileHandle> {
    await mkdir(this.#directory, { recursive: true });
    return open(this.#path, 'a', 0o600);
  }

  /**
   * Moves the content aside when it is too large. The program keeps its descriptor, so the content is copied and the
   * file emptied; what is written between the two is lost.
   */
  async rotate(): Promise<void> {
    const size = await sizeOf(this.#path);
    if (size <= this.#bytesMax) return;
    await copyFile(this.#path, `${this.#path}.new`, constants.COPYFILE_FICLONE);
    await rename(`${this.#path}.new`, `${this.#path}.1`);
    await truncate(this.#path);
  }

  /** Gives the last lines, and goes on with new ones if asked to. Ends when `signal` aborts. */
  async *read(options: ReadLogOptions, clock: Sleeper): AsyncIterable<string> {
    const watch = options.follow ? await DirectoryWatch.on(this.#directory) : undefined;
    try {
      const lines = new Lines();
      let offset = await sizeOf(this.#path);
      const tail = await this.#tail(offset, lines);
      if (watch === undefined) tail.push(...lines.end());
      const count = Math.min(options.tailLines, TAIL_LINES_MAX);
      yield* tail.slice(Math.max(0, tail.length - count));
      if (watch === undefined) return;
      while (!options.signal.aborted) {
        const size = await sizeOf(this.#path);
        if (size < offset) {
          // Rotated: the rest of what was there is in the old log, at the same place.
          for await (const block of blocks(`${this.#path}.1`, offset, Infinity)) yield* lines.push(block);
          offset = 0;
          continue;
        }
        for await (const block of blocks(this.#path, offset, size)) {
          offset += block.length;
          yield* lines.push(block);
        }
        await watch.next(FOLLOW_INTERVAL_MS, clock, options.signal).catch((error) => {
          if (!options.signal.aborted) throw error;
        });
      }
    } finally {
      watch?.close();
    }
  }

  /** At least the last TAIL_LINES_MAX whole lines before `end`, as far as they are near it; an unfinished one stays in `lines`. */
  async #tail(end: number, lines: Lines): Promise<string[]> {
    const kept: string[] = [];
    const read = async (path: string, from: number, to: number): Promise<void> => {
      for await (const block of blocks(path, from, to)) {
        for (const line of lines.push(block)) kept.push(line);
        if (kept.length > 2 * TAIL_LINES_MAX) kept.splice(0, kept.length - TAIL_LINES_MAX);
      }
    };
    const oldSize = await sizeOf(`${this.#path}.1`);
    if (end < TAIL_BYTES_MAX) await read(`${this.#path}.1`, Math.max(0, oldSize - TAIL_BYTES_MAX), oldSize);
    await read(this.#path, Math.max(0, end - TAIL_BYTES_MAX), end);
    return kept;
  }
}

/** Cuts bytes into lines. */
class Lines {
  readonly #decoder = new StringDecoder('utf8');
  #rest = '';

  push(bytes: Buffer): string[] {
    const parts = (this.#rest + this.#decoder.write(bytes)).split('\n');
    this.#rest = parts.pop()!;
    if (this.#rest.length > LINE_LENGTH_MAX) {
      parts.push(this.#rest);
      this.#rest = '';
    }
    return parts.flatMap(pieces);
  }

  /** The line without an end, if there is one. */
  end(): string[] {
    return this.#rest === '' ? [] : [this.#rest];
  }
}

function pieces(line: string): string[] {
  if (line.length <= LINE_LENGTH_MAX) return [line];
  return [line.slice(0, LINE_LENGTH_MAX), ...pieces(line.slice(LINE_LENGTH_MAX))];
}

/** The bytes of a file from one offset to another, or to its end. A file that does not exist is empty. */
async function* blocks(path: string, from: number, to: number): AsyncIterable<Buffer> {
  const file = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
    return undefined;
  });
  if (file === undefined) return;
  try {
    for (let offset = from; offset < to; ) {
      const length = Math.min(BLOCK_BYTES, to - offset);
      const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(length), 0, length, offset);
      if (bytesRead === 0) return;
      offset += bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await file.close();
  }
}

function sizeOf(path: string): Promise<number> {
  return stat(path).then(
    (found) => found.size,
    () => 0,
  );
}
