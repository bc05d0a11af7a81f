import { spawn } from 'node:child_process';
import { once } from 'node:events';
import * as files from 'node:fs/promises';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { findHolders } from './holders.ts';
import { temporaryFolder } from './store.testkit.ts';

async function shell(script: string, cwd: string): Promise<number> {
  const child = spawn('sh', ['-c', `${script}; echo ready; exec sleep 1000`], {
    cwd,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exit = once(child, 'exit');
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await exit;
  });
  await once(child.stdout, 'data');
  return child.pid!;
}

async function imageIn(folder: string) {
  const path = join(folder, 'image');
  await files.writeFile(path, 'bytes');
  const { dev, ino } = await files.stat(path);
  return { path, dev, ino };
}

test('names a process with the image open by PID, start time and command, even under another name', async () => {
  const folder = await temporaryFolder();
  const image = await imageIn(folder);
  await files.link(image.path, join(folder, 'other-name'));
  const pid = await shell('exec 3<other-name', folder);
  const holders = await findHolders(files, { image, devices: [] }, process.pid);
  expect(holders).toEqual([
    {
      pid,
      startTimeTicks: expect.any(Number),
      command: 'sleep 1000',
      how: 'fd',
      path: join(folder, 'other-name'),
      isAgent: false,
    },
  ]);
  const stat = await files.readFile(`/proc/${pid}/stat`, 'utf8');
  expect(stat.split(' ')[21]).toBe(String(holders[0]!.startTimeTicks));
});

test('names nobody for an image that nobody has open, whatever else they do in its folder', async () => {
  const folder = await temporaryFolder();
  const image = await imageIn(folder);
  await files.writeFile(join(folder, 'other'), '');
  await shell('exec 3<other', folder);
  expect(await findHolders(files, { image, devices: [] }, process.pid)).toEqual([]);
});

test('a character device with the number of the volume device is something else', async () => {
  const folder = await temporaryFolder();
  const pid = await shell('exec 3</dev/null', folder);
  expect((await files.stat('/dev/null')).rdev).toBe(0x103);
  const holders = await findHolders(files, { image: null, devices: ['1:3'] }, process.pid);
  expect(holders.filter((holder) => holder.pid === pid)).toEqual([]);
});

test('the agent itself is marked', async () => {
  const image = await imageIn(await temporaryFolder());
  const file = await files.open(image.path);
  onTestFinished(() => file.close());
  const holders = await findHolders(files, { image, devices: [] }, process.pid);
  expect(holders).toMatchObject([{ pid: process.pid, isAgent: true, how: 'fd' }]);
});
