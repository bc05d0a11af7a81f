// Past 300 lines: one file format with one rule for all its writers, that what is durable never says more than is true.
import { Bitmap } from './bitmap.ts';
import { CHUNK_BYTES, SUM_BYTES } from './chunks.ts';
import type { Disk, DiskFile } from './disk.ts';
import { diskError } from './error.ts';
import type { AllocationMap } from './extents.ts';
import { memoryDisk } from './memory-file.ts';
import { RootHash } from './root.ts';
import { type FilePiece, filePieces, PieceSummer } from './sum-pieces.ts';
import { SumsFile } from './sums.ts';

/** Chunks whose sums are worked on at a time: 512 MiB of volume, a page of 64 KiB. */
const WINDOW_CHUNKS = 8_192;
/** Bytes of sums between two records, so that a killed agent forgets little: 256 MiB of volume. */
const RECORD_SUMS = 4_096;

export interface ServedSumsOptions {
  readonly disk: Disk;
  /** A flat file beside the image. */
  readonly path: string;
  readonly sizeBytes: number;
  /** Of the source's image, so that sums of another one are not taken for its own. */
  readonly imageInode: number;
}

/**
 * The sums that a source knows of the chunks of one snapshot, kept in a flat file beside the image. A sum that is not
 * durable when the agent is killed is unknown afterwards, never wrong.
 */
export class ServedSums {
  readonly sizeBytes: number;
  readonly chunkCount: number;
  /** False when there was no room for the file: then a restarted agent knows nothing. */
  readonly isDurable: boolean;
  readonly #file: SumsFile;
  /** Sums that are in the file; those that are durable, too, are in the file's own bitmap. */
  readonly #known: Bitmap;
  #snapshot: string;
  #unrecorded: (readonly [number, number])[] = [];
  #unrecordedCount = 0;
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(file: SumsFile, isDurable = true) {
    this.#file = file;
    this.isDurable = isDurable;
    this.sizeBytes = file.header.sizeBytes;
    this.chunkCount = file.chunkCount;
    this.#snapshot = file.header.snapshot;
    this.#known = new Bitmap(file.chunkCount, Uint8Array.from(file.received.bytes));
  }

  /** Opens what is there; null when there is nothing of this image. */
  static async resume({ disk, path, sizeBytes, imageInode }: ServedSumsOptions): Promise<ServedSums | null> {
    const file = await SumsFile.open(disk, path);
    if (file?.header.sizeBytes === sizeBytes && file.header.imageInode === imageInode) return new ServedSums(file);
    await file?.close();
    return null;
  }

  /**
   * Makes a file that knows nothing, in place of what was there, with all the room that it will need. On a full disk the
   * sums are kept in memory: a host must be emptied above all when it is full.
   */
  static async create(options: ServedSumsOptions, snapshot: string): Promise<ServedSums> {
    const { disk, path, sizeBytes, imageInode } = options;
    const header = { sizeBytes, snapshot, imageInode, fresh: false, repaired: false };
    let file: SumsFile | null = null;
    try {
      file = await SumsFile.create(disk, path, header);
      for (let first = 0; first < file.chunkCount; first += WINDOW_CHUNKS) {
        const count = Math.min(WINDOW_CHUNKS, file.chunkCount - first);
        await file.writeSums(new Uint8Array(count * SUM_BYTES), first);
      }
      await file.record();
      return new ServedSums(file);
    } catch (error) {
      await file?.close();
      const failure = diskError(error, 'keeping the sums of the volume');
      if (failure.reason !== 'no_space') throw failure;
      await disk.remove(path);
      return new ServedSums(await SumsFile.create(memoryDisk, path, header), false);
    }
  }

  /** Name of the snapshot whose bytes the sums are of. */
  get snapshot(): string {
    return this.#snapshot;
  }

  /** Number of chunks whose sums are not known. */
  get unknownCount(): number {
    return this.chunkCount - this.#known.count();
  }

  has(chunk: number): boolean {
    return this.#known.has(chunk);
  }

  /** Whether all chunks from `from` up to, not including, `to` are known. */
  hasAll(from: number, to: number): boolean {
    return this.#known.next(from, false) >= to;
  }

  /** Notes the sums of chunks of `snapshot` from `first` on; ignored when another snapshot's are kept by now. */
  put(snapshot: string, first: number, sums: Uint8Array): Promise<void> {
    return this.#inTurn(async () => {
      if (snapshot !== this.#snapshot) return;
      await this.#file.writeSums(sums, first);
      await this.#learned(first, first + sums.length / SUM_BYTES);
    });
  }

  /**
   * Notes what a reader of a file in use is about to be told of its chunks from `first` on. What was told otherwise before is
   * forgotten durably first, so that an older sum can never come back for newer bytes.
   *
   * @param isCurrent asked when it is this one's turn; false: a newer reader has come, and nothing is noted
   * @returns false when nothing was noted: then nothing may be told
   */
  tell(first: number, sums: Uint8Array, isCurrent: () => boolean): Promise<boolean> {
    return this.#inTurn(async () => {
      if (!isCurrent()) return false;
      const before = Buffer.alloc(sums.length);
      await this.#file.readSums(before, first);
      await this.#forgetDurably(differing(before, sums, first, (chunk) => this.#known.has(chunk)));
      if (!before.equals(sums)) await this.#file.writeSums(sums, first);
      await this.#learned(first, first + sums.length / SUM_BYTES);
      return true;
    });
  }

  /**
   * As `tell`, of chunks up to, not including, `end` that are holes. A reader takes the zeros only of chunks that it does not
   * have: what it was told otherwise is not known any more, and only the first one is known to have nothing else.
   */
  tellHoles(
    first: number,
    end: number,
    { isCurrent, isFirst }: { readonly isCurrent: () => boolean; readonly isFirst: boolean },
  ): Promise<boolean> {
    return this.#inTurn(async () => {
      if (!isCurrent()) return false;
      for (let from = first; from < end; from += WINDOW_CHUNKS) {
        const to = Math.min(from + WINDOW_CHUNKS, end);
        const before = Buffer.alloc((to - from) * SUM_BYTES);
        await this.#file.readSums(before, from);
        const zeros = Buffer.alloc(before.length);
        const otherwise = differing(before, zeros, from, (chunk) => this.#known.has(chunk));
        for (let at = isFirst ? this.#known.next(from, false) : to; at < to; at = this.#known.next(at, false)) {
          const until = Math.min(this.#known.next(at, true), to);
          await this.#file.writeSums(zeros.subarray(0, (until - at) * SUM_BYTES), at);
          await this.#learned(at, until);
          at = until;
        }
        await this.#forgetDurably(otherwise);
      }
      return true;
    });
  }

  /** Goes over to another snapshot: chunks in `changed` (null = all) are unknown from here on. Durable when it resolves. */
  moveTo(snapshot: string, changed: Bitmap | null): Promise<void> {
    return this.#inTurn(async () => {
      if (changed === null) this.#forget(0, this.chunkCount);
      else for (const [from, to] of changed.runs()) this.#forget(from, to);
      const isNamed = this.#isNamed;
      if (!isNamed) this.#file.received.fill(0, this.chunkCount, false);
      // First the bits, then the name: after a crash in between, less is known of the old one.
      await (isNamed ? this.#record() : this.#file.record());
      await this.#file.setHeader({ ...this.#file.header, snapshot });
      this.#snapshot = snapshot;
      if (isNamed) return;
      this.#unrecorded = [[0, this.chunkCount]];
      await this.#record();
    });
  }

  /**
   * As `moveTo`, but of the new name nothing is durable yet: a restarted agent finds the old one, without what changed. For
   * the stopped volume, while its Machine is down.
   */
  moveSoonTo(snapshot: string, changed: Bitmap): Promise<void> {
    return this.#inTurn(async () => {
      for (const [from, to] of changed.runs()) this.#forget(from, to);
      await this.#record();
      this.#snapshot = snapshot;
    });
  }

  /** Forgets chunks, durably. */
  forget(chunks: Bitmap): Promise<void> {
    return this.#inTurn(async () => {
      for (const [from, to] of chunks.runs()) this.#forget(from, to);
      await this.#record();
    });
  }

  /** Notes the sums of all chunks of `snapshot` that are holes of its map: those are never served. */
  async putHoles(snapshot: string, map: AllocationMap): Promise<void> {
    for (let first = 0; first < this.chunkCount; first += WINDOW_CHUNKS) {
      const end = Math.min(first + WINDOW_CHUNKS, this.chunkCount);
      await this.#inTurn(async () => {
        if (snapshot !== this.#snapshot || this.hasAll(first, end)) return;
        const page = Buffer.alloc((end - first) * SUM_BYTES);
        await this.#file.readSums(page, first);
        let touched = false;
        for (let chunk = this.#known.next(first, false); chunk < end; chunk = this.#known.next(chunk + 1, false)) {
          if (!map.isHole(chunk * CHUNK_BYTES, CHUNK_BYTES)) continue;
          const at = (chunk - first) * SUM_BYTES;
          touched ||= page.readBigUInt64LE(at) !== 0n;
          page.fill(0, at, at + SUM_BYTES);
          this.#known.fill(chunk, chunk + 1, true);
        }
        if (touched) await this.#file.writeSums(page, first);
        this.#unrecorded.push([first, end]);
      });
    }
  }

  /**
   * Reads every chunk from `image` that is not known yet; holes of `map` are not read. Nobody may write to the image
   * meanwhile, unless `tell` decides later what of it is believed. Rejects with a `TransferError`.
   */
  async fill(
    { image, map }: { image: DiskFile; map: AllocationMap },
    { signal, onProgress }: { signal: AbortSignal; onProgress?: (bytesRead: number) => void },
  ): Promise<void> {
    const summer = new PieceSummer(image);
    const snapshot = this.#snapshot;
    const isHole = (offset: number, length: number): boolean => map.isHole(offset, length);
    const learn = new Bitmap(Math.min(WINDOW_CHUNKS, this.chunkCount));
    for (let first = 0; first < this.chunkCount; first += WINDOW_CHUNKS) {
      signal.throwIfAborted();
      const end = Math.min(first + WINDOW_CHUNKS, this.chunkCount);
      if (this.hasAll(first, end)) continue;
      learn.fill(0, learn.length, false);
      const page = Buffer.alloc((end - first) * SUM_BYTES);
      await this.#onDisk(() => this.#file.readSums(page, first));
      const before = Buffer.from(page);
      const pieces = function* (this: ServedSums): Generator<FilePiece> {
        for (let from = this.#known.next(first, false); from < end; from = this.#known.next(from, false)) {
          const to = Math.min(this.#known.next(from, true), end);
          learn.fill(from - first, to - first, true);
          const bytes = { offset: from * CHUNK_BYTES, end: Math.min(to * CHUNK_BYTES, this.sizeBytes) };
          yield* filePieces(bytes, isHole);
          from = to;
        }
      };
      const take = (piece: FilePiece, sums: Buffer | null): void => {
        const at = (piece.offset / CHUNK_BYTES - first) * SUM_BYTES;
        if (sums) page.set(sums, at);
        else page.fill(0, at, at + Math.ceil(piece.length / CHUNK_BYTES) * SUM_BYTES);
        if (sums) onProgress?.(piece.length);
      };
      await summer.run(pieces.call(this), take, signal);
      await this.#inTurn(async () => {
        if (snapshot !== this.#snapshot) return;
        for (const [from, to] of learn.runs()) {
          const part = page.subarray(from * SUM_BYTES, to * SUM_BYTES);
          if (!part.equals(before.subarray(from * SUM_BYTES, to * SUM_BYTES))) {
            await this.#onDisk(() => this.#file.writeSums(part, first + from));
          }
          await this.#learned(first + from, first + to);
        }
      });
    }
  }

  /** Root over all chunks. Throws when one is unknown. */
  async root(): Promise<string> {
    if (this.unknownCount > 0) throw new Error(`${this.unknownCount} chunks are not summed yet`);
    const hash = new RootHash(this.sizeBytes);
    for await (const { page } of this.#pages()) hash.add(page);
    return hash.digest();
  }

  /** Chunks whose sums differ from those in `base`, or of which either side does not know the sum. */
  async differing(base: ServedSums): Promise<Bitmap> {
    const changed = new Bitmap(this.chunkCount);
    changed.fill(0, changed.length, true);
    if (base.sizeBytes !== this.sizeBytes) return changed;
    const others = base.#pages();
    for await (const { first, page } of this.#pages()) {
      const other = (await others.next()).value as { page: Buffer };
      const [mine, theirs] = [halves(page), halves(other.page)];
      for (let at = 0; at < mine.length; at += 2) {
        const chunk = first + at / 2;
        const equal = mine[at] === theirs[at] && mine[at + 1] === theirs[at + 1];
        if (equal && this.#known.has(chunk) && base.#known.has(chunk)) changed.fill(chunk, chunk + 1, false);
      }
    }
    return changed;
  }

  /** Writes all sums into the state of a copy whose chunks are all there. Durable when it resolves. */
  async copyTo(state: SumsFile): Promise<void> {
    for await (const { first, page } of this.#pages()) await state.writeSums(page, first);
    state.received.fill(0, state.chunkCount, true);
    await state.record();
  }

  /** Makes all that is known durable. */
  record(): Promise<void> {
    return this.#inTurn(() => this.#record());
  }

  /** Waits for what is under way and closes the file. */
  async close(): Promise<void> {
    await this.#inTurn(() => this.#file.close());
  }

  async *#pages(): AsyncGenerator<{ first: number; page: Buffer }> {
    for (let first = 0; first < this.chunkCount; first += WINDOW_CHUNKS) {
      const page = Buffer.alloc(Math.min(WINDOW_CHUNKS, this.chunkCount - first) * SUM_BYTES);
      await this.#onDisk(() => this.#file.readSums(page, first));
      yield { first, page };
    }
  }

  async #learned(from: number, to: number): Promise<void> {
    this.#known.fill(from, to, true);
    this.#unrecorded.push([from, to]);
    this.#unrecordedCount += to - from;
    if (this.#unrecordedCount >= RECORD_SUMS) await this.#record();
  }

  async #record(): Promise<void> {
    // Sums of a snapshot whose name is not in the file are not for a restarted agent.
    if (!this.#isNamed) this.#unrecorded = [];
    const runs = this.#unrecorded;
    this.#unrecorded = [];
    this.#unrecordedCount = 0;
    // What was forgotten meanwhile stays so.
    for (const [from, to] of runs) {
      for (let chunk = from; chunk < to; chunk += 1) {
        if (this.#known.has(chunk)) this.#file.received.fill(chunk, chunk + 1, true);
      }
    }
    await this.#file.record();
  }

  get #isNamed(): boolean {
    return this.#snapshot === this.#file.header.snapshot;
  }

  async #forgetDurably(chunks: readonly number[]): Promise<void> {
    if (chunks.length === 0) return;
    for (const chunk of chunks) this.#forget(chunk, chunk + 1);
    await this.#file.record();
  }

  #forget(from: number, to: number): void {
    this.#known.fill(from, to, false);
    this.#file.received.fill(from, to, false);
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(work);
    this.#turn = mine.catch(() => {});
    return mine;
  }

  async #onDisk(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      throw diskError(error, 'keeping the sums of the volume');
    }
  }
}

/** Chunks that are known and whose two sums differ; both buffers begin at chunk `first`. */
function differing(a: Uint8Array, b: Uint8Array, first: number, isKnown: (chunk: number) => boolean): number[] {
  const [some, others] = [halves(a), halves(b)];
  const chunks: number[] = [];
  for (let at = 0; at < some.length; at += 2) {
    const chunk = first + at / 2;
    const equal = some[at] === others[at] && some[at + 1] === others[at + 1];
    if (!equal && isKnown(chunk)) chunks.push(chunk);
  }
  return chunks;
}

/** Sums as two numbers each, which compare faster than one of 64 bits. */
function halves(sums: Uint8Array): Uint32Array {
  const aligned = sums.byteOffset % 4 === 0 ? sums : Uint8Array.from(sums);
  return new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4);
}
