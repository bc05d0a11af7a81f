import { Bitmap } from './bitmap.ts';
import { type Disk, hostDisk } from './disk.ts';
import { diskError, TransferError } from './error.ts';
import { ServedSums, type ServedSumsOptions } from './served-sums.ts';
import { sumFile } from './sum-file.ts';
import { SumsFile } from './sums.ts';

/** Name of the flat file, beside an image, with the sums of a state of it that another host has, too. */
export const keptSumsName = 'root.sums';

/** The name under which both hosts know the bytes of a volume with this root. */
export function rootSnapshot(root: string): string {
  return `root:${root}`;
}

/** The sums that are kept for this root; null when there are none, or others. */
export async function openKeptSums(options: ServedSumsOptions, root: string): Promise<ServedSums | null> {
  const sums = await ServedSums.resume(options);
  if (sums?.snapshot === rootSnapshot(root)) return sums;
  await sums?.close();
  return null;
}

/**
 * Keeps the state of a copy that was received and verified as the sums of its root, for a later way back. Call it when the
 * copy is owned and `statePath` is of no other use. False when the state is not that of a whole copy.
 *
 * @param paths.statePath what `pullVolume` was given
 * @param paths.keptPath `root.sums` beside the image
 */
export async function keepSums(
  { statePath, keptPath }: { statePath: string; keptPath: string },
  root: string,
  disk: Disk = hostDisk,
): Promise<boolean> {
  const sums = await SumsFile.open(disk, statePath);
  if (!sums) return false;
  try {
    if (sums.received.next(0, false) < sums.chunkCount || (await sums.root()) !== root) return false;
    await sums.setHeader({ ...sums.header, snapshot: rootSnapshot(root) });
  } finally {
    await sums.close();
  }
  await disk.rename(statePath, keptPath);
  await disk.syncDirectory(keptPath);
  return true;
}

/**
 * Root of a kept image, all of it read anew from its disk. When it is `root`, the sums of that root are beside the image
 * afterwards, also when the agent that served it was killed before it had written them down. Rejects with a `TransferError`.
 */
export async function rereadKept(
  { imagePath, keptPath }: { imagePath: string; keptPath: string },
  root: string,
  { signal, disk = hostDisk }: { signal: AbortSignal; disk?: Disk },
): Promise<string> {
  const opened = await disk.open(imagePath, { mode: 'read', direct: true }).catch((error: unknown) => {
    throw diskError(error, `opening ${imagePath}`);
  });
  if (!opened) throw new TransferError('target_io', `there is no file ${imagePath}`);
  await using image = { file: opened, [Symbol.asyncDispose]: () => opened.close() };
  const { sizeBytes, inode: imageInode } = await image.file.stat();
  const known = await openKeptSums({ disk, path: keptPath, sizeBytes, imageInode }, root);
  const isWhole = known?.unknownCount === 0;
  await known?.close();
  if (isWhole) return (await sumFile({ path: imagePath, direct: true, signal, disk })).root;
  const path = `${keptPath}.new`;
  const map = await disk.map(imagePath, sizeBytes);
  const sums = await ServedSums.create({ disk, path, sizeBytes, imageInode }, '');
  let read = '';
  try {
    await sums.fill({ image: image.file, map }, { signal });
    read = await sums.root();
    if (read === root && sums.isDurable) await sums.moveTo(rootSnapshot(root), new Bitmap(0));
  } finally {
    await sums.close();
    if (read !== root || !sums.isDurable) await disk.remove(path);
  }
  if (read !== root || !sums.isDurable) return read;
  await disk.rename(path, keptPath);
  await disk.syncDirectory(keptPath);
  return read;
}
