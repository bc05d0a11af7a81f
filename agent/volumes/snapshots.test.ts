import * as files from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { temporaryXfs, xfsMissing } from '../transfer/testing-xfs.ts';
import { probeCapabilities } from './capabilities.ts';
import type { Run } from './command.ts';
import { capabilitiesHere, mebibyteBytes, run, temporaryStore, tools, volumeA, volumeB } from './store.testkit.ts';
import type { VolumeStore, VolumeStoreOptions } from './store.ts';

const missing = xfsMissing();
const sizeBytes = 16 * mebibyteBytes;

test('where files cannot share blocks there is no snapshot, and the reason is given', async () => {
  const capabilities = { ...(await capabilitiesHere()), reflink: false, reasons: { reflink: 'not on this one' } };
  const { store } = await temporaryStore(capabilities);
  await store.create({ volumeId: volumeA, sizeBytes, epoch: 1, filesystem: 'raw' });
  const taken = store.snapshot(volumeA, 'first');
  await expect(taken).rejects.toMatchObject({
    reason: 'unsupported',
    message: expect.stringContaining('not on this one'),
  });
  expect(await store.snapshots()).toEqual([]);
});

describe.skipIf(missing !== null)(`snapshots on XFS (${missing ?? 'needs root, XFS and loop devices'})`, () => {
  let xfs: ReturnType<typeof temporaryXfs>;
  let store: VolumeStore;
  beforeEach(async () => {
    xfs = temporaryXfs(512);
    store = await storeWith({});
  });
  afterEach(() => xfs[Symbol.dispose]());

  async function storeWith(overrides: Partial<VolumeStoreOptions>): Promise<VolumeStore> {
    const capabilities = await probeCapabilities(xfs.dir, tools);
    return (await temporaryStore(capabilities, { dir: xfs.dir, ...overrides })).store;
  }

  test('hold the bytes of their moment, read-only, beside the image, and go with the volume', async () => {
    const { path } = await store.create({ volumeId: volumeA, sizeBytes, epoch: 1, filesystem: 'raw' });
    await files.writeFile(path, 'before', { flag: 'r+' });
    const snapshot = await store.snapshot(volumeA, 'mig_A-1');
    expect(snapshot).toMatchObject({ volumeId: volumeA, name: 'mig_A-1', path: join(path, '..', 'mig_A-1.snap') });
    expect(snapshot.tookMs).toBeGreaterThan(0);
    await files.writeFile(path, 'after!', { flag: 'r+' });
    expect((await files.readFile(snapshot.path)).subarray(0, 6).toString()).toBe('before');
    expect((await files.stat(snapshot.path)).mode & 0o777).toBe(0o400);
    expect(await store.snapshot(volumeA, 'mig_A-1')).toMatchObject({ tookMs: 0 });
    expect(await store.inspect(volumeA)).toMatchObject({ state: 'owned', sizeBytes });
    expect((await store.list()).strange).toEqual([]);
    await store.create({ volumeId: volumeB, sizeBytes, epoch: 1, filesystem: 'raw' });
    await store.snapshot(volumeB, 'other');
    expect((await store.snapshots()).map(({ name }) => name)).toEqual(['mig_A-1', 'other']);
    expect((await store.snapshots(volumeB)).map(({ name }) => name)).toEqual(['other']);
    await store.dropSnapshot(volumeB, 'other');
    await store.dropSnapshot(volumeB, 'other');
    expect(await store.snapshots(volumeB)).toEqual([]);
    expect(await store.destroy(volumeA)).toBe(true);
    expect(await store.snapshots()).toEqual([]);
  });

  test('are taken of owned volumes only, and only under names that stay in the folder', async () => {
    await store.createReceiving({ volumeId: volumeA, sizeBytes });
    await expect(store.snapshot(volumeA, 'first')).rejects.toMatchObject({ reason: 'wrong_state' });
    await expect(store.snapshot(volumeB, 'first')).rejects.toMatchObject({ reason: 'volume_not_found' });
    for (const name of ['', '../x', 'a/b', '.x', 'x'.repeat(101)]) {
      await expect(store.snapshot(volumeA, name)).rejects.toMatchObject({ reason: 'invalid' });
    }
  });

  test('that a crash has left half made are no snapshots, and are removed at the next start', async () => {
    const { path } = await store.create({ volumeId: volumeA, sizeBytes, epoch: 1, filesystem: 'raw' });
    const rename = () => Promise.reject(new Error('the power is gone'));
    const rm = async () => {};
    const broken = await storeWith({ files: { ...files, rename, rm } });
    await expect(broken.snapshot(volumeA, 'first')).rejects.toThrow('the power is gone');
    const left = join(path, '..', 'first.snap.making');
    expect(await files.readdir(join(path, '..'))).toContain('first.snap.making');
    expect(await store.snapshots()).toEqual([]);
    expect(await store.open()).toEqual([left]);
  });

  test('do not wait for what else takes long on the volume', async () => {
    const checking = Promise.withResolvers<void>();
    const done = Promise.withResolvers<void>();
    const slow: Run = async (program, args, options) => {
      if (program !== 'e2fsck') return run(program, args, options);
      checking.resolve();
      await done.promise;
      return { exitCode: 0, signal: null, stdout: '', stderr: '' };
    };
    store = await storeWith({ run: slow });
    await store.create({ volumeId: volumeA, sizeBytes, epoch: 1, filesystem: 'ext4' });
    const check = store.check(volumeA, { repair: false, timeoutMs: 60_000 });
    await checking.promise;
    await store.snapshot(volumeA, 'first');
    done.resolve();
    await check;
  });

  test('have what the file system still had in memory; its extents are counted, the disk is measured', async () => {
    await store.create({ volumeId: volumeA, sizeBytes, epoch: 1, filesystem: 'ext4' });
    const { path } = await store.mount(volumeA);
    const mark = 'written by the Machine a moment ago';
    await files.writeFile(join(path, 'file'), mark);
    const { path: snapshot } = await store.snapshot(volumeA, 'first');
    expect((await files.readFile(snapshot)).includes(mark)).toBe(true);
    expect((await store.written(volumeA)).extents).toBeGreaterThan(1);
    expect(await store.diskBytes()).toBeGreaterThan(await store.freeBytes());
    await store.unmount(volumeA);
  });

  test('a sync that fails while one is taken is told again when the volume is unmounted', async () => {
    await store.create({ volumeId: volumeA, sizeBytes, epoch: 1, filesystem: 'raw' });
    let isBroken = true;
    const open = (async (path: string, ...rest: never[]) => {
      const handle = await files.open(path, ...rest);
      if (isBroken && path.endsWith('.img'))
        handle.sync = () => Promise.reject(Object.assign(new Error('EIO'), { code: 'EIO' }));
      return handle;
    }) as typeof files.open;
    store = await storeWith({ files: { ...files, open } });
    await expect(store.snapshot(volumeA, 'first')).rejects.toMatchObject({ reason: 'io' });
    isBroken = false;
    await expect(store.unmount(volumeA)).rejects.toMatchObject({ reason: 'io' });
  });
});

describe('a volume made from a file', () => {
  test('without a size is as large as the file, in whole blocks', async () => {
    const { store, dir } = await temporaryStore(await capabilitiesHere());
    const from = join(dir, 'disk.img');
    await files.writeFile(from, Buffer.alloc(2 * mebibyteBytes + 5, 1));
    const volume = await store.create({ volumeId: volumeA, sizeBytes: 0, epoch: 1, from });
    expect(volume.sizeBytes).toBe(2 * mebibyteBytes + 4096);
    await files.writeFile(from, 'tiny');
    expect((await store.create({ volumeId: volumeB, sizeBytes: 0, epoch: 1, from })).sizeBytes).toBe(mebibyteBytes);
  });

  test('is refused for a folder, a pipe, a missing file, and without a file', async () => {
    const { store, dir } = await temporaryStore(await capabilitiesHere());
    const pipe = join(dir, 'pipe');
    await run('mkfifo', [pipe], { timeoutMs: 10_000 });
    for (const from of [dir, pipe, join(dir, 'missing'), '/dev/null']) {
      const made = store.create({ volumeId: volumeA, sizeBytes: 0, epoch: 1, from });
      await expect(made).rejects.toMatchObject({ reason: 'invalid', paths: [from] });
    }
    await expect(store.create({ volumeId: volumeA, sizeBytes: 0, epoch: 1 })).rejects.toMatchObject({
      reason: 'invalid',
    });
    expect(await store.inspect(volumeA)).toBeNull();
  });
});
