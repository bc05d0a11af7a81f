import { constants } from 'node:fs';
import { join } from 'node:path';
import { describeFailure, type Run } from './command.ts';
import { errnoOf, VolumeError } from './errors.ts';
import { type Files, syncDirectory, syncFile } from './files.ts';

/** A snapshot of a volume's image: another file that shares its blocks, read-only, in the volume's folder. */
export interface Snapshot {
  readonly volumeId: string;
  /** Unique within the volume. */
  readonly name: string;
  readonly path: string;
}

const suffix = '.snap';
/** A snapshot that a crash has left half made. */
const makingSuffix = '.snap.making';
const snapshotMode = 0o400;

/** Path of the snapshot of this name. Throws `invalid` for a name that could leave the folder or be taken for an image. */
export function snapshotPath(folder: string, name: string): string {
  if (/^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$/.test(name)) return join(folder, `${name}${suffix}`);
  throw new VolumeError('invalid', `${JSON.stringify(name)} is no snapshot name: expected 1 to 100 of A-Z a-z 0-9 _ -`);
}

/** Names of the snapshots in a volume's folder; empty when there is no folder. */
export async function snapshotNames(files: Files, folder: string): Promise<string[]> {
  const names = await files.readdir(folder).catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return [];
    throw error;
  });
  return names
    .filter((name) => name.endsWith(suffix))
    .map((name) => name.slice(0, -suffix.length))
    .sort();
}

/** Removes what a crash has left half made in a volume's folder. */
export async function removeHalfMade(files: Files, folder: string): Promise<string[]> {
  const names = await files.readdir(folder).catch(() => [] as string[]);
  const left = names.filter((name) => name.endsWith(makingSuffix)).map((name) => join(folder, name));
  for (const path of left) await files.rm(path, { force: true });
  return left;
}

/**
 * Shares an image's blocks with a new file at `path`. Its name is there only once its bytes are durable: a map of a snapshot
 * that a power cut has emptied would call everything unchanged. Returns the time for which writes to the image may have
 * waited, in milliseconds.
 */
export async function shareBlocks(
  files: Files,
  image: string,
  path: string,
  monotonicMs: () => number,
): Promise<{ readonly tookMs: number }> {
  const making = `${path}${makingSuffix.slice(suffix.length)}`;
  await files.rm(making, { force: true });
  try {
    const from = monotonicMs();
    await files.copyFile(image, making, constants.COPYFILE_FICLONE_FORCE);
    const tookMs = monotonicMs() - from;
    await files.chmod(making, snapshotMode);
    await syncFile(files, making);
    await files.rename(making, path);
    await syncDirectory(files, join(path, '..'));
    return { tookMs };
  } catch (error) {
    await files.rm(making, { force: true }).catch(() => {});
    throw error;
  }
}

/** Number of extents of a file, without listing them. Throws `unsupported` where the file system has no extent maps. */
export async function countExtents(run: Run, path: string): Promise<number> {
  const result = await run('filefrag', [path], { timeoutMs: 30_000 });
  const found = /: (\d+) extents? found\s*$/.exec(result.stdout);
  if (result.exitCode === 0 && found && !/FIBMAP/.test(result.stdout + result.stderr)) return Number(found[1]);
  throw new VolumeError('unsupported', describeFailure('filefrag', result), { paths: [path] });
}
