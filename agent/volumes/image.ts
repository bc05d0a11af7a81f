import { join } from 'node:path';
import { type Files, syncDirectory, syncFile } from './files.ts';

/**
 * Who owns the bytes of an image. It is kept in the image's file name, so that one rename changes it, and so that it
 * cannot be lost apart from the data. `epoch` of a relinquished image is the epoch it was owned at.
 */
export type ImageState =
  | { readonly state: 'receiving' }
  | { readonly state: 'owned'; readonly epoch: number }
  | { readonly state: 'relinquished'; readonly epoch: number };

const ownedMode = 0o600;
const relinquishedMode = 0o400;

/** The file name of an image: `receiving.img`, `owned-e7.img`, `relinquished-e7.img`. */
export function imageName(image: ImageState): string {
  return image.state === 'receiving' ? 'receiving.img' : `${image.state}-e${image.epoch}.img`;
}

/** The state that a file name stands for, or null when this store never writes such a name. */
export function parseImageName(name: string): ImageState | null {
  if (name === 'receiving.img') return { state: 'receiving' };
  const match = /^(owned|relinquished)-e([1-9][0-9]{0,15})\.img$/.exec(name);
  const epoch = Number(match?.[2]);
  if (!match || !Number.isSafeInteger(epoch)) return null;
  return { state: match[1] as 'owned' | 'relinquished', epoch };
}

/** Says a state for people, as in "owned at epoch 7". */
export function describeImage(image: ImageState): string {
  return image.state === 'receiving' ? 'a copy being received' : `${image.state} at epoch ${image.epoch}`;
}

/**
 * Changes an image's state: bytes and mode are on the disk before the new name is. A crash leaves the old name or the
 * new one. With `from` equal to `to` it finishes what a crash may have cut off.
 */
export async function changeImageState(files: Files, folder: string, from: ImageState, to: ImageState): Promise<void> {
  const oldPath = join(folder, imageName(from));
  const newPath = join(folder, imageName(to));
  await files.chmod(oldPath, to.state === 'relinquished' ? relinquishedMode : ownedMode);
  await syncFile(files, oldPath);
  if (oldPath !== newPath) await files.rename(oldPath, newPath);
  await syncDirectory(files, folder);
}
