/**
 * The destination's side of a volume copy. Longer than most files because one copy is one story: open or start over,
 * connect, fetch what is missing, record what is durable, read it back, repair once.
 */
import { NbdError } from '../../nbd/error.ts';
import type { Clock } from '../../shared/clock.ts';
import { alignedBuffers } from './aligned.ts';
import { Bitmap } from './bitmap.ts';
import { CHUNK_BYTES, chunkCount, SUM_BYTES, writeSums } from './chunks.ts';
import { type Disk, type DiskFile, hostDisk } from './disk.ts';
import { diskError, TransferError } from './error.ts';
import type { Limiter } from './limiter.ts';
import { contentRuns, type Piece, STATUS_BYTES, Turns, zeroRuns } from './pieces.ts';
import { Rate } from './rate.ts';
import { settleAll } from './settle.ts';
import type { PullSource } from './source.ts';
import { SumsFile } from './sums.ts';
import { Verifier, WINDOW_CHUNKS } from './verify.ts';

export interface PullProgress {
  readonly bytesTotal: number;
  /** Bytes of the volume that are here, holes and what earlier runs and rounds brought included. */
  readonly bytesDone: number;
  /** Bytes of chunks that are here from the base, because they have not changed since. */
  readonly bytesKept: number;
  /** Bytes of chunks that an earlier run had recorded. */
  readonly bytesResumed: number;
  /** Bytes that travelled in this run. */
  readonly bytesTransferred: number;
  /** Bytes of the volume that came to be here per second, over the last seconds. */
  readonly bytesPerSecond: number;
  readonly phase: 'connecting' | 'copying' | 'verifying';
}

export interface PullOptions {
  /** Opens a connection that ends when the signal aborts, with `base:allocation` and the base's context asked for. */
  readonly connect: (signal: AbortSignal) => Promise<PullSource>;
  /** The raw image; made when missing. */
  readonly imagePath: string;
  /** The sums and what has been received; belongs to the image. */
  readonly statePath: string;
  readonly sizeBytes: number;
  /** Name of the bytes that the export serves: they never change under one name. */
  readonly snapshot: string;
  /**
   * When the state is for this older snapshot, chunks that `context` (flag 1 = changed since) does not name are kept.
   * Without it, or when the state is for another snapshot, the copy starts over.
   */
  readonly base?: { readonly snapshot: string; readonly context: string };
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly onProgress?: (progress: PullProgress) => void;
  readonly limiter?: Limiter;
  /** Read back what was written; default true. */
  readonly verify?: boolean;
  /** Give up when no chunk arrives for so long; default 10 minutes. */
  readonly giveUpAfterMs?: number;
  /** Bytes between two records of what has been received; default 64 MiB. */
  readonly recordEveryBytes?: number;
  readonly disk?: Disk;
}

export interface PullResult {
  readonly root: string;
  /** Bytes that travelled in this run. */
  readonly bytesTransferred: number;
  /** Bytes of chunks that were kept from the base, because they have not changed since. */
  readonly bytesKept: number;
  /** Bytes of chunks that an earlier run had recorded. */
  readonly bytesResumed: number;
  /** Bytes of zeros that were not written in this run. */
  readonly bytesZero: number;
  /** Bytes asked for again because they were read back wrong; not zero means a disk to replace. */
  readonly bytesRepaired: number;
  /** Everything was read back from the device; false when only from the page cache, or not at all. */
  readonly rereadDirect: boolean;
  /** Connections that came to stand. */
  readonly connections: number;
}

const REQUEST_BYTES = 1_048_576;
/** Buffers, each with one request or its write under way. */
const REQUESTS = 16;
const REREADS = 4;
/** With no more chunks than this to read back, holes are read like everything else: a map would take longer. */
const UNMAPPED_CHUNKS_MAX = 4_096;
/** Runs of chunks that wait to be recorded, before a record is due. */
const RUNS_MAX = 4_096;
const BACKOFF_MS_MIN = 100;
const BACKOFF_MS_MAX = 5_000;
const PROGRESS_EVERY_MS = 200;

/**
 * Copies one export into a sparse raw image and returns when every byte is durable, read back and equal. Whatever breaks
 * the connection is waited out and resumed; a call after any end (a killed process included) goes on where the last one
 * had recorded. Rejects with a `TransferError`.
 */
export async function pullVolume(options: PullOptions): Promise<PullResult> {
  const pull = await Pull.open(options);
  try {
    return await pull.run();
  } finally {
    await pull.close();
  }
}

class Pull {
  readonly #options: PullOptions;
  readonly #disk: Disk;
  readonly #image: DiskFile;
  readonly #sums: SumsFile;
  /** Received, or written by this run and not recorded yet. */
  readonly #have: Bitmap;
  readonly #verifier: Verifier;
  readonly #buffers: readonly Uint8Array[];
  readonly #rate: Rate;
  #unrecorded: (readonly [number, number])[] = [];
  #unrecordedBytes = 0;
  /** Windows of the verifier in which data has come since its last pass. */
  #unread = new Set<number>();
  #recordTurn: Promise<void> = Promise.resolve();
  #recording: Promise<void> | null = null;
  #verifying: Promise<void> | null = null;
  #wrong: number[] = [];
  #failure: unknown = null;
  #bytesTransferred = 0;
  #bytesKept = 0;
  #bytesResumed = 0;
  #bytesZero = 0;
  #bytesRepaired = 0;
  #bytesDone = 0;
  #connections = 0;
  #arrivedAtMs: number;
  #reportedAtMs = Number.NEGATIVE_INFINITY;
  #phase: PullProgress['phase'] = 'connecting';

  private constructor(options: PullOptions, disk: Disk, image: DiskFile, sums: SumsFile) {
    this.#options = options;
    this.#disk = disk;
    this.#image = image;
    this.#sums = sums;
    this.#have = new Bitmap(sums.chunkCount, Uint8Array.from(sums.received.bytes));
    const buffers = alignedBuffers(REQUESTS + REREADS, REQUEST_BYTES);
    this.#buffers = buffers.slice(0, REQUESTS);
    this.#verifier = new Verifier({ image, sums, buffers: buffers.slice(REQUESTS) });
    this.#arrivedAtMs = options.clock.monotonicMs();
    this.#rate = new Rate(options.clock);
  }

  /** Opens what an earlier run left when it is of use, else starts over with an image of holes. */
  static async open(options: PullOptions): Promise<Pull> {
    const { imagePath, statePath, sizeBytes, snapshot, base, disk = hostDisk } = options;
    let sums: SumsFile | null = null;
    let image: DiskFile | null = null;
    try {
      sums = await SumsFile.open(disk, statePath);
      image = (await disk.open(imagePath, { mode: 'create', direct: true }))!;
      const { inode, sizeBytes: imageBytes } = await image.stat();
      const usable =
        sums !== null &&
        imageBytes === sizeBytes &&
        sums.header.sizeBytes === sizeBytes &&
        sums.header.imageInode === inode &&
        (sums.header.snapshot === snapshot || sums.header.snapshot === base?.snapshot);
      if (!sums || !usable) {
        await sums?.close();
        // The old state must be gone before the image that it speaks about.
        const header = { sizeBytes, snapshot, imageInode: 0, fresh: true, repaired: false };
        sums = await SumsFile.create(disk, statePath, header);
        await image.truncate(0);
        await image.truncate(sizeBytes);
        await image.sync();
        await disk.syncDirectory(imagePath);
        await sums.setHeader({ ...header, imageInode: inode });
      } else if (sums.header.fresh && sums.received.next(0, false) < sums.chunkCount) {
        // What was written and not recorded is still there, and a file in use may have a hole in its place by now.
        await sums.setHeader({ ...sums.header, fresh: false });
      }
      return new Pull(options, disk, image, sums);
    } catch (error) {
      await image?.close().catch(() => {});
      await sums?.close().catch(() => {});
      throw diskError(error, `opening ${imagePath}`);
    }
  }

  async run(): Promise<PullResult> {
    try {
      if (this.#sums.header.snapshot === this.#options.snapshot) {
        this.#bytesResumed = this.#bytesHere();
        this.#bytesDone = this.#bytesResumed;
      }
      await this.#fetchAll();
      if (this.#options.verify !== false) await this.#verifyAll();
      return {
        root: await this.#sums.root(),
        bytesTransferred: this.#bytesTransferred,
        bytesKept: this.#bytesKept,
        bytesResumed: this.#bytesResumed,
        bytesZero: this.#bytesZero,
        bytesRepaired: this.#bytesRepaired,
        rereadDirect: this.#options.verify !== false && this.#image.direct,
        connections: this.#connections,
      };
    } catch (error) {
      const failure = this.#toTransferError(error);
      // What has arrived is worth keeping, unless the disk itself is what failed.
      if (failure.reason !== 'target_io' && failure.reason !== 'no_space') await this.#record().catch(() => {});
      throw failure;
    }
  }

  async close(): Promise<void> {
    await this.#recording?.catch(() => {});
    await this.#verifying?.catch(() => {});
    await this.#image.close();
    await this.#sums.close();
  }

  #bytesHere(): number {
    let bytes = 0;
    for (const [from, to] of this.#have.runs()) bytes += this.#bytesOf(from, to);
    return bytes;
  }

  get #missing(): boolean {
    const rebase = this.#sums.header.snapshot !== this.#options.snapshot;
    return rebase || this.#have.next(0, false) < this.#have.length;
  }

  /** Connects, fetches, and does so again after each break, until every chunk is here and recorded. */
  async #fetchAll(): Promise<void> {
    const { clock, signal, giveUpAfterMs = 600_000 } = this.#options;
    let backoffMs = BACKOFF_MS_MIN;
    while (this.#missing) {
      signal.throwIfAborted();
      const before = this.#bytesTransferred;
      try {
        await this.#connection();
      } catch (error) {
        if (!isBreak(error) || signal.aborted) throw error;
        if (this.#bytesTransferred > before) backoffMs = BACKOFF_MS_MIN;
        if (clock.monotonicMs() - this.#arrivedAtMs >= giveUpAfterMs) {
          const message = `nothing arrived for ${giveUpAfterMs} ms; last: ${error.message}`;
          throw new TransferError('gave_up', message, { cause: error });
        }
        this.#report('connecting', true);
        await clock.sleep(backoffMs, signal);
        backoffMs = Math.min(backoffMs * 2, BACKOFF_MS_MAX);
      }
    }
    await this.#recording;
    await this.#record();
    this.#throwFailure();
    this.#report('copying', true);
  }

  /** Fetches over one connection until nothing is missing or it breaks. */
  async #connection(): Promise<void> {
    const source = await this.#options.connect(this.#options.signal);
    this.#connections += 1;
    try {
      if (source.sizeBytes !== this.#options.sizeBytes) {
        const message = `the export has ${source.sizeBytes} bytes, ordered were ${this.#options.sizeBytes}`;
        throw new TransferError('size_mismatch', message);
      }
      if (source.requestBytesMax < CHUNK_BYTES) {
        throw new TransferError('refused', `the source serves reads of ${source.requestBytesMax} bytes only`);
      }
      await this.#rebase(source);
      const pieces = new Turns(this.#pieces(source));
      await settleAll(
        this.#buffers.map(async (buffer) => {
          try {
            for (let piece = await pieces.next(); piece; piece = await pieces.next()) {
              this.#options.signal.throwIfAborted();
              this.#throwFailure();
              if (piece.zero) await this.#takeZeros(piece);
              else await this.#takeData(source, piece, buffer);
              await this.#recordInTime();
            }
          } catch (error) {
            // The others must not wait for replies that would be thrown away.
            void source.close();
            throw error;
          }
        }),
      );
    } finally {
      await source.close();
    }
  }

  /** Turns the state of the base snapshot into one of this snapshot: what changed in between is missing again. */
  async #rebase(source: PullSource): Promise<void> {
    const { base, snapshot, sizeBytes } = this.#options;
    if (this.#sums.header.snapshot === snapshot || !base) return;
    if (!source.contexts.has(base.context)) {
      throw new TransferError('refused', `the source does not offer the context ${base.context}`);
    }
    const { received, verified } = this.#sums;
    for (let offset = 0; offset < sizeBytes; ) {
      const extents = await source.blockStatus(base.context, offset, Math.min(STATUS_BYTES, sizeBytes - offset));
      for (const extent of extents) {
        const end = extent.offset + extent.length;
        if ((extent.flags & 1) !== 0) {
          const from = Math.floor(extent.offset / CHUNK_BYTES);
          for (const bits of [received, verified, this.#have]) bits.fill(from, chunkCount(end), false);
        }
        offset = end;
      }
    }
    // First the bits, then the name: a crash in between does it again, with the same outcome.
    await this.#onDisk(() => this.#sums.record());
    await this.#onDisk(() => this.#sums.setHeaderSoon({ ...this.#sums.header, snapshot, fresh: false }));
    this.#bytesKept = this.#bytesHere();
    this.#bytesDone = this.#bytesKept;
  }

  /** What is missing, in order, as pieces of one request or as runs of zeros. */
  async *#pieces(source: PullSource): AsyncGenerator<Piece> {
    const { sizeBytes } = this.#options;
    const longest = Math.floor(Math.min(REQUEST_BYTES, source.requestBytesMax) / CHUNK_BYTES);
    for (let at = this.#have.next(0, false); at < this.#have.length; at = this.#have.next(at, false)) {
      let end = at;
      for await (const run of zeroRuns(source, at, sizeBytes)) {
        yield* this.#cut(run, run.zero ? Number.POSITIVE_INFINITY : longest);
        end = run.to;
      }
      at = end;
    }
  }

  /** The missing parts of a run, none longer than `longest` chunks. */
  *#cut(run: Piece, longest: number): Generator<Piece> {
    for (let from = this.#have.next(run.from, false); from < run.to; from = this.#have.next(from, false)) {
      const to = Math.min(this.#have.next(from, true), run.to, from + longest);
      yield { from, to, zero: run.zero };
      from = to;
    }
  }

  async #takeData(source: PullSource, piece: Piece, buffer: Uint8Array): Promise<void> {
    const offset = piece.from * CHUNK_BYTES;
    const length = this.#bytesOf(piece.from, piece.to);
    await this.#options.limiter?.take(length, this.#options.signal);
    // A copy that was told to be slow has not been given up by its source.
    if (this.#options.limiter) this.#arrivedAtMs = this.#options.clock.monotonicMs();
    const data = buffer.subarray(0, length);
    await source.read(data, offset, length);
    this.#bytesTransferred += length;
    this.#arrivedAtMs = this.#options.clock.monotonicMs();
    const sums = Buffer.alloc((piece.to - piece.from) * SUM_BYTES);
    writeSums(data, sums);
    await this.#onDisk(async () => {
      for (const run of contentRuns(data, sums)) {
        const start = run.from * CHUNK_BYTES;
        const end = Math.min(run.to * CHUNK_BYTES, length);
        if (!run.zero) await this.#image.write(data.subarray(start, end), offset + start);
        else if (!this.#sums.header.fresh) await this.#image.zero(offset + start, end - start);
        if (run.zero) this.#bytesZero += end - start;
      }
      await this.#sums.writeSums(sums, piece.from);
    });
    this.#took(piece);
  }

  async #takeZeros(piece: Piece): Promise<void> {
    const length = this.#bytesOf(piece.from, piece.to);
    if (!this.#sums.header.fresh) {
      await this.#onDisk(() => this.#image.zero(piece.from * CHUNK_BYTES, length));
      await this.#onDisk(() => this.#sums.zeroSums(piece.from, piece.to));
    }
    this.#bytesZero += length;
    this.#took(piece);
  }

  #took(piece: Piece): void {
    const length = this.#bytesOf(piece.from, piece.to);
    this.#have.fill(piece.from, piece.to, true);
    this.#unrecorded.push([piece.from, piece.to]);
    if (!piece.zero) {
      this.#unrecordedBytes += length;
      this.#unread.add(Math.floor(piece.from / WINDOW_CHUNKS));
    }
    this.#bytesDone += length;
    this.#rate.add(length);
    this.#report('copying', false);
  }

  /**
   * Starts a record in the background when enough has come. The copy goes on meanwhile, but not without end: what a
   * killed process loses is bounded also when the disk is slow.
   */
  async #recordInTime(): Promise<void> {
    // The bitmaps are written whole, so a huge volume records at longer intervals.
    const { recordEveryBytes = Math.max(67_108_864, this.#options.sizeBytes / 16_384) } = this.#options;
    if (this.#unrecordedBytes < recordEveryBytes && this.#unrecorded.length < RUNS_MAX) return;
    if (!this.#recording) this.#startRecord();
    else if (this.#unrecordedBytes >= 4 * recordEveryBytes || this.#unrecorded.length >= 4 * RUNS_MAX) {
      await this.#recording;
    }
  }

  #startRecord(): void {
    this.#recording = this.#record()
      .then(() => this.#verifyInTime())
      .catch((error: unknown) => {
        this.#failure ??= error;
      })
      .finally(() => {
        this.#recording = null;
      });
  }

  /**
   * Flush first, then record: a bit that is set speaks of bytes that are on the device. One at a time, so that no bit of
   * one record is written before the sums of another are durable.
   */
  #record(): Promise<void> {
    const turn = this.#recordTurn.then(async () => {
      const recorded = this.#unrecorded;
      this.#unrecorded = [];
      this.#unrecordedBytes = 0;
      await this.#onDisk(() => this.#image.sync());
      for (const [from, to] of recorded) this.#sums.received.fill(from, to, true);
      await this.#onDisk(() => this.#sums.record());
    });
    this.#recordTurn = turn.catch(() => {});
    return turn;
  }

  /** Reads back what is recorded while the rest is still coming. */
  #verifyInTime(): void {
    if (this.#options.verify === false || this.#verifying) return;
    const windows = this.#unread;
    this.#unread = new Set();
    this.#verifying = this.#verifier
      .pass({ zeros: 'later', windows }, this.#options.signal)
      .then((wrong) => {
        this.#wrong.push(...wrong);
      })
      .catch((error: unknown) => {
        this.#failure ??= error;
      })
      .finally(() => {
        this.#verifying = null;
      });
  }

  async #verifyAll(): Promise<void> {
    const { imagePath, sizeBytes, signal } = this.#options;
    this.#report('verifying', true);
    for (;;) {
      await this.#verifying;
      this.#throwFailure();
      const isShort = this.#verifier.unreadCount() <= UNMAPPED_CHUNKS_MAX;
      const zeros = isShort ? 'read' : await this.#disk.map(imagePath, sizeBytes);
      const wrong = new Set([...this.#wrong, ...(await this.#verifier.pass({ zeros, windows: null }, signal))]);
      this.#wrong = [];
      if (wrong.size === 0) break;
      await this.#repair([...wrong].sort((a, b) => a - b));
    }
    await this.#onDisk(() => this.#sums.noteVerified());
  }

  /** Fetches chunks again that were read back wrong: once in the life of a copy, then the disk is not to be trusted. */
  async #repair(wrong: readonly number[]): Promise<void> {
    const offset = wrong[0]! * CHUNK_BYTES;
    if (this.#sums.header.repaired) {
      const message = `${wrong.length} chunks, the first at ${offset}, read back other than written, and not for the first time`;
      throw new TransferError('reread_mismatch', message, { offset });
    }
    for (const chunk of wrong) {
      for (const bits of [this.#sums.received, this.#sums.verified, this.#have]) bits.fill(chunk, chunk + 1, false);
      this.#bytesDone -= this.#bytesOf(chunk, chunk + 1);
      this.#bytesRepaired += this.#bytesOf(chunk, chunk + 1);
    }
    await this.#onDisk(() => this.#sums.setHeader({ ...this.#sums.header, repaired: true, fresh: false }));
    await this.#onDisk(() => this.#sums.record());
    this.#arrivedAtMs = this.#options.clock.monotonicMs();
    await this.#fetchAll();
  }

  #bytesOf(from: number, to: number): number {
    return Math.min(to * CHUNK_BYTES, this.#options.sizeBytes) - from * CHUNK_BYTES;
  }

  async #onDisk(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      throw diskError(error, `writing ${this.#options.imagePath}`);
    }
  }

  #throwFailure(): void {
    if (this.#failure) throw this.#failure;
  }

  #toTransferError(error: unknown): TransferError {
    if (this.#options.signal.aborted) return new TransferError('aborted', 'the copy was aborted', { cause: error });
    if (error instanceof TransferError) return error;
    if (error instanceof NbdError) {
      const reason = error.reason === 'io' || error.reason === 'no_space' ? 'source_io' : 'refused';
      return new TransferError(reason, `the source: ${error.message}`, { cause: error });
    }
    return diskError(error, 'the copy failed');
  }

  #report(phase: PullProgress['phase'], now: boolean): void {
    const nowMs = this.#options.clock.monotonicMs();
    this.#phase = phase;
    if (!now && nowMs - this.#reportedAtMs < PROGRESS_EVERY_MS) return;
    this.#reportedAtMs = nowMs;
    this.#options.onProgress?.({
      bytesTotal: this.#options.sizeBytes,
      bytesDone: this.#bytesDone,
      bytesKept: this.#bytesKept,
      bytesResumed: this.#bytesResumed,
      bytesTransferred: this.#bytesTransferred,
      bytesPerSecond: this.#rate.bytesPerSecond(),
      phase: this.#phase,
    });
  }
}

/** Ends that say nothing about the volume: the copy waits and goes on. */
function isBreak(error: unknown): error is NbdError {
  return error instanceof NbdError && BREAKS.has(error.reason);
}

const BREAKS: ReadonlySet<string> = new Set(['disconnected', 'timeout', 'shutdown', 'protocol']);
