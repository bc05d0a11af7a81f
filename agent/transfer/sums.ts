import { Bitmap } from './bitmap.ts';
import { CHUNK_BYTES, chunkCount, chunkSum, SUM_BYTES } from './chunks.ts';
import type { Disk, DiskFile } from './disk.ts';
import { RootHash } from './root.ts';

/** What a sums file says about itself. */
export interface SumsHeader {
  readonly sizeBytes: number;
  /** Name of the snapshot whose bytes the received chunks are. */
  readonly snapshot: string;
  /** Of the image that the bitmaps speak about. */
  readonly imageInode: number;
  /** True while the image never held anything but this snapshot's chunks: what was not written is a hole. */
  readonly fresh: boolean;
  /** True when chunks were asked for again because they were read back wrong. Happens once at most. */
  readonly repaired: boolean;
}

const MAGIC = 'FERRYSUM';
const VERSION = 1;
const PAGE_BYTES = 4096;
/** The header and its checksum stay within one sector, so that a power cut leaves the old or the new one. */
const HEADER_BYTES = 512;
const SNAPSHOT_BYTES_MAX = 255;

/**
 * The sums of one volume's chunks and which of them are there, in one flat file: a header page, the bitmap of received
 * chunks, the bitmap of chunks read back from the disk, then eight bytes a chunk. The bitmaps are held in memory (four
 * MiB for one TiB), sums are read and written in place. Nothing is durable before `sync` or a `record…`.
 */
export class SumsFile {
  /** Chunks that are durable in the image with their sums here. */
  readonly received: Bitmap;
  /** Received chunks that were read back from the disk and found equal. */
  readonly verified: Bitmap;
  readonly chunkCount: number;
  readonly #file: DiskFile;
  readonly #bitmapBytes: number;
  #header: SumsHeader;
  /** Sums or a header were written since the last sync. */
  #unsynced = false;
  /** Why the last sync failed: the next one would look fine, so nothing is recorded any more. */
  #lost: unknown = null;

  private constructor(file: DiskFile, header: SumsHeader, bitmaps: Uint8Array | null) {
    this.#file = file;
    this.#header = header;
    this.chunkCount = chunkCount(header.sizeBytes);
    this.#bitmapBytes = bitmapBytes(header.sizeBytes);
    const at = (index: number): Uint8Array | undefined => {
      const start = index * this.#bitmapBytes;
      return bitmaps?.subarray(start, start + this.#bitmapBytes);
    };
    const fresh = (): Uint8Array => new Uint8Array(this.#bitmapBytes);
    this.received = new Bitmap(this.chunkCount, at(0) ?? fresh());
    this.verified = new Bitmap(this.chunkCount, at(1) ?? fresh());
  }

  /** Opens what an earlier run left; null when there is none or it cannot be trusted. */
  static async open(disk: Disk, path: string): Promise<SumsFile | null> {
    const file = await disk.open(path, { mode: 'write', direct: false });
    if (!file) return null;
    const page = Buffer.alloc(HEADER_BYTES);
    const header = (await file.read(page, 0)) === HEADER_BYTES ? decodeHeader(page) : null;
    const bitmaps = new Uint8Array(header ? 2 * bitmapBytes(header.sizeBytes) : 0);
    if (header && (await file.read(bitmaps, PAGE_BYTES)) === bitmaps.length) return new SumsFile(file, header, bitmaps);
    await file.close();
    return null;
  }

  /** Makes a file without any chunk, durably, in place of what was there. */
  static async create(disk: Pick<Disk, 'open' | 'syncDirectory'>, path: string, header: SumsHeader): Promise<SumsFile> {
    const file = (await disk.open(path, { mode: 'create', direct: false }))!;
    const sums = new SumsFile(file, header, null);
    await file.truncate(0);
    await file.truncate(PAGE_BYTES + 2 * sums.#bitmapBytes + sums.chunkCount * SUM_BYTES);
    await file.sync();
    await sums.setHeader(header);
    await disk.syncDirectory(path);
    return sums;
  }

  get header(): SumsHeader {
    return this.#header;
  }

  /** Replaces the header, durably. */
  async setHeader(header: SumsHeader): Promise<void> {
    await this.#file.write(encodeHeader(header), 0);
    await this.#file.sync();
    this.#header = header;
  }

  /**
   * Replaces the header; durable, at the latest, before the next `record` sets a bit. For a name whose bits are already no
   * more than those of the name before: a crash may bring that one back.
   */
  async setHeaderSoon(header: SumsHeader): Promise<void> {
    this.#unsynced = true;
    await this.#file.write(encodeHeader(header), 0);
    this.#header = header;
  }

  /** Writes what was read back, durable at some later time: a crash may only cost the reading again. */
  async noteVerified(): Promise<void> {
    await this.#file.write(this.verified.bytes, PAGE_BYTES + this.#bitmapBytes);
  }

  /** Writes the sums of the chunks from `first` on. */
  writeSums(sums: Uint8Array, first: number): Promise<void> {
    this.#unsynced = true;
    return this.#file.write(sums, this.#sumOffset(first));
  }

  /** Sets the sums from `first` up to, not including, `end` to those of zeros. */
  zeroSums(first: number, end: number): Promise<void> {
    this.#unsynced = true;
    return this.#file.zero(this.#sumOffset(first), (end - first) * SUM_BYTES);
  }

  /** Reads the sums of the chunks from `first` on; `target` is a multiple of eight bytes. */
  async readSums(target: Uint8Array, first: number): Promise<void> {
    const count = await this.#file.read(target, this.#sumOffset(first));
    if (count !== target.length) throw new Error(`sums file ends ${target.length - count} bytes too early`);
  }

  /** Makes the sums durable, then the two bitmaps. The image must have been synced before. */
  async record(): Promise<void> {
    if (this.#lost) throw this.#lost;
    if (this.#unsynced) await this.#syncSums();
    await this.#file.write(this.received.bytes, PAGE_BYTES);
    await this.#file.write(this.verified.bytes, PAGE_BYTES + this.#bitmapBytes);
    await this.#file.sync();
  }

  /** Root over all chunks, whether received or not: the caller asks when they are. */
  async root(): Promise<string> {
    const hash = new RootHash(this.#header.sizeBytes);
    const page = new Uint8Array(1_048_576);
    for (let first = 0; first < this.chunkCount; first += page.length / SUM_BYTES) {
      const part = page.subarray(0, Math.min(page.length, (this.chunkCount - first) * SUM_BYTES));
      await this.readSums(part, first);
      hash.add(part);
    }
    return hash.digest();
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  async #syncSums(): Promise<void> {
    this.#unsynced = false;
    try {
      await this.#file.sync();
    } catch (error) {
      this.#lost = error;
      throw error;
    }
  }

  #sumOffset(chunk: number): number {
    return PAGE_BYTES + 2 * this.#bitmapBytes + chunk * SUM_BYTES;
  }
}

function bitmapBytes(sizeBytes: number): number {
  return Math.ceil(chunkCount(sizeBytes) / 8 / PAGE_BYTES) * PAGE_BYTES;
}

function encodeHeader(header: SumsHeader): Buffer {
  const name = Buffer.from(header.snapshot, 'utf8');
  if (name.length > SNAPSHOT_BYTES_MAX) throw new RangeError(`snapshot name of ${name.length} bytes, at most 255`);
  const page = Buffer.alloc(HEADER_BYTES);
  page.write(MAGIC, 0, 'latin1');
  page.writeUInt32LE(VERSION, 8);
  page.writeUInt32LE(CHUNK_BYTES, 12);
  page.writeBigUInt64LE(BigInt(header.sizeBytes), 16);
  page.writeBigUInt64LE(BigInt(header.imageInode), 24);
  page.writeUInt8(header.fresh ? 1 : 0, 32);
  page.writeUInt8(header.repaired ? 1 : 0, 33);
  page.writeUInt8(name.length, 34);
  name.copy(page, 35);
  page.writeBigUInt64LE(chunkSum(page.subarray(0, HEADER_BYTES - 8)), HEADER_BYTES - 8);
  return page;
}

function decodeHeader(page: Buffer): SumsHeader | null {
  if (page.toString('latin1', 0, 8) !== MAGIC) return null;
  if (page.readBigUInt64LE(HEADER_BYTES - 8) !== chunkSum(page.subarray(0, HEADER_BYTES - 8))) return null;
  if (page.readUInt32LE(8) !== VERSION || page.readUInt32LE(12) !== CHUNK_BYTES) return null;
  return {
    sizeBytes: Number(page.readBigUInt64LE(16)),
    imageInode: Number(page.readBigUInt64LE(24)),
    fresh: page.readUInt8(32) === 1,
    repaired: page.readUInt8(33) === 1,
    snapshot: page.toString('utf8', 35, 35 + page.readUInt8(34)),
  };
}
