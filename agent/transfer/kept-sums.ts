import { type Disk, hostDisk } from './disk.ts';
import { ServedSums, type ServedSumsOptions } from './served-sums.ts';
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
