import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { chmod, copyFile, type FileHandle, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import type { AllocationMap } from './extents.ts';
import { readMap } from './filefrag.ts';

/** An open file. Everything rejects with the system's error. Only `alignedBuffers` travel direct. */
export interface DiskFile {
  /** True when reads and writes of whole blocks go to the device and not to the page cache. */
  readonly direct: boolean;
  /** Fills `target`; returns fewer bytes only at the end of the file. */
  read(target: Uint8Array, offset: number): Promise<number>;
  write(source: Uint8Array, offset: number): Promise<void>;
  /** Makes the bytes read as zeros, giving their space back where the file system can. */
  zero(offset: number, length: number): Promise<void>;
  truncate(sizeBytes: number): Promise<void>;
  /** What was written before is on the device when this resolves. */
  sync(): Promise<void>;
  stat(): Promise<{ sizeBytes: number; inode: number }>;
  close(): Promise<void>;
}

/** The files of one host, as the transfer needs them. */
export interface Disk {
  /** Null when there is no such file and it is not to be made. `direct` asks for O_DIRECT, where it works. */
  open(path: string, how: { mode: 'read' | 'write' | 'create'; direct: boolean }): Promise<DiskFile | null>;
  /** Gives a file another name in its directory, taking the place of what was there. */
  rename(from: string, to: string): Promise<void>;
  /** Puts a durable file that shares the blocks of `from` in the place of `to`; false where that cannot be. */
  share(from: string, to: string): Promise<boolean>;
  /** Removes a file; harmless when there is none. */
  remove(path: string): Promise<void>;
  /** Makes the directory entries of new files durable. */
  syncDirectory(path: string): Promise<void>;
  /** Which bytes of a file of `sizeBytes` are data; see `readMap`. */
  map(path: string, sizeBytes: number): Promise<AllocationMap>;
}

/** O_DIRECT demands this of offsets and lengths, on every device known. */
const BLOCK_BYTES = 4096;
/** Below this, zeros are written: a punched hole costs a process and one more extent. */
const PUNCH_BYTES_MIN = 262_144;
const ZEROS = new Uint8Array(262_144);

const run = promisify(execFile);

/** The disk of this host. */
export const hostDisk: Disk = {
  async open(path, { mode, direct }) {
    const flags = mode === 'read' ? constants.O_RDONLY : constants.O_RDWR;
    let cached: FileHandle;
    try {
      cached = await open(path, mode === 'create' ? flags | constants.O_CREAT : flags, 0o600);
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
      throw error;
    }
    // Some file systems (tmpfs, FUSE, overlays) refuse O_DIRECT at the opening: then the page cache has to do.
    const raw = direct ? await open(path, flags | constants.O_DIRECT).catch(() => null) : null;
    return new HostFile(path, cached, raw);
  },

  rename,

  async share(from, to) {
    // A failed copy removes its target, so that is not the file itself.
    const sharing = `${to}.sharing`;
    await rm(sharing, { force: true });
    try {
      await copyFile(from, sharing, constants.COPYFILE_FICLONE_FORCE);
    } catch {
      return false;
    }
    // The copy takes over the mode, and a kept image is read-only.
    await chmod(sharing, 0o600);
    const handle = await open(sharing, 'r+');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(sharing, to);
    await this.syncDirectory(to);
    return true;
  },

  remove: (path) => rm(path, { force: true }),

  async syncDirectory(path) {
    const handle = await open(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  },

  map: readMap,
};

/** A file through the page cache and, beside it, around it. The ragged end of a file goes through the cache. */
class HostFile implements DiskFile {
  readonly #path: string;
  readonly #cached: FileHandle;
  #raw: FileHandle | null;
  #punches = true;

  constructor(path: string, cached: FileHandle, raw: FileHandle | null) {
    this.#path = path;
    this.#cached = cached;
    this.#raw = raw;
  }

  get direct(): boolean {
    return this.#raw !== null;
  }

  async read(target: Uint8Array, offset: number): Promise<number> {
    let done = 0;
    while (done < target.length) {
      const part = target.subarray(done);
      const { bytesRead } = await this.#on(part, offset + done, (handle) =>
        handle.read(part, 0, part.length, offset + done),
      );
      if (bytesRead === 0) break;
      done += bytesRead;
    }
    return done;
  }

  async write(source: Uint8Array, offset: number): Promise<void> {
    for (let done = 0; done < source.length; ) {
      const part = source.subarray(done);
      const { bytesWritten } = await this.#on(part, offset + done, (handle) =>
        handle.write(part, 0, part.length, offset + done),
      );
      done += bytesWritten;
    }
  }

  async zero(offset: number, length: number): Promise<void> {
    if (this.#punches && length >= PUNCH_BYTES_MIN) {
      const range = ['--offset', String(offset), '--length', String(length)];
      try {
        await run('fallocate', ['--punch-hole', ...range, this.#path]);
        return;
      } catch {
        // No such program, or a file system without holes: zeros do the same and only cost the space.
        this.#punches = false;
      }
    }
    for (let done = 0; done < length; ) {
      const part = ZEROS.subarray(0, Math.min(ZEROS.length, length - done));
      await this.#cached.write(part, 0, part.length, offset + done);
      done += part.length;
    }
  }

  truncate(sizeBytes: number): Promise<void> {
    return this.#cached.truncate(sizeBytes);
  }

  sync(): Promise<void> {
    return this.#cached.datasync();
  }

  async stat(): Promise<{ sizeBytes: number; inode: number }> {
    const { size, ino } = await this.#cached.stat();
    return { sizeBytes: size, inode: ino };
  }

  async close(): Promise<void> {
    await this.#raw?.close();
    await this.#cached.close();
  }

  /** Runs on the direct handle where the bytes allow it; a device that takes no direct transfer after all ends it. */
  async #on<T>(part: Uint8Array, offset: number, act: (handle: FileHandle) => Promise<T>): Promise<T> {
    const whole = offset % BLOCK_BYTES === 0 && part.length % BLOCK_BYTES === 0 && part.byteOffset % BLOCK_BYTES === 0;
    if (!this.#raw || !whole) return act(this.#cached);
    try {
      return await act(this.#raw);
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'EINVAL')) throw error;
      const raw = this.#raw;
      this.#raw = null;
      await raw?.close();
      return act(this.#cached);
    }
  }
}
