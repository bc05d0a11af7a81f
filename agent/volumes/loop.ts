import { CommandError, type CommandResult, describeFailure, type Run } from './command.ts';
import { VolumeError } from './errors.ts';
import { type Files, namesIfThere, readIfThere } from './files.ts';

/** A loop device attached to an image. */
export interface LoopDevice {
  /** `/dev/loopN` */
  readonly path: string;
  /** `major:minor` */
  readonly device: string;
}

/**
 * Finds every loop device attached to an image, whoever attached it. Asks sysfs by name (the kernel follows renames)
 * and, where it is installed, `losetup` by device and inode, which also sees images opened through another path.
 */
export async function loopDevicesOf(files: Files, run: Run, imagePath: string): Promise<LoopDevice[]> {
  const [bySysfs, byInode] = await Promise.all([namesBySysfs(files, imagePath), namesByInode(run, imagePath)]);
  const found: LoopDevice[] = [];
  for (const name of new Set([...bySysfs, ...byInode])) {
    const device = (await readIfThere(files, `/sys/block/${name}/dev`))?.trim();
    if (device) found.push({ path: `/dev/${name}`, device });
  }
  return found;
}

/** Asks the kernel to let a loop device go: now when nobody uses it, else after its last use. Look afterwards. */
export async function releaseLoopDevice(run: Run, device: LoopDevice): Promise<void> {
  await losetup(run, ['--detach', device.path]);
}

async function namesBySysfs(files: Files, imagePath: string): Promise<string[]> {
  const realPath = await files.realpath(imagePath);
  const names = (await namesIfThere(files, '/sys/block')).filter((name) => name.startsWith('loop'));
  const matches = await Promise.all(
    names.map(async (name) => {
      const backing = await readIfThere(files, `/sys/block/${name}/loop/backing_file`);
      return backing?.replace(/\n$/, '') === realPath;
    }),
  );
  return names.filter((_, index) => matches[index]);
}

async function namesByInode(run: Run, imagePath: string): Promise<string[]> {
  const result = await losetup(run, ['--associated', imagePath, '--noheadings', '--output', 'NAME']);
  // Without losetup there is only what sysfs says.
  if (result === null) return [];
  if (result.exitCode !== 0) throw new VolumeError('io', describeFailure('losetup', result), { paths: [imagePath] });
  return [...result.stdout.matchAll(/^\/dev\/(loop\d+)\s*$/gm)].map((match) => match[1]!);
}

async function losetup(run: Run, args: string[]): Promise<CommandResult | null> {
  try {
    return await run('losetup', args, { timeoutMs: 10_000 });
  } catch (error) {
    if (error instanceof CommandError && error.reason === 'missing') return null;
    throw error;
  }
}
