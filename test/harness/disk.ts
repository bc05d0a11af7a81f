import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, mkdirSync, openSync, rmSync, statfsSync, truncateSync, writeSync } from 'node:fs';
import { join } from 'node:path';

const mib = 1024 * 1024;

/** Why there can be no small disks here, or null. */
export function smallDisksMissing(): string | null {
  if (process.getuid?.() !== 0) return 'needs root';
  try {
    execFileSync('losetup', ['--find'], { stdio: 'ignore' });
    return null;
  } catch {
    return 'needs loop devices';
  }
}

/** Mounts an ext4 file system of so many MiB at `dir`; the cluster's end unmounts it. */
export function mountSmallDisk(dir: string, sizeMib: number): void {
  mkdirSync(dir, { recursive: true });
  const image = `${dir}.disk`;
  closeSync(openSync(image, 'w'));
  truncateSync(image, sizeMib * mib);
  execFileSync('mkfs.ext4', ['-q', '-F', '-m', '0', image], { stdio: 'ignore' });
  execFileSync('mount', ['-o', 'loop', image, dir]);
}

/** Why there can be no XFS here, or null. */
export function xfsMissing(): string | null {
  if (spawnSync('mkfs.xfs', ['-V'], { stdio: 'ignore' }).error !== undefined) return 'needs mkfs.xfs';
  return smallDisksMissing();
}

/** Mounts an XFS of so many MiB (at least 300), with blocks that files can share, at `dir`; the cluster's end unmounts it. */
export function mountXfs(dir: string, sizeMib: number): void {
  mkdirSync(dir, { recursive: true });
  const image = `${dir}.disk`;
  closeSync(openSync(image, 'w'));
  truncateSync(image, sizeMib * mib);
  execFileSync('mkfs.xfs', ['-q', '-m', 'reflink=1', image], { stdio: 'ignore' });
  execFileSync('mount', ['-o', 'loop', image, dir]);
}

/** Bytes that can still be written at `dir`. */
export function freeBytes(dir: string): number {
  const { bavail, bsize } = statfsSync(dir);
  return bavail * bsize;
}

/** Takes all room on the disk of `dir` but `leaveMib`; nothing at all is left with 0. */
export function fillDisk(dir: string, leaveMib: number): void {
  const path = join(dir, 'filler');
  const takeBytes = freeBytes(dir) - Math.max(leaveMib, 2) * mib;
  if (takeBytes > 0) execFileSync('fallocate', ['-l', String(takeBytes), path]);
  if (leaveMib > 0) return;
  const file = openSync(`${path}.rest`, 'w');
  try {
    const block = Buffer.alloc(4096, 1);
    while (freeBytes(dir) > 0) writeSync(file, block);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
  } finally {
    closeSync(file);
  }
}

/** Takes the filling away. */
export function clearDisk(dir: string): void {
  for (const name of ['filler', 'filler.rest']) rmSync(join(dir, name), { force: true });
}
