import * as files from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { loopDevicesOf, releaseLoopDevice } from './loop.ts';
import { capabilitiesHere, mebibyteBytes, run, succeed, temporaryFolder } from './store.testkit.ts';

const { mount, reasons } = await capabilitiesHere();
const title = `(needs root: ${reasons.mount ?? 'works here'})`;
const withoutLosetup = () => run('ferry-no-such-program', [], { timeoutMs: 10_000 });

test('an image that is attached to nothing has no loop device, with losetup and without', async () => {
  const image = join(await temporaryFolder(), 'image');
  await files.writeFile(image, Buffer.alloc(mebibyteBytes));
  expect(await loopDevicesOf(files, run, image)).toEqual([]);
  expect(await loopDevicesOf(files, withoutLosetup, image)).toEqual([]);
});

test.skipIf(!mount)(`every device is found, by any path, after a rename, and without losetup ${title}`, async () => {
  const folder = await temporaryFolder();
  const [image, renamed, alias] = [join(folder, 'image'), join(folder, 'renamed'), join(folder, 'alias')];
  await files.writeFile(image, Buffer.alloc(2 * mebibyteBytes));
  await files.writeFile(join(folder, 'image2'), Buffer.alloc(mebibyteBytes));
  const attach = async (...args: string[]) => (await succeed('losetup', '--find', '--show', ...args)).trim();
  const paths = [await attach(image), await attach('--offset', '4096', image)];
  await attach(join(folder, 'image2'));

  await files.rename(image, renamed);
  for (const runner of [run, withoutLosetup]) {
    expect((await loopDevicesOf(files, runner, renamed)).map(({ path }) => path).sort()).toEqual(paths.sort());
  }
  await files.mkdir(alias);
  await succeed('mount', '--bind', folder, alias);
  const found = await loopDevicesOf(files, run, join(alias, 'renamed'));
  expect(found.map(({ path }) => path).sort()).toEqual(paths.sort());

  for (const device of found) await releaseLoopDevice(run, device);
  expect(await loopDevicesOf(files, run, renamed)).toEqual([]);
});
