/** Disks for tests that need shared blocks: an XFS in a file, mounted through a loop device. */
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Why no such disk can be made here; null when one can. */
export function xfsMissing(): string | null {
  if (process.getuid?.() !== 0) return 'needs root';
  if (spawnSync('mkfs.xfs', ['-V']).status !== 0) return 'needs mkfs.xfs';
  if (spawnSync('filefrag', [import.meta.filename]).status !== 0) return 'needs filefrag';
  return spawnSync('losetup', ['--find']).status === 0 ? null : 'needs loop devices';
}

/** A mounted XFS with reflinks that goes with the `using` block. */
export function temporaryXfs(sizeMib: number): { dir: string; [Symbol.dispose](): void } {
  const root = mkdtempSync(join(tmpdir(), 'ferry-xfs-'));
  const [image, dir] = [join(root, 'disk'), join(root, 'mnt')];
  closeSync(openSync(image, 'w'));
  truncateSync(image, sizeMib * 1_048_576);
  mkdirSync(dir);
  execFileSync('mkfs.xfs', ['-q', '-m', 'reflink=1', image]);
  execFileSync('mount', ['-o', 'loop', image, dir]);
  return {
    dir,
    [Symbol.dispose]() {
      execFileSync('umount', [dir]);
      rmSync(root, { recursive: true, force: true });
    },
  };
}
