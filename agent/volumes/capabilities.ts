import { constants } from 'node:fs';
import { join } from 'node:path';
import { describeFailure, type Run } from './command.ts';
import { errnoOf, toVolumeError } from './errors.ts';
import type { Files } from './files.ts';
import { makeExt4 } from './filesystem.ts';
import { type MountTools, mountImage, unmountImage } from './mount.ts';

const probePrefix = '.probe-';
const imageBytes = 16 * 1024 * 1024;
const dataBytes = 256 * 1024;
const roomBytes = 4 * 1024 * 1024;

/** What a data directory's disk and the agent's rights allow; each was tried, none is guessed. */
export interface VolumeCapabilities {
  /** Images can be mounted through loop devices. Else Machines are handed the raw image file. */
  readonly mount: boolean;
  /** Files can share blocks (XFS, btrfs): snapshots cost next to nothing. */
  readonly reflink: boolean;
  /** `filefrag` lists extents: only data has to be read, and changed extents can be told. */
  readonly fiemap: boolean;
  /** `mkfs.ext4` is there. Else new volumes are raw. */
  readonly mkfs: boolean;
  /** `fallocate --punch-hole` gives space back. */
  readonly punch: boolean;
  /** For each that is false, why, in words for the operator. */
  readonly reasons: { readonly [name in Exclude<keyof VolumeCapabilities, 'reasons'>]?: string };
}

/**
 * Tries everything once in a temporary folder in `dir` (which must exist) and leaves nothing behind. Throws VolumeError:
 * `no_space` when there is no room to try, as on a full disk a failure would say nothing about the host.
 */
export async function probeCapabilities(dir: string, tools: MountTools): Promise<VolumeCapabilities> {
  const { files } = tools;
  try {
    await removeLeftovers(dir, tools);
    const folder = await files.mkdtemp(join(await files.realpath(dir), probePrefix));
    try {
      return await probeIn(folder, tools);
    } finally {
      await files.rm(folder, { recursive: true, force: true });
    }
  } catch (error) {
    throw toVolumeError(error, `probe what ${dir} can do`, { paths: [dir] });
  }
}

async function probeIn(folder: string, tools: MountTools): Promise<VolumeCapabilities> {
  const { files, run } = tools;
  await files.writeFile(join(folder, 'room'), Buffer.alloc(roomBytes, 0x5a), { flush: true });
  await files.rm(join(folder, 'room'));
  await files.writeFile(join(folder, 'data'), Buffer.alloc(dataBytes, 0x5a), { flush: true });
  const reasons: { [name in Exclude<keyof VolumeCapabilities, 'reasons'>]?: string } = {};
  const attempt = async (name: keyof typeof reasons, action: () => Promise<void>): Promise<boolean> => {
    try {
      await action();
      return true;
    } catch (error) {
      reasons[name] = (error as Error).message;
      return false;
    }
  };
  const mkfs = await attempt('mkfs', () => probeMkfs(folder, tools));
  const mount = await attempt('mount', async () => {
    if (!mkfs) throw new Error('there is no ext4 image to try it with');
    await probeMount(folder, tools);
  });
  const reflink = await attempt('reflink', () => probeReflink(folder, files));
  const fiemap = await attempt('fiemap', () => probeFiemap(join(folder, 'data'), run));
  const punch = await attempt('punch', () => probePunch(join(folder, 'data'), files, run));
  return { mount, reflink, fiemap, mkfs, punch, reasons };
}

async function probeMkfs(folder: string, { files, run, timeoutMs }: MountTools): Promise<void> {
  const path = join(folder, 'image');
  const image = await files.open(path, 'wx', 0o600);
  try {
    await image.truncate(imageBytes);
  } finally {
    await image.close();
  }
  await makeExt4(run, path, { label: 'probe', owner: { uid: 0, gid: 0 }, timeoutMs });
}

async function probeMount(folder: string, tools: MountTools): Promise<void> {
  const target = { volumeId: 'probe', imagePath: join(folder, 'image'), mountPoint: join(folder, 'mnt') };
  await mountImage(tools, target);
  try {
    await tools.files.writeFile(join(target.mountPoint, 'file'), 'written', { flush: true });
  } finally {
    await unmountImage(tools, target);
  }
}

async function probeReflink(folder: string, files: Files): Promise<void> {
  try {
    await files.copyFile(join(folder, 'data'), join(folder, 'clone'), constants.COPYFILE_FICLONE_FORCE);
  } catch (cause) {
    throw new Error(`this file system cannot share blocks (${errnoOf(cause)}); XFS and btrfs can`, { cause });
  }
}

async function probeFiemap(path: string, run: Run): Promise<void> {
  const result = await run('filefrag', ['-v', path], { timeoutMs: 10_000 });
  if (result.exitCode !== 0) throw new Error(describeFailure('filefrag', result));
  if (!/^\s*0:\s+0\.\.\s*\d+:/m.test(result.stdout)) throw new Error('filefrag listed no extent of a file with data');
}

async function probePunch(path: string, files: Files, run: Run): Promise<void> {
  const result = await run('fallocate', ['--punch-hole', '--offset', '0', '--length', String(dataBytes / 2), path], {
    timeoutMs: 10_000,
  });
  if (result.exitCode !== 0) throw new Error(describeFailure('fallocate', result));
  const bytes = await files.readFile(path);
  if (bytes.length !== dataBytes || !bytes.subarray(0, dataBytes / 2).every((byte) => byte === 0)) {
    throw new Error('fallocate said that it punched a hole, but the old bytes are still there');
  }
}

// An agent killed while probing leaves its folder, perhaps with a mount in it.
async function removeLeftovers(dir: string, tools: MountTools): Promise<void> {
  const root = await tools.files.realpath(dir);
  for (const name of await tools.files.readdir(root)) {
    if (!name.startsWith(probePrefix)) continue;
    const target = { volumeId: 'probe', imagePath: join(root, name, 'image'), mountPoint: join(root, name, 'mnt') };
    const hasImage = (await tools.files.readdir(join(root, name))).includes('image');
    if (hasImage) await unmountImage(tools, target);
    await tools.files.rm(join(root, name), { recursive: true, force: true });
  }
}
