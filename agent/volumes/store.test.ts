// Past 300 lines: every verb of the store and every way in which it refuses, on one set of helpers.
import * as files from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Files } from './files.ts';
import { capabilitiesHere, mebibyteBytes, run, succeed, temporaryStore, volumeA, volumeB } from './store.testkit.ts';

const capabilities = await capabilitiesHere();
const rawOnly = { ...capabilities, mount: false, mkfs: false };
const sizeBytes = 64 * mebibyteBytes;
const knowsPrezeroed = await mkfsKnowsPrezeroed();

describe('creating', () => {
  test.skipIf(!capabilities.mkfs)(
    'a new volume is a sparse ext4 image of its exact size (needs mkfs.ext4)',
    async () => {
      const { store, dir } = await temporaryStore(capabilities);
      const volume = await store.create({
        volumeId: volumeA,
        sizeBytes: 1024 * mebibyteBytes,
        epoch: 1,
        filesystem: 'ext4',
      });
      expect(volume).toMatchObject({ state: 'owned', epoch: 1, sizeBytes: 1024 * mebibyteBytes });
      expect(volume.filesystem).toEqual({
        kind: 'ext4',
        label: 'aaaaaaaaaaaaaaa1',
        condition: 'clean',
        wasMounted: false,
      });
      expect(volume.path).toBe(join(dir, 'volumes', volumeA, 'owned-e1.img'));
      expect(volume.allocatedBytes).toBeLessThan(4 * mebibyteBytes);
      expect((await store.check(volumeA, { repair: false, timeoutMs: 60_000 })).outcome).toBe('clean');
      if (knowsPrezeroed) expect(await succeed('dumpe2fs', volume.path)).toContain('ITABLE_ZEROED');
    },
  );

  test.skipIf(!capabilities.mkfs)('the smallest volume holds a file system too (needs mkfs.ext4)', async () => {
    const { store } = await temporaryStore(capabilities);
    const volume = await store.create({ volumeId: volumeA, sizeBytes: mebibyteBytes, epoch: 1, filesystem: 'ext4' });
    expect(volume.filesystem.kind).toBe('ext4');
  });

  test('without mkfs.ext4, or where it could not be mounted, a volume is raw zeros and says so', async () => {
    const { store } = await temporaryStore(rawOnly);
    const volume = await store.create({ volumeId: volumeA, sizeBytes, epoch: 3 });
    expect(volume).toMatchObject({ epoch: 3, allocatedBytes: 0, filesystem: { kind: 'raw' } });
    expect(await store.mount(volumeA)).toEqual({ path: volume.path, kind: 'raw' });
  });

  test('a volume made from a file holds its bytes and then a hole', async () => {
    const { store, dir } = await temporaryStore(rawOnly);
    const from = join(dir, 'from.bin');
    const bytes = Buffer.alloc(3 * mebibyteBytes + 5);
    bytes.write('start', 0);
    bytes.write('end', bytes.length - 3);
    await files.writeFile(from, bytes);
    const volume = await store.create({ volumeId: volumeA, sizeBytes, epoch: 1, from });
    const copied = await files.readFile(volume.path);
    expect(copied.length).toBe(sizeBytes);
    expect(copied.subarray(0, bytes.length).equals(bytes)).toBe(true);
    expect(copied.subarray(bytes.length).every((byte) => byte === 0)).toBe(true);
    expect(volume.allocatedBytes).toBeLessThan(mebibyteBytes);
    expect((await files.stat(volume.path)).mode & 0o777).toBe(0o600);
  });

  test('repeating is harmless, other arguments for the same ID are refused', async () => {
    const { store } = await temporaryStore(rawOnly);
    const first = await store.create({ volumeId: volumeA, sizeBytes, epoch: 1 });
    await files.writeFile(first.path, 'kept', { flag: 'r+' });
    await store.create({ volumeId: volumeA, sizeBytes, epoch: 1 });
    expect((await files.readFile(first.path)).toString('utf8', 0, 4)).toBe('kept');
    await expect(store.create({ volumeId: volumeA, sizeBytes, epoch: 2 })).rejects.toMatchObject({
      reason: 'wrong_state',
    });
    await expect(store.createReceiving({ volumeId: volumeA, sizeBytes })).rejects.toMatchObject({
      reason: 'wrong_state',
    });
    const other = store.create({ volumeId: volumeA, sizeBytes: sizeBytes * 2, epoch: 1 });
    await expect(other).rejects.toMatchObject({ reason: 'wrong_state', volumeId: volumeA });
  });

  test('two at once for one ID take turns', async () => {
    const { store } = await temporaryStore(rawOnly);
    const request = { volumeId: volumeA, sizeBytes, epoch: 1 };
    const both = await Promise.all([store.create(request), store.create(request)]);
    expect(both[0]).toEqual(both[1]);
  });

  test.each([
    ['an ID that leaves the folder', { volumeId: '../../etc', sizeBytes, epoch: 1 }],
    ['an ID too short', { volumeId: 'vol_a', sizeBytes, epoch: 1 }],
    ['a size that is no whole block', { volumeId: volumeA, sizeBytes: sizeBytes + 1, epoch: 1 }],
    ['no size', { volumeId: volumeA, sizeBytes: 0, epoch: 1 }],
    ['a size that is no number', { volumeId: volumeA, sizeBytes: Number.NaN, epoch: 1 }],
    ['epoch 0', { volumeId: volumeA, sizeBytes, epoch: 0 }],
    ['a file that is not there', { volumeId: volumeA, sizeBytes, epoch: 1, from: '/nonexistent/file' }],
    ['a folder as file', { volumeId: volumeA, sizeBytes, epoch: 1, from: '/' }],
    [
      'a file larger than the volume',
      { volumeId: volumeA, sizeBytes: mebibyteBytes, epoch: 1, from: process.execPath },
    ],
  ])('refuses %s and changes nothing', async (_, request) => {
    const { store, dir } = await temporaryStore(rawOnly);
    await expect(store.create(request)).rejects.toMatchObject({ name: 'VolumeError', reason: 'invalid' });
    expect(await files.readdir(join(dir, 'volumes'))).toEqual([]);
  });
});

describe('ownership', () => {
  test('an owned volume rises to the epoch at which its Machine comes back from a hand-over, never falls', async () => {
    const { store } = await temporaryStore(rawOnly);
    await store.create({ volumeId: volumeA, sizeBytes, epoch: 3 });
    for (const repeat of [1, 2])
      expect(await store.own(volumeA, 5), `${repeat}`).toMatchObject({ state: 'owned', epoch: 5 });
    await expect(store.own(volumeA, 4)).rejects.toMatchObject({ reason: 'wrong_state' });
  });

  test('a received copy becomes owned, is relinquished, and comes back at a higher epoch only', async () => {
    const { store } = await temporaryStore(rawOnly);
    const received = await store.createReceiving({ volumeId: volumeA, sizeBytes });
    expect(received).toMatchObject({ state: 'receiving', allocatedBytes: 0, sizeBytes });
    await expect(store.mount(volumeA)).rejects.toMatchObject({ reason: 'wrong_state' });
    await expect(store.relinquish(volumeA, 1)).rejects.toMatchObject({ reason: 'wrong_state' });

    for (const repeat of [1, 2])
      expect(await store.own(volumeA, 4), `${repeat}`).toMatchObject({ state: 'owned', epoch: 4 });
    await expect(store.own(volumeA, 3)).rejects.toMatchObject({ reason: 'wrong_state' });
    await expect(store.relinquish(volumeA, 3)).rejects.toMatchObject({ reason: 'wrong_state' });

    for (const repeat of [1, 2]) {
      const given = await store.relinquish(volumeA, 4);
      expect(given, `${repeat}`).toMatchObject({ state: 'relinquished', epoch: 4 });
      expect((await files.stat(given.path)).mode & 0o777).toBe(0o400);
    }
    await expect(store.mount(volumeA)).rejects.toMatchObject({ reason: 'wrong_state' });
    await expect(store.own(volumeA, 4)).rejects.toMatchObject({ reason: 'wrong_state' });
    await expect(store.own(volumeA, 3)).rejects.toMatchObject({ reason: 'wrong_state' });

    const back = await store.own(volumeA, 6);
    expect(back).toMatchObject({ state: 'owned', epoch: 6 });
    expect((await files.stat(back.path)).mode & 0o777).toBe(0o600);
  });

  test('the new name is on the disk only after the bytes, and before the reply', async () => {
    const calls: string[] = [];
    const traced: Files = {
      ...files,
      chmod: async (path, mode) => {
        calls.push(`chmod ${mode.toString(8)}`);
        await files.chmod(path, mode);
      },
      rename: async (from, to) => {
        calls.push('rename');
        await files.rename(from, to);
      },
      open: async (path, ...rest) => {
        const file = await files.open(path, ...rest);
        const sync = file.sync.bind(file);
        file.sync = async () => {
          calls.push((await file.stat()).isDirectory() ? 'sync folder' : 'sync image');
          await sync();
        };
        return file;
      },
    };
    const { store } = await temporaryStore(rawOnly, { files: traced });
    await store.create({ volumeId: volumeA, sizeBytes, epoch: 1 });
    calls.length = 0;
    await store.relinquish(volumeA, 1);
    expect(calls).toEqual(['chmod 400', 'sync image', 'rename', 'sync folder']);
  });

  test.each([
    ['sync', 'EIO', 'io'],
    ['rename', 'EIO', 'io'],
    ['rename', 'ENOSPC', 'no_space'],
    ['chmod', 'EROFS', 'read_only'],
  ] as const)(
    'when %s fails with %s the reason is %s, tried once, and the old state stands',
    async (call, code, reason) => {
      let tries = 0;
      let isBroken = false;
      const fail = () => {
        tries += 1;
        throw Object.assign(new Error(`${code}: broken disk`), { code });
      };
      const broken: Files = {
        ...files,
        rename: async (...args) => (isBroken && call === 'rename' ? fail() : files.rename(...args)),
        chmod: async (...args) => (isBroken && call === 'chmod' ? fail() : files.chmod(...args)),
        open: async (...args) => {
          const file = await files.open(...args);
          if (isBroken && call === 'sync') file.sync = async () => fail();
          return file;
        },
      };
      const { store } = await temporaryStore(rawOnly, { files: broken });
      await store.create({ volumeId: volumeA, sizeBytes, epoch: 1 });
      isBroken = true;
      await expect(store.relinquish(volumeA, 1)).rejects.toMatchObject({
        name: 'VolumeError',
        reason,
        volumeId: volumeA,
      });
      expect(tries).toBe(1);
      isBroken = false;
      expect(await store.inspect(volumeA)).toMatchObject({ state: 'owned', epoch: 1 });
      expect(await store.relinquish(volumeA, 1)).toMatchObject({ state: 'relinquished', epoch: 1 });
    },
  );
});

describe('looking', () => {
  test('lists volumes, and apart from them what cannot be one', async () => {
    const { store, dir } = await temporaryStore(rawOnly);
    await store.create({ volumeId: volumeA, sizeBytes, epoch: 1 });
    await files.writeFile(store.statePath(volumeA, 'receiving.state'), 'state');
    await store.create({ volumeId: volumeB, sizeBytes, epoch: 1 });
    await files.writeFile(join(dir, 'volumes', volumeB, 'relinquished-e1.img'), '');
    await files.mkdir(join(dir, 'volumes', 'lost'));
    await files.writeFile(join(dir, 'volumes', 'vol_ccccccccccccccc3'), '');
    await files.mkdir(join(dir, 'volumes', 'vol_ddddddddddddddd4'));
    const { volumes, strange } = await store.list();
    expect(volumes.map((volume) => volume.volumeId)).toEqual([volumeA]);
    expect(strange.map((error) => error.volumeId)).toEqual([
      'lost',
      volumeB,
      'vol_ccccccccccccccc3',
      'vol_ddddddddddddddd4',
    ]);
    const names = ['owned-e1.img', 'relinquished-e1.img'];
    const paths = names.map((name) => join(dir, 'volumes', volumeB, name));
    await expect(store.inspect(volumeB)).rejects.toMatchObject({ reason: 'strange_content', paths });
    for (const name of names) await expect(store.mount(volumeB)).rejects.toThrow(name);
  });

  test.each(['owned-e0.img', 'owned-e01.img', 'owned.img', 'owned-e99999999999999999.img', 'other.img'])(
    'does not guess what %s is',
    async (name) => {
      const { store, dir } = await temporaryStore(rawOnly);
      const volume = await store.create({ volumeId: volumeA, sizeBytes, epoch: 1 });
      await files.rename(volume.path, join(dir, 'volumes', volumeA, name));
      await expect(store.inspect(volumeA)).rejects.toMatchObject({ reason: 'strange_content' });
    },
  );

  test('a link is no image', async () => {
    const { store, dir } = await temporaryStore(rawOnly);
    const volume = await store.create({ volumeId: volumeA, sizeBytes, epoch: 1 });
    await files.rename(volume.path, join(dir, 'elsewhere'));
    await files.symlink(join(dir, 'elsewhere'), volume.path);
    await expect(store.inspect(volumeA)).rejects.toMatchObject({ reason: 'strange_content', paths: [volume.path] });
  });

  test('a missing volume is null to look at and an error to use', async () => {
    const { store } = await temporaryStore(rawOnly);
    expect(await store.inspect(volumeA)).toBeNull();
    const uses = [
      () => store.mount(volumeA),
      () => store.own(volumeA, 1),
      () => store.unmount(volumeA),
      () => store.holders(volumeA),
    ];
    for (const use of uses)
      await expect(use()).rejects.toMatchObject({ reason: 'volume_not_found', volumeId: volumeA });
    expect(await store.destroy(volumeA)).toBe(false);
  });

  test('a state file has a plain name that no image has', async () => {
    const { store, dir } = await temporaryStore(rawOnly);
    expect(store.statePath(volumeA, 'receiving.state')).toBe(join(dir, 'volumes', volumeA, 'receiving.state'));
    for (const name of ['../x', 'x.img', '.hidden', ''])
      expect(() => store.statePath(volumeA, name)).toThrow('state file');
  });

  test('free space is what the disk says', async () => {
    const { store, dir } = await temporaryStore(rawOnly);
    const { bavail, bsize } = await files.statfs(dir);
    expect(Math.abs((await store.freeBytes()) - bavail * bsize)).toBeLessThan(1024 ** 3);
  });
});

describe('destroying', () => {
  test('removes the image and its state files; an open image is refused and its holder named', async () => {
    const { store, dir } = await temporaryStore(rawOnly);
    const volume = await store.create({ volumeId: volumeA, sizeBytes, epoch: 1 });
    await files.writeFile(store.statePath(volumeA, 'receiving.state'), 'state');
    const file = await files.open(volume.path, 'r');
    const holder = { pid: process.pid, how: 'fd', path: volume.path, isAgent: true };
    try {
      expect(await store.holders(volumeA)).toMatchObject([holder]);
      await expect(store.destroy(volumeA)).rejects.toMatchObject({ reason: 'volume_busy', holders: [holder] });
    } finally {
      await file.close();
    }
    expect(await store.destroy(volumeA)).toBe(true);
    expect(await files.readdir(join(dir, 'volumes'))).toEqual([]);
  });

  test('opening the store removes what was half made or half removed, and nothing else', async () => {
    const { store, dir } = await temporaryStore(rawOnly);
    await store.create({ volumeId: volumeA, sizeBytes, epoch: 1 });
    const rubbish = [`.creating-${volumeB}`, `.destroyed-${volumeB}`].map((name) => join(dir, 'volumes', name));
    for (const folder of rubbish) await files.cp(join(dir, 'volumes', volumeA), folder, { recursive: true });
    expect(await store.list()).toMatchObject({ volumes: [{ volumeId: volumeA }], strange: [] });
    expect(await store.open()).toEqual(rubbish);
    expect(await files.readdir(join(dir, 'volumes'))).toEqual([volumeA]);
  });
});

test('a program that is missing makes an operation unsupported, and says which', async () => {
  const { store } = await temporaryStore(rawOnly, {
    run: (program, args, options) => run(program === 'mkfs.ext4' ? 'ferry-no-such-program' : program, args, options),
  });
  const creating = store.create({ volumeId: volumeA, sizeBytes, epoch: 1, filesystem: 'ext4' });
  await expect(creating).rejects.toMatchObject({ reason: 'unsupported' });
  await expect(creating).rejects.toThrow('ferry-no-such-program is not installed');
});

/** Whether mkfs.ext4 is of e2fsprogs 1.47 or later. */
async function mkfsKnowsPrezeroed(): Promise<boolean> {
  const { stderr } = await run('mkfs.ext4', ['-V'], { timeoutMs: 10_000 }).catch(() => ({ stderr: '' }));
  const match = /^mke2fs (\d+)\.(\d+)/m.exec(stderr);
  return match !== null && Number(match[1]) * 1000 + Number(match[2]) >= 1047;
}
