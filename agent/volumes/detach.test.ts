import { expect, test } from 'vitest';
import type { Files } from './files.ts';
import { unmountImage } from './mount.ts';

const image = '/data/volumes/vol_a/owned-e1.img';
const other = '/data/volumes/vol_b/owned-e1.img';
const missing = Object.assign(new Error('missing'), { code: 'ENOENT' });

/** A kernel that lets go of the image's loop device after so many looks, and gives it to another volume at once. */
function kernel(looksUntilFree: number) {
  let looks = 0;
  const files = {
    realpath: async (path: string) => path,
    readdir: async (path: string) => (path === '/sys/block' ? ['loop2'] : []),
    readFile: async (path: string) => {
      if (path === '/sys/block/loop2/dev') return '7:2\n';
      if (path === '/sys/block/loop2/loop/backing_file') {
        looks += 1;
        return `${looks <= looksUntilFree ? image : other}\n`;
      }
      const isTaken = looks >= looksUntilFree;
      if (path === '/proc/self/mountinfo')
        return isTaken ? '36 35 7:2 / /data/mnt/vol_b rw,noatime - ext4 /dev/loop2 rw\n' : '';
      throw missing;
    },
    open: async () => ({ sync: async () => {}, close: async () => {} }),
    rmdir: async () => Promise.reject(missing),
  } as never as Files;
  const run = async () => ({ exitCode: 0, signal: null, stdout: '', stderr: '' }) as never;
  const tools = { files, run, sleep: async () => {}, agentPid: 1, timeoutMs: 1000 };
  return unmountImage(tools, { volumeId: 'vol_a', imagePath: image, mountPoint: '/data/mnt/vol_a' });
}

test.each([1, 2, 3, 4])(
  'a loop device that is let go at look %i and taken by another volume holds nobody up',
  async (look) => {
    await expect(kernel(look)).resolves.toBeUndefined();
  },
);
