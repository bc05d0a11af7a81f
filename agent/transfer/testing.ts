/** What the transfer tests share: a disk in memory that can lose power, and a source in memory that can break. */
import { NbdError } from '../../nbd/error.ts';
import { BASE_ALLOCATION, EXTENT_HOLE, EXTENT_ZERO, type Extent } from '../../nbd/export.ts';
import { CHUNK_BYTES } from './chunks.ts';
import type { Disk, DiskFile } from './disk.ts';
import { AllocationMap } from './extents.ts';
import type { PullSource } from './source.ts';

type Change =
  | { readonly kind: 'write'; readonly offset: number; readonly bytes: Uint8Array }
  | { readonly kind: 'truncate'; readonly sizeBytes: number };

interface Inode {
  readonly number: number;
  /** What survives a power cut for certain. */
  durable: Uint8Array;
  /** What a reader sees. */
  current: Uint8Array;
  unsynced: Change[];
  linked: boolean;
}

const SECTOR_BYTES = 512;

/** A disk whose unsynced writes are, at a power cut, kept or lost sector by sector, in any combination. */
export class MemoryDisk implements Disk {
  readonly #files = new Map<string, Inode>();
  #inodes = 100;
  /** Operations left until the power goes; every later one fails. */
  operationsLeft = Number.POSITIVE_INFINITY;
  /** Called before each write to a file: throw here to fail it, change the bytes to corrupt them. */
  onWrite: (path: string, bytes: Uint8Array, offset: number) => void = () => {};

  async open(path: string, { mode }: { mode: 'read' | 'write' | 'create' }): Promise<DiskFile | null> {
    this.#tick();
    let inode = this.#files.get(path);
    if (!inode) {
      if (mode !== 'create') return null;
      this.#inodes += 1;
      inode = {
        number: this.#inodes,
        durable: new Uint8Array(),
        current: new Uint8Array(),
        unsynced: [],
        linked: false,
      };
      this.#files.set(path, inode);
    }
    return this.#handle(path, inode);
  }

  async rename(from: string, to: string): Promise<void> {
    this.#tick();
    this.#files.set(to, this.#files.get(from)!);
    this.#files.delete(from);
  }

  async share(): Promise<boolean> {
    return false;
  }

  async remove(path: string): Promise<void> {
    this.#tick();
    this.#files.delete(path);
  }

  async syncDirectory(): Promise<void> {
    this.#tick();
    for (const inode of this.#files.values()) inode.linked = true;
  }

  async map(path: string, sizeBytes: number): Promise<AllocationMap> {
    const map = new AllocationMap(sizeBytes, { kind: 'extents' });
    const { current } = this.#files.get(path)!;
    for (let at = 0; at < sizeBytes; at += 4096) {
      if (!isZero(current.subarray(at, at + 4096))) map.add(at, at + 4096);
    }
    return map;
  }

  /** The bytes of a file as a reader sees them. */
  bytes(path: string): Uint8Array {
    return this.#files.get(path)?.current ?? new Uint8Array();
  }

  /** Cuts the power and turns it on again; `keep` decides for each unsynced sector, truncation and new name. */
  powerCut(keep: () => boolean): void {
    this.operationsLeft = Number.POSITIVE_INFINITY;
    for (const [path, inode] of this.#files) {
      if (!inode.linked && !keep()) {
        this.#files.delete(path);
        continue;
      }
      for (const change of inode.unsynced) {
        if (change.kind === 'truncate') {
          if (keep()) inode.durable = resized(inode.durable, change.sizeBytes);
          continue;
        }
        for (let at = 0; at < change.bytes.length; at += SECTOR_BYTES) {
          const sector = change.bytes.subarray(at, at + SECTOR_BYTES);
          if (keep()) inode.durable = written(inode.durable, sector, change.offset + at);
        }
      }
      inode.unsynced = [];
      inode.linked = true;
      inode.current = Uint8Array.from(inode.durable);
    }
  }

  #tick(): void {
    if (this.operationsLeft <= 0) throw new Error('the power is gone');
    this.operationsLeft -= 1;
  }

  #handle(path: string, inode: Inode): DiskFile {
    const change = (made: Change): void => {
      inode.unsynced.push(made);
      inode.current =
        made.kind === 'write'
          ? written(inode.current, made.bytes, made.offset)
          : resized(inode.current, made.sizeBytes);
    };
    const write = async (source: Uint8Array, offset: number): Promise<void> => {
      this.#tick();
      const bytes = Uint8Array.from(source);
      this.onWrite(path, bytes, offset);
      change({ kind: 'write', offset, bytes });
    };
    return {
      direct: true,
      read: async (target, offset) => {
        this.#tick();
        const part = inode.current.subarray(offset, offset + target.length);
        target.set(part);
        return part.length;
      },
      write,
      zero: (offset, length) => write(new Uint8Array(length), offset),
      truncate: async (sizeBytes) => {
        this.#tick();
        change({ kind: 'truncate', sizeBytes });
      },
      sync: async () => {
        this.#tick();
        // Only what was written before the call is promised; what comes during it is not.
        const promised = inode.unsynced.length;
        for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
        this.#tick();
        for (const done of inode.unsynced.splice(0, promised)) {
          inode.durable =
            done.kind === 'write'
              ? written(inode.durable, done.bytes, done.offset)
              : resized(inode.durable, done.sizeBytes);
        }
      },
      stat: async () => ({ sizeBytes: inode.current.length, inode: inode.number }),
      close: async () => {},
    };
  }
}

const ZEROS = new Uint8Array(4096);

function isZero(block: Uint8Array): boolean {
  return Buffer.compare(block, ZEROS.subarray(0, block.length)) === 0;
}

function resized(bytes: Uint8Array, sizeBytes: number): Uint8Array {
  const changed = new Uint8Array(sizeBytes);
  changed.set(bytes.subarray(0, sizeBytes));
  return changed;
}

function written(bytes: Uint8Array, part: Uint8Array, offset: number): Uint8Array {
  const whole = offset + part.length > bytes.length ? resized(bytes, offset + part.length) : bytes;
  whole.set(part, offset);
  return whole;
}

/** The name of the context that a `MemorySource` with a base offers. */
export const CHANGED = 'ferry:changed:base';

/** A source over bytes in memory; with a base it says which 4096-byte blocks differ from it. */
export class MemorySource implements PullSource {
  readonly bytes: Uint8Array;
  readonly requestBytesMax = 262_144;
  readonly contexts: ReadonlySet<string>;
  readonly #base: Uint8Array | null;
  /** Bytes handed out over all connections. */
  bytesSent = 0;
  /** Bytes until the connection breaks; a new `connect` starts anew. */
  breakAfterBytes = Number.POSITIVE_INFINITY;
  closed = 0;

  constructor(bytes: Uint8Array, base: Uint8Array | null = null) {
    this.bytes = bytes;
    this.#base = base;
    this.contexts = new Set(base ? [BASE_ALLOCATION, CHANGED] : [BASE_ALLOCATION]);
  }

  get sizeBytes(): number {
    return this.bytes.length;
  }

  async read(target: Uint8Array, offset: number, length: number): Promise<void> {
    await Promise.resolve();
    if (this.breakAfterBytes < length) throw new NbdError('disconnected', 'broken by the test');
    this.breakAfterBytes -= length;
    target.set(this.bytes.subarray(offset, offset + length));
    this.bytesSent += length;
  }

  async blockStatus(context: string, offset: number, length: number): Promise<Extent[]> {
    const extents: { offset: number; length: number; flags: number }[] = [];
    const end = Math.min(offset + length, offset + 40 * 4096);
    for (let at = offset; at < end; ) {
      const next = Math.min(end, (Math.floor(at / 4096) + 1) * 4096);
      const block = Buffer.from(this.bytes.buffer, this.bytes.byteOffset + at, next - at);
      let flags = isZero(block) ? EXTENT_HOLE | EXTENT_ZERO : 0;
      if (context !== BASE_ALLOCATION) flags = block.equals(this.#base!.subarray(at, next)) ? 0 : 1;
      const last = extents.at(-1);
      if (last?.flags === flags) last.length += next - at;
      else extents.push({ offset: at, length: next - at, flags });
      at = next;
    }
    return extents;
  }

  async close(): Promise<void> {
    this.closed += 1;
  }
}

/** A volume from a picture: `x` noise, `.` zeros, `h` half of each, `s` zeros with one byte set; one chunk a letter. */
export function volumeOf(picture: string, seed: number, extraBytes = 0): Uint8Array {
  const bytes = new Uint8Array(picture.length * CHUNK_BYTES + extraBytes);
  let state = seed | 1;
  const noise = (from: number, to: number): void => {
    for (let at = from; at < to; at += 1) {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
      bytes[at] = state >>> 24;
    }
  };
  for (const [index, letter] of [...picture].entries()) {
    const start = index * CHUNK_BYTES;
    if (letter === 'x') noise(start, start + CHUNK_BYTES);
    if (letter === 'h') noise(start, start + CHUNK_BYTES / 2);
    if (letter === 's') bytes[start + (seed % CHUNK_BYTES)] = 1;
  }
  if (extraBytes > 0) noise(picture.length * CHUNK_BYTES, bytes.length);
  return bytes;
}
