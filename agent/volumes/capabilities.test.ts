import * as files from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { probeCapabilities } from './capabilities.ts';
import { capabilitiesHere, mebibyteBytes, run, succeed, temporaryFolder, tools } from './store.testkit.ts';

const here = await capabilitiesHere();
const canMakeXfs = here.mount && (await run('mkfs.xfs', ['-V'], { timeoutMs: 10_000 }).catch(() => null)) !== null;

test('each capability that is missing has its reason, and the probe leaves nothing behind', async () => {
  const dir = await temporaryFolder();
  const { reasons, ...capabilities } = await probeCapabilities(dir, tools);
  const missing = Object.entries(capabilities).filter(([, works]) => !works);
  expect(Object.keys(reasons).sort()).toEqual(missing.map(([name]) => name).sort());
  expect(await files.readdir(dir)).toEqual([]);
});

test('without any program only reflink can be there', async () => {
  const dir = await temporaryFolder();
  const bare = { ...tools, run: () => run('ferry-no-such-program', [], { timeoutMs: 10_000 }) };
  const { reasons, ...capabilities } = await probeCapabilities(dir, bare);
  expect(capabilities).toMatchObject({ mount: false, fiemap: false, mkfs: false, punch: false });
  for (const name of ['fiemap', 'mkfs', 'punch'] as const) expect(reasons[name]).toContain('is not installed');
  expect(reasons.mount).toContain('no ext4 image');
});

test('a program that only pretends to work is found out', async () => {
  const dir = await temporaryFolder();
  const pretend = { ...tools, run: () => run('true', [], { timeoutMs: 10_000 }) };
  expect(await probeCapabilities(dir, pretend)).toMatchObject({ mount: false, fiemap: false, punch: false });
});

test.skipIf(!canMakeXfs)('XFS shares blocks, tmpfs lists no extents (needs root and mkfs.xfs)', async () => {
  const folder = await temporaryFolder();
  const [image, xfs, tmpfs] = [join(folder, 'xfs.img'), join(folder, 'xfs'), join(folder, 'tmpfs')];
  await files.mkdir(xfs);
  await files.mkdir(tmpfs);
  await succeed('truncate', '--size', String(400 * mebibyteBytes), image);
  await succeed('mkfs.xfs', '-q', image);
  await succeed('mount', '-o', 'loop', image, xfs);
  await succeed('mount', '-t', 'tmpfs', 'none', tmpfs);
  expect(await probeCapabilities(xfs, tools)).toMatchObject({ reflink: true, fiemap: true, mount: true });
  const onTmpfs = await probeCapabilities(tmpfs, tools);
  expect(onTmpfs).toMatchObject({ reflink: false, fiemap: false });
  expect(onTmpfs.reasons.reflink).toContain('cannot share blocks');
});

test.skipIf(!here.mount)(
  'what an agent killed while probing left is removed, its mount first (needs root)',
  async () => {
    const dir = await temporaryFolder();
    const left = join(dir, '.probe-killed');
    await files.mkdir(join(left, 'mnt'), { recursive: true });
    await succeed('truncate', '--size', String(16 * mebibyteBytes), join(left, 'image'));
    await succeed('mkfs.ext4', '-q', '-F', join(left, 'image'));
    await succeed('mount', '-o', 'loop', join(left, 'image'), join(left, 'mnt'));
    expect(await probeCapabilities(dir, tools)).toMatchObject({ mount: true });
    expect(await files.readdir(dir)).toEqual([]);
  },
);

test('a data directory that is missing is an error, not a host that can do nothing', async () => {
  const dir = join(await temporaryFolder(), 'missing');
  await expect(probeCapabilities(dir, tools)).rejects.toMatchObject({ name: 'VolumeError', paths: [dir] });
});

test.skipIf(!here.mount)('a full disk is no_space, not a host that can do nothing (needs root)', async () => {
  const disk = join(await temporaryFolder(), 'disk');
  await files.mkdir(disk);
  await succeed('mount', '-t', 'tmpfs', '-o', 'size=1m', 'none', disk);
  await expect(probeCapabilities(disk, tools)).rejects.toMatchObject({ reason: 'no_space', paths: [disk] });
  expect(await files.readdir(disk)).toEqual([]);
});
