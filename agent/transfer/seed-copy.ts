import { BASE_ALLOCATION } from '../../nbd/export.ts';
import type { Clock } from '../../shared/clock.ts';
import { type Disk, hostDisk } from './disk.ts';
import { diskError } from './error.ts';
import { FileExport } from './file-export.ts';
import { openKeptSums, rootSnapshot } from './kept-sums.ts';
import { type PullProgress, pullVolume } from './pull.ts';
import type { PullSource } from './source.ts';
import { SumsFile } from './sums.ts';

export interface SeedOptions {
  /** A relinquished image of the Machine's volume that this host still keeps, and `root.sums` beside it. */
  readonly kept: { readonly imagePath: string; readonly sumsPath: string };
  readonly root: string;
  /** The image to be received and its state, as for `pullVolume`. */
  readonly imagePath: string;
  readonly statePath: string;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly onProgress?: (progress: PullProgress) => void;
  readonly disk?: Disk;
}

/**
 * Begins a copy with the bytes of a kept one: shares its blocks where that is possible, else copies its data on this disk.
 * The copy then holds the snapshot `root:<root>`, whose name is returned; what it holds is read back by the next
 * `pullVolume`. Null when the copy is begun already, or the kept one has no sums of that root: then nothing was changed.
 * A call that was cut is repeated. Rejects with a `TransferError`.
 */
export async function seedCopy(options: SeedOptions): Promise<string | null> {
  const { kept, root, imagePath, statePath, disk = hostDisk } = options;
  const snapshot = rootSnapshot(root);
  const begun = await heldSnapshot(statePath, disk);
  if (begun !== null && begun !== snapshot) return null;
  const there = await stat(disk, kept.imagePath);
  const image = await stat(disk, imagePath);
  if (there?.sizeBytes !== image?.sizeBytes || !there) return null;
  const { sizeBytes, inode } = there;
  const sums = await openKeptSums({ disk, path: kept.sumsPath, sizeBytes, imageInode: inode }, root);
  if (!sums) return null;
  try {
    if (sums.unknownCount > 0) return null;
    if (begun === snapshot && (await isWhole(statePath, disk))) return snapshot;
    if (!(await disk.share(kept.imagePath, imagePath))) return await copyHere(options, snapshot);
    const shared = (await stat(disk, imagePath))!;
    const header = { sizeBytes, snapshot, imageInode: shared.inode, fresh: false, repaired: false };
    const state = await SumsFile.create(disk, statePath, header);
    try {
      await sums.copyTo(state);
    } finally {
      await state.close();
    }
    return snapshot;
  } catch (error) {
    throw diskError(error, `beginning ${imagePath} with a kept copy`);
  } finally {
    await sums.close();
  }
}

/** Name of the snapshot that a copy holds, whole or in part: what its source must be told. Null when it holds none. */
export async function heldSnapshot(statePath: string, disk: Disk = hostDisk): Promise<string | null> {
  const sums = await SumsFile.open(disk, statePath);
  if (!sums) return null;
  const { snapshot } = sums.header;
  await sums.close();
  return snapshot;
}

async function copyHere(options: SeedOptions, snapshot: string): Promise<string | null> {
  const { kept, root, imagePath, statePath, clock, signal, onProgress, disk = hostDisk } = options;
  const file = await FileExport.open(kept.imagePath);
  const source: PullSource = {
    sizeBytes: file.sizeBytes,
    requestBytesMax: 1_048_576,
    contexts: new Set([BASE_ALLOCATION]),
    read: (target, offset, length) => file.readInto(target, offset, length),
    blockStatus: (context, offset, length) => file.blockStatus(context, offset, length),
    close: async () => {},
  };
  try {
    const { sizeBytes } = file;
    const where = { connect: async () => source, imagePath, statePath, sizeBytes, snapshot, clock, signal, disk };
    const copied = await pullVolume(onProgress ? { ...where, onProgress } : where);
    if (copied.root === root) return snapshot;
    // What is kept is not what it was: nothing can be begun with it.
    await disk.remove(statePath);
    return null;
  } finally {
    await file.close();
  }
}

async function isWhole(statePath: string, disk: Disk): Promise<boolean> {
  const state = await SumsFile.open(disk, statePath);
  if (!state) return false;
  const whole = state.received.next(0, false) === state.chunkCount;
  await state.close();
  return whole;
}

async function stat(disk: Disk, path: string): Promise<{ sizeBytes: number; inode: number } | null> {
  const file = await disk.open(path, { mode: 'read', direct: false });
  if (!file) return null;
  const found = await file.stat();
  await file.close();
  return found;
}
