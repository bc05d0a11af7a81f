import { describeFailure, type Run } from './command.ts';
import { VolumeError } from './errors.ts';
import { type Files, syncDirectory, syncFile } from './files.ts';
import { findHolders, type Holder } from './holders.ts';
import { loopDevicesOf, releaseLoopDevice } from './loop.ts';
import { type MountEntry, parseMountinfo } from './mountinfo.ts';

/** What mounting needs from outside. */
export interface MountTools {
  readonly files: Files;
  readonly run: Run;
  /** Waits; used between looks at a loop device that the kernel is still letting go of. */
  readonly sleep: (milliseconds: number) => Promise<unknown>;
  readonly agentPid: number;
  /** Deadline for each of sync, mount and umount. They write back what the Machine left in memory. */
  readonly timeoutMs: number;
}

/** An image and the place where it is, or is to be, mounted. Both absolute, without symbolic links. */
export interface MountTarget {
  readonly volumeId: string;
  readonly imagePath: string;
  readonly mountPoint: string;
}

// Buffered on purpose: with direct I/O the final delta would have to be read from the disk while the Machine is down.
const mountOptions = 'nodev,nosuid,noatime,noinit_itable,errors=remount-ro';
const detachLooks = 100;
const detachPauseMs = 20;
const stackedMountsMax = 8;

/**
 * Mounts an ext4 image through a loop device that the kernel frees by itself after the last unmount. Finds an existing
 * mount again, so repeating it is harmless. Throws VolumeError.
 */
export async function mountImage(tools: MountTools, target: MountTarget): Promise<void> {
  const { files, run } = tools;
  const { volumeId, imagePath, mountPoint } = target;
  const existing = await findMount(tools, target);
  if (existing) return assertWritable(existing, target);

  await files.mkdir(mountPoint, { recursive: true, mode: 0o755 });
  const beneath = await files.readdir(mountPoint);
  if (beneath.length > 0) {
    const text = `${mountPoint} is not mounted but holds ${beneath.slice(0, 5).join(', ')}: move these files away first`;
    throw new VolumeError('strange_content', text, { volumeId, paths: [mountPoint] });
  }
  // A process in another mount namespace can have kept the file system: mount that one again, never the image twice.
  const attached = await loopDevicesOf(files, run, imagePath);
  if (attached.length > 1) throw await busy(tools, target, `${imagePath} is attached to several loop devices`);
  const device = attached[0];
  const args = device
    ? ['-w', '-t', 'ext4', '-o', mountOptions, device.path, mountPoint]
    : ['-w', '-t', 'ext4', '-o', `loop,${mountOptions}`, imagePath, mountPoint];
  const result = await run('mount', args, tools);
  const made = await findMount(tools, target);
  if (made) return assertWritable(made, target);
  throw new VolumeError('io', describeFailure('mount', result), { volumeId, paths: [imagePath, mountPoint] });
}

/**
 * Unmounts an image and returns when nothing in this kernel can write to it any more through a file system: its data is
 * synced, its loop device is observed detached, the file itself is synced. Harmless when it was not mounted.
 * Throws VolumeError `volume_busy` with the holders; the mount is then as it was, or gone while its device is still attached.
 */
export async function unmountImage(tools: MountTools, target: MountTarget): Promise<void> {
  const { files, run } = tools;
  const { volumeId, imagePath, mountPoint } = target;
  for (let mounts = 0; await findMount(tools, target); mounts += 1) {
    const synced = await run('sync', ['--file-system', mountPoint], tools);
    if (synced.exitCode !== 0) {
      throw new VolumeError('io', describeFailure('sync', synced), { volumeId, paths: [mountPoint] });
    }
    const result = await run('umount', [mountPoint], tools);
    if (result.exitCode !== 0 || mounts >= stackedMountsMax) {
      throw await busy(tools, target, `${mountPoint} could not be unmounted: ${describeFailure('umount', result)}`);
    }
  }
  await waitUntilDetached(tools, target);
  await syncFile(files, imagePath);
  // Without its mount the folder would take in data that belongs on the volume.
  await removeMountPoint(files, mountPoint);
}

function assertWritable(mount: MountEntry, { volumeId, imagePath }: MountTarget): void {
  if (!mount.isReadOnly) return;
  const text = `${mount.mountPoint} is mounted read-only, as after an error of the disk: unmount and check the volume`;
  throw new VolumeError('read_only', text, { volumeId, paths: [mount.mountPoint, imagePath] });
}

/** The image's mount in the agent's mount namespace, or null. */
export async function findMount(tools: MountTools, target: MountTarget): Promise<MountEntry | null> {
  const { volumeId, imagePath, mountPoint } = target;
  const entry = (await ownMounts(tools.files)).findLast((mount) => mount.mountPoint === mountPoint);
  if (!entry) return null;
  const attached = await loopDevicesOf(tools.files, tools.run, imagePath);
  if (attached.some(({ device }) => device === entry.device)) return entry;
  const text = `${mountPoint} has device ${entry.device} (${entry.type}) mounted, which is not ${imagePath}: unmount it`;
  throw new VolumeError('strange_content', text, { volumeId, paths: [mountPoint, imagePath] });
}

/** The processes that hold the image or the file system in it; see findHolders for what cannot be seen. */
export async function holdersOf(tools: MountTools, imagePath: string): Promise<Holder[]> {
  const { dev, ino } = await tools.files.stat(imagePath);
  const devices = (await loopDevicesOf(tools.files, tools.run, imagePath)).map(({ device }) => device);
  return findHolders(tools.files, { image: { path: imagePath, dev, ino }, devices }, tools.agentPid);
}

async function waitUntilDetached(tools: MountTools, target: MountTarget): Promise<void> {
  const { files, run } = tools;
  for (let look = 0; ; look += 1) {
    const attached = await loopDevicesOf(files, run, target.imagePath);
    if (attached.length === 0) return;
    // A device that was attached by hand does not go by itself.
    if (look === 0) for (const device of attached) await releaseLoopDevice(run, device);
    // Holders do not let go by waiting; without one it is the kernel that has not finished yet.
    if (look === 1 || look === detachLooks) {
      const paths = attached.map(({ path }) => path).join(', ');
      const error = await busy(tools, target, `${target.imagePath} is unmounted but ${paths} is still attached to it`);
      if (error.holders.length > 0 || error.mounts.length > 0 || look === detachLooks) throw error;
    }
    if (look > 0) await tools.sleep(detachPauseMs);
  }
}

async function busy(tools: MountTools, target: MountTarget, what: string): Promise<VolumeError> {
  const { volumeId, imagePath, mountPoint } = target;
  const attached = await loopDevicesOf(tools.files, tools.run, imagePath);
  const devices = attached.map(({ device }) => device);
  // Who has the image file open (an export, a backup) does not keep the loop device: naming it would get it killed.
  const found = await findHolders(tools.files, { image: null, devices }, tools.agentPid);
  const ours = await ownMounts(tools.files);
  // A device that was let go meanwhile may be another volume's by now: what uses it is nothing of this one.
  const after = await loopDevicesOf(tools.files, tools.run, imagePath);
  const isSame = devices.every((device) => after.some((still) => still.device === device));
  const holders = isSame ? found : [];
  const mounts = (isSame ? ours : [])
    .filter((mount) => devices.includes(mount.device) || mount.mountPoint.startsWith(`${mountPoint}/`))
    .map((mount) => mount.mountPoint)
    .filter((path) => path !== mountPoint);
  const names = [
    ...holders.map((holder) => `process ${holder.pid} (${holder.command}) by its ${holder.how} ${holder.path}`),
    ...mounts.map((path) => `the mount at ${path}`),
  ];
  const who = names.length > 0 ? names.slice(0, 5).join('; ') : 'nobody that this agent may see';
  const text = `${what}; held by ${who}. End them and try again`;
  const paths = attached.map(({ path }) => path);
  return new VolumeError('volume_busy', text, { volumeId, paths: [imagePath], holders, mounts, devices: paths });
}

async function ownMounts(files: Files): Promise<MountEntry[]> {
  return parseMountinfo(await files.readFile('/proc/self/mountinfo', 'utf8'));
}

async function removeMountPoint(files: Files, mountPoint: string): Promise<void> {
  try {
    await files.rmdir(mountPoint);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTEMPTY') return;
    throw error;
  }
  await syncDirectory(files, mountPoint.slice(0, mountPoint.lastIndexOf('/')));
}
