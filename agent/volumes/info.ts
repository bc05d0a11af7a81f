import { join } from 'node:path';
import { errnoOf, VolumeError } from './errors.ts';
import type { Files } from './files.ts';
import { type ImageState, parseImageName } from './image.ts';

/** A volume as it is on the disk now. */
export type VolumeInfo = ImageState & {
  readonly volumeId: string;
  /** Size as the Machine sees it. */
  readonly sizeBytes: number;
  /** What it takes on the host's disk. */
  readonly allocatedBytes: number;
  /** The image file. Its name changes with its state: ask again after each change. */
  readonly path: string;
};

/** Looks at a volume's folder: null when there is none; throws `strange_content` when it is not what the store writes. */
export async function lookAtVolume(files: Files, volumeId: string, folder: string): Promise<VolumeInfo | null> {
  let names: string[];
  try {
    names = (await files.readdir(folder)).filter((name) => name.endsWith('.img')).sort();
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    if (errnoOf(error) !== 'ENOTDIR') throw error;
    throw new VolumeError('strange_content', `${folder} is no folder: move it away`, { volumeId, paths: [folder] });
  }
  const paths = names.map((name) => join(folder, name));
  const image = names.length === 1 ? parseImageName(names[0]!) : null;
  const stat = image && (await files.lstat(paths[0]!));
  if (!stat?.isFile()) {
    const what = names.length === 0 ? 'no image' : names.join(' and ');
    const text = `${folder} holds ${what}: expected one file receiving.img, owned-e<N>.img or relinquished-e<N>.img`;
    throw new VolumeError('strange_content', text, { volumeId, paths: paths.length > 0 ? paths : [folder] });
  }
  return { ...image!, volumeId, sizeBytes: stat.size, allocatedBytes: stat.blocks * 512, path: paths[0]! };
}
