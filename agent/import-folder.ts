import { mkdir, realpath, stat } from 'node:fs/promises';
import { resolve, sep } from 'node:path';
import { invalidArgument } from '../shared/error.ts';

const blockBytes = 4096;
/** Smallest volume. */
const volumeBytesMin = 1024 ** 2;

/** A raw disk image that a volume may begin with. */
export interface ImportFile {
  readonly path: string;
  /** Size of a volume that holds it: whole blocks, at least 1 MiB. */
  readonly sizeBytes: number;
  readonly allocatedBytes: number;
}

/** The one folder of a host whose files may become volumes: an RPC must not read whatever the agent may. */
export class ImportFolder {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  /** Makes the folder. */
  async open(): Promise<void> {
    await mkdir(this.#path, { recursive: true, mode: 0o700 });
  }

  /** A regular file within the folder, by its path there or by its whole path. Throws invalid_argument naming the folder. */
  async find(path: string): Promise<ImportFile> {
    const wanted = `a regular file in ${this.#path} on this host`;
    const text = JSON.stringify(path.slice(0, 200));
    if (path.includes('\0')) throw invalidArgument('from_path', `is ${text}`, wanted);
    const folder = await realpath(this.#path).catch(() => this.#path);
    // Links are followed first: what counts is where the bytes are.
    const real = await realpath(resolve(folder, path)).catch(() => null);
    if (!(real ?? resolve(folder, path)).startsWith(folder + sep))
      throw invalidArgument('from_path', `${text} is not in the import folder`, wanted);
    if (real === null) throw invalidArgument('from_path', `${text} does not exist`, wanted);
    const found = await stat(real);
    if (!found.isFile() || found.size === 0)
      throw invalidArgument('from_path', `${text} ${found.isFile() ? 'is empty' : 'is no regular file'}`, wanted);
    const sizeBytes = Math.max(volumeBytesMin, Math.ceil(found.size / blockBytes) * blockBytes);
    return { path: real, sizeBytes, allocatedBytes: Math.min(found.blocks * 512, sizeBytes) };
  }
}
