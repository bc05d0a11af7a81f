import type { Disk, DiskFile } from './disk.ts';

const PAGE_BYTES = 65_536;

/** A file that lives as long as this process: for what must be kept on a disk that is full. Pages of zeros take no room. */
class MemoryFile implements DiskFile {
  readonly direct = false;
  readonly #pages = new Map<number, Uint8Array>();
  #sizeBytes = 0;

  async read(target: Uint8Array, offset: number): Promise<number> {
    const length = Math.max(0, Math.min(target.length, this.#sizeBytes - offset));
    for (const { page, inPage, at, count } of parts(offset, length)) {
      const bytes = this.#pages.get(page)?.subarray(inPage, inPage + count);
      if (bytes) target.set(bytes, at);
      else target.fill(0, at, at + count);
    }
    return length;
  }

  async write(source: Uint8Array, offset: number): Promise<void> {
    for (const { page, inPage, at, count } of parts(offset, source.length)) {
      const bytes = this.#pages.get(page) ?? new Uint8Array(PAGE_BYTES);
      bytes.set(source.subarray(at, at + count), inPage);
      this.#pages.set(page, bytes);
    }
    this.#sizeBytes = Math.max(this.#sizeBytes, offset + source.length);
  }

  async zero(offset: number, length: number): Promise<void> {
    for (const { page, inPage, count } of parts(offset, length)) this.#pages.get(page)?.fill(0, inPage, inPage + count);
  }

  async truncate(sizeBytes: number): Promise<void> {
    if (sizeBytes < this.#sizeBytes) this.#pages.clear();
    this.#sizeBytes = sizeBytes;
  }

  async sync(): Promise<void> {}

  async stat(): Promise<{ sizeBytes: number; inode: number }> {
    return { sizeBytes: this.#sizeBytes, inode: 0 };
  }

  async close(): Promise<void> {
    this.#pages.clear();
  }
}

function* parts(offset: number, length: number) {
  for (let at = 0; at < length; ) {
    const inPage = (offset + at) % PAGE_BYTES;
    const count = Math.min(PAGE_BYTES - inPage, length - at);
    yield { page: Math.floor((offset + at) / PAGE_BYTES), inPage, at, count };
    at += count;
  }
}

/** Opens a new, empty file whatever the path. */
export const memoryDisk: Pick<Disk, 'open' | 'syncDirectory'> = {
  open: async () => new MemoryFile(),
  syncDirectory: async () => {},
};
