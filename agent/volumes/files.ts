import type * as promises from 'node:fs/promises';

/** The part of `node:fs/promises` that volumes use, so that a test can make any single call fail. */
export type Files = Pick<
  typeof promises,
  | 'chmod'
  | 'copyFile'
  | 'lstat'
  | 'mkdir'
  | 'mkdtemp'
  | 'open'
  | 'readdir'
  | 'readFile'
  | 'readlink'
  | 'realpath'
  | 'rename'
  | 'rm'
  | 'rmdir'
  | 'stat'
  | 'statfs'
  | 'writeFile'
>;

/** Waits until a file's bytes and size are on the disk. An error means that they may be lost: never retry. */
export async function syncFile(files: Files, path: string): Promise<void> {
  const file = await files.open(path, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Waits until the names in a directory are on the disk. */
export const syncDirectory = syncFile;

/** Text of a small file, or null when there is none or it must not be read (a process that ended, say). */
export async function readIfThere(files: Files, path: string): Promise<string | null> {
  try {
    return await files.readFile(path, 'utf8');
  } catch {
    return null;
  }
}

/** Names in a directory, empty when it is missing or must not be read. */
export async function namesIfThere(files: Files, path: string): Promise<string[]> {
  try {
    return await files.readdir(path);
  } catch {
    return [];
  }
}
