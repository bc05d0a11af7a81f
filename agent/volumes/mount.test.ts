// Past 300 lines: every way to hold a mount, each on real loop devices, sharing one set of holders and cleanups.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import * as files from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { loopDevicesOf } from './loop.ts';
import { parseMountinfo } from './mountinfo.ts';
import {
  capabilitiesHere,
  mebibyteBytes,
  run,
  succeed,
  temporaryFolder,
  temporaryStore,
  volumeA,
  volumeB,
} from './store.testkit.ts';
import type { VolumeStore } from './store.ts';

const capabilities = await capabilitiesHere();
const sizeBytes = 64 * mebibyteBytes;

/** Starts a program that must print a line before the test goes on; it ends with the test. */
async function startHolder(program: string, args: string[], options: { cwd?: string } = {}): Promise<ChildProcess> {
  const child = spawn(program, args, { ...options, stdio: ['pipe', 'pipe', 'inherit'] });
  onTestFinished(() => stop(child));
  await once(child.stdout, 'data');
  return child;
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  child.kill('SIGKILL');
  await exit;
}

async function mountedStore(): Promise<{ store: VolumeStore; dir: string; folder: string; image: string }> {
  const { store, dir } = await temporaryStore(capabilities);
  const { path: image } = await store.create({ volumeId: volumeA, sizeBytes, epoch: 1 });
  const { path: folder } = await store.mount(volumeA);
  return { store, dir, folder, image };
}

async function isMountPoint(path: string): Promise<boolean> {
  const mounts = parseMountinfo(await files.readFile('/proc/self/mountinfo', 'utf8'));
  return mounts.some((mount) => mount.mountPoint === path);
}

const look = { repair: false, timeoutMs: 60_000 };
const repair = { repair: true, timeoutMs: 60_000 };
const ready = 'echo ready; exec sleep 1000';

describe.skipIf(!capabilities.mount)(`mounting (needs root: ${capabilities.reasons.mount ?? 'works here'})`, () => {
  test('a volume is mounted, written, unmounted, detached, and mounted again with its data', async () => {
    const { store, dir, folder, image } = await mountedStore();
    expect(folder).toBe(join(dir, 'mnt', volumeA));
    expect(await store.mount(volumeA)).toEqual({ path: folder, kind: 'ext4' });
    const { uid, mode } = await files.stat(folder);
    expect({ uid, mode: mode & 0o777 }).toEqual({ uid: process.getuid!(), mode: 0o755 });
    await files.writeFile(join(folder, 'ledger'), 'line 1\n');
    const operations = [
      () => store.relinquish(volumeA, 1),
      () => store.destroy(volumeA),
      () => store.check(volumeA, look),
    ];
    for (const operation of operations) await expect(operation()).rejects.toMatchObject({ reason: 'volume_busy' });

    expect(await store.unmount(volumeA)).toMatchObject({
      filesystem: { kind: 'ext4', condition: 'clean', wasMounted: true },
    });
    expect(await isMountPoint(folder)).toBe(false);
    expect(await loopDevicesOf(files, run, image)).toEqual([]);
    await expect(files.stat(folder)).rejects.toMatchObject({ code: 'ENOENT' });
    await store.unmount(volumeA);

    const again = await store.mount(volumeA);
    expect(await files.readFile(join(again.path, 'ledger'), 'utf8')).toBe('line 1\n');
  });

  test('nothing writes to an idle volume: its inode tables need no filling in the background', async () => {
    const { store, image } = await mountedStore();
    const [device] = await loopDevicesOf(files, run, image);
    const options = await files.readFile(`/proc/fs/ext4/${device!.path.slice('/dev/'.length)}/options`, 'utf8');
    expect(options.split('\n')).toContain('noinit_itable');
    await store.unmount(volumeA);
    expect((await files.stat(image)).blocks * 512).toBeLessThan(2 * mebibyteBytes);
  });

  test('a Machine of another user can write when it is the owner', async () => {
    const { store } = await temporaryStore(capabilities, { owner: { uid: 65534, gid: 65534 } });
    await store.create({ volumeId: volumeA, sizeBytes, epoch: 1 });
    const { path } = await store.mount(volumeA);
    const { uid, gid } = await files.stat(path);
    expect({ uid, gid }).toEqual({ uid: 65534, gid: 65534 });
  });

  test('a new store, as after a crash of the agent, finds the mount again', async () => {
    const { dir, folder, image } = await mountedStore();
    await files.writeFile(join(folder, 'file'), 'before the crash');
    const { store } = await temporaryStore(capabilities, { dir });
    expect(await store.mount(volumeA)).toEqual({ path: folder, kind: 'ext4' });
    expect(await loopDevicesOf(files, run, image)).toHaveLength(1);
    expect(await files.readFile(join(folder, 'file'), 'utf8')).toBe('before the crash');
    await store.unmount(volumeA);
    expect(await isMountPoint(folder)).toBe(false);
  });

  test('several stores mount at once and do not take each other the loop devices', async () => {
    const stores = await Promise.all([temporaryStore(capabilities), temporaryStore(capabilities)]);
    const mountOne = async (store: VolumeStore, volumeId: string) => {
      await store.create({ volumeId, sizeBytes, epoch: 1 });
      const { path } = await store.mount(volumeId);
      await files.writeFile(join(path, 'name'), path);
      return path;
    };
    const pairs = stores.flatMap(({ store }) => [volumeA, volumeB].map((volumeId) => ({ store, volumeId })));
    const paths = await Promise.all(pairs.map(({ store, volumeId }) => mountOne(store, volumeId)));
    for (const path of paths) expect(await files.readFile(join(path, 'name'), 'utf8')).toBe(path);
    await Promise.all(pairs.map(({ store, volumeId }) => store.unmount(volumeId)));
    for (const path of paths) expect(await isMountPoint(path)).toBe(false);
  });

  test('files in the folder beneath are not covered up', async () => {
    const { store, folder } = await mountedStore();
    await store.unmount(volumeA);
    await files.mkdir(folder);
    await files.writeFile(join(folder, 'stray'), 'written while unmounted');
    await expect(store.mount(volumeA)).rejects.toMatchObject({ reason: 'strange_content', paths: [folder] });
  });

  test('another file system at the mount point is reported, not used and not unmounted', async () => {
    const { store, folder } = await mountedStore();
    await store.unmount(volumeA);
    await files.mkdir(folder);
    await succeed('mount', '-t', 'tmpfs', 'none', folder);
    await expect(store.mount(volumeA)).rejects.toMatchObject({ reason: 'strange_content' });
    await expect(store.unmount(volumeA)).rejects.toMatchObject({ reason: 'strange_content' });
    expect(await isMountPoint(folder)).toBe(true);
  });

  test('a volume in use as ext4 is not handed out raw where mounting is impossible', async () => {
    const { store, dir } = await mountedStore();
    await store.unmount(volumeA);
    const reasons = { mount: 'no loop devices' };
    const { store: poor } = await temporaryStore({ ...capabilities, mount: false, reasons }, { dir });
    await expect(poor.mount(volumeA)).rejects.toMatchObject({ reason: 'unsupported' });
    await expect(poor.mount(volumeA)).rejects.toThrow('no loop devices');
  });

  test('an image that is no longer a file system is handed out raw', async () => {
    const { store } = await temporaryStore(capabilities);
    const volume = await store.create({ volumeId: volumeA, sizeBytes, epoch: 1, filesystem: 'raw' });
    expect(await store.mount(volumeA)).toEqual({ path: volume.path, kind: 'raw' });
  });

  test('a file system is checked, and repaired on demand where that is safe', async () => {
    const { store } = await temporaryStore(capabilities);
    const { path } = await store.create({ volumeId: volumeA, sizeBytes, epoch: 1 });
    await succeed('debugfs', '-w', '-R', 'setb 3000 1', path);
    expect((await store.check(volumeA, look)).outcome).toBe('damaged');
    expect((await store.check(volumeA, repair)).outcome).toBe('repaired');
    expect((await store.check(volumeA, look)).outcome).toBe('clean');
    await succeed('debugfs', '-w', '-R', 'clri <2>', path);
    expect((await store.check(volumeA, repair)).outcome).toBe('damaged');
    await store.relinquish(volumeA, 1);
    await expect(store.check(volumeA, repair)).rejects.toMatchObject({ reason: 'wrong_state' });
  });
});

describe.skipIf(!capabilities.mount)(
  `who holds a mount (needs root: ${capabilities.reasons.mount ?? 'works here'})`,
  () => {
    test.each([
      ['cwd', (folder: string) => ['sh', ['-c', ready], { cwd: folder }] as const],
      ['fd', (folder: string) => ['sh', ['-c', `exec 3>"${folder}/open"; ${ready}`], {}] as const],
      ['fd', (folder: string) => ['sh', ['-c', `exec 3>"${folder}/gone"; rm "${folder}/gone"; ${ready}`], {}] as const],
      ['mmap', (folder: string) => [join(folder, 'sleeper'), ['-c', ready], {}] as const],
    ] as const)('a process by its %s is named; after its end the volume comes free', async (how, command) => {
      const { store, folder } = await mountedStore();
      if (how === 'mmap') await files.copyFile('/bin/sh', join(folder, 'sleeper'));
      const [program, args, options] = command(folder);
      // The shell replaces itself by sleep, which no longer maps the file: here it must stay.
      const child = await startHolder(program, how === 'mmap' ? ['-c', 'echo ready; read line'] : [...args], options);
      const error = await store.unmount(volumeA).catch((caught: unknown) => caught);
      expect(error).toMatchObject({ reason: 'volume_busy', volumeId: volumeA });
      expect((error as { holders: unknown[] }).holders).toContainEqual(
        expect.objectContaining({ pid: child.pid, how, isAgent: false, path: expect.stringContaining(folder) }),
      );
      expect((error as Error).message).toContain(`process ${child.pid}`);
      expect(await isMountPoint(folder)).toBe(true);
      await stop(child);
      await store.unmount(volumeA);
    });

    test('a process with its root in the volume is named', async () => {
      const { store, folder } = await mountedStore();
      const child = await startHolder('perl', [
        '-e',
        '$| = 1; chroot $ARGV[0] or die; print "ready\n"; <STDIN>',
        folder,
      ]);
      const error = await store.unmount(volumeA).catch((caught: unknown) => caught);
      expect(error).toMatchObject({ reason: 'volume_busy', holders: [{ pid: child.pid, how: 'root' }] });
      await stop(child);
      await store.unmount(volumeA);
    });

    test('a thread whose main thread has ended is named', async () => {
      const { store, folder } = await mountedStore();
      const script = `
import ctypes, os, sys, threading
held = open(sys.argv[1])
def wait():
    print('ready', flush=True)
    sys.stdin.read()
threading.Thread(target=wait).start()
ctypes.CDLL(None).syscall(60, 0)  # exit(2): of this thread only`;
      await files.writeFile(join(folder, 'file'), '');
      const child = await startHolder('python3', ['-c', script, join(folder, 'file')]);
      await expect(store.unmount(volumeA)).rejects.toMatchObject({
        reason: 'volume_busy',
        holders: [{ pid: child.pid, how: 'fd' }],
      });
      await stop(child);
      await store.unmount(volumeA);
    });

    test('another mount namespace keeps it alive after umount: named, and free after its end', async () => {
      const { store, folder, image } = await mountedStore();
      // It lets go at once of what other tests have mounted.
      const others = `awk '$5 ~ "/ferry-" && $5 != "${folder}" { print $5 }' /proc/self/mountinfo`;
      const hold = `for each in $(${others}); do umount -l "$each"; done; ${ready}`;
      const child = await startHolder('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', hold]);
      const error = await store.unmount(volumeA).catch((caught: unknown) => caught);
      const devices = (await loopDevicesOf(files, run, image)).map(({ path }) => path);
      expect(devices).toHaveLength(1);
      expect(error).toMatchObject({
        reason: 'volume_busy',
        holders: [{ pid: child.pid, how: 'mount-namespace', path: folder, command: 'sleep 1000' }],
        devices,
      });
      expect(await isMountPoint(folder)).toBe(false);
      await expect(store.relinquish(volumeA, 1)).rejects.toMatchObject({ reason: 'volume_busy' });
      await expect(store.unmount(volumeA)).rejects.toMatchObject({ reason: 'volume_busy' });

      // The Machine can have it back meanwhile: it is the same file system, not the image a second time.
      expect(await store.mount(volumeA)).toEqual({ path: folder, kind: 'ext4' });
      expect(await loopDevicesOf(files, run, image)).toHaveLength(1);

      await stop(child);
      await store.unmount(volumeA);
      expect(await loopDevicesOf(files, run, image)).toEqual([]);
      expect(await store.relinquish(volumeA, 1)).toMatchObject({ state: 'relinquished' });
    });

    test('who only reads the image file is not blamed for a busy mount, and does not stop an unmount', async () => {
      const { store, folder, image } = await mountedStore();
      const file = await files.open(image, 'r');
      onTestFinished(() => file.close());
      const child = await startHolder('sh', ['-c', ready], { cwd: folder });
      await expect(store.unmount(volumeA)).rejects.toMatchObject({ holders: [{ pid: child.pid, how: 'cwd' }] });
      await stop(child);
      await store.unmount(volumeA);
      expect(await store.holders(volumeA)).toMatchObject([{ pid: process.pid, how: 'fd', path: image }]);
    });

    test('a second mount in the own namespace is named by its place', async () => {
      const { store, dir, folder } = await mountedStore();
      const second = join(dir, 'second');
      await files.mkdir(second);
      await succeed('mount', '--bind', folder, second);
      await expect(store.unmount(volumeA)).rejects.toMatchObject({ reason: 'volume_busy', mounts: [second] });
      await succeed('umount', second);
      await store.unmount(volumeA);
    });

    test('a mount on top, inside the volume, is named by its place', async () => {
      const { store, folder } = await mountedStore();
      const inner = join(folder, 'inner');
      await files.mkdir(inner);
      await succeed('mount', '-t', 'tmpfs', 'none', inner);
      await expect(store.unmount(volumeA)).rejects.toMatchObject({ reason: 'volume_busy', mounts: [inner] });
      await succeed('umount', inner);
      await store.unmount(volumeA);
    });

    test('a loop device attached by hand is let go', async () => {
      const { store } = await temporaryStore(capabilities);
      const { path } = await store.create({ volumeId: volumeA, sizeBytes, epoch: 1 });
      await succeed('losetup', '--find', path);
      await expect(store.relinquish(volumeA, 1)).rejects.toMatchObject({ reason: 'volume_busy' });
      await store.unmount(volumeA);
      expect(await loopDevicesOf(files, run, path)).toEqual([]);
    });

    test('a process with the loop device itself open is named', async () => {
      const { store, image } = await mountedStore();
      const [device] = await loopDevicesOf(files, run, image);
      const child = await startHolder('sh', ['-c', `exec 3<${device!.path}; ${ready}`]);
      await expect(store.unmount(volumeA)).rejects.toMatchObject({
        reason: 'volume_busy',
        holders: [{ pid: child.pid, how: 'fd', path: device!.path }],
      });
      await stop(child);
      await store.unmount(volumeA);
    });
  },
);

describe.skipIf(!capabilities.mount)(`a full disk (needs root: ${capabilities.reasons.mount ?? 'works here'})`, () => {
  async function smallDisk(...mountArgs: string[]): Promise<string> {
    const disk = join(await temporaryFolder(), 'disk');
    await files.mkdir(disk);
    await succeed('mount', ...mountArgs, disk);
    return disk;
  }

  test('creating from a file stops with no_space and leaves nothing', async () => {
    const dir = await smallDisk('-t', 'tmpfs', '-o', 'size=8m', 'none');
    const { store } = await temporaryStore({ ...capabilities, reflink: false }, { dir });
    const creating = store.create({
      volumeId: volumeA,
      sizeBytes: 256 * mebibyteBytes,
      epoch: 1,
      from: process.execPath,
    });
    await expect(creating).rejects.toMatchObject({ reason: 'no_space', volumeId: volumeA });
    expect(await files.readdir(join(dir, 'volumes'))).toEqual([]);
    expect(await store.freeBytes()).toBeGreaterThan(7 * mebibyteBytes);
  });

  test('mkfs on a full disk is no_space too, by code and not by words', async () => {
    const dir = await smallDisk('-t', 'tmpfs', '-o', 'size=4m', 'none');
    const { store } = await temporaryStore(capabilities, { dir });
    await files.writeFile(join(dir, 'filler'), Buffer.alloc(4 * mebibyteBytes - 64 * 1024));
    const creating = store.create({ volumeId: volumeA, sizeBytes: 1024 * mebibyteBytes, epoch: 1, filesystem: 'ext4' });
    await expect(creating).rejects.toMatchObject({ reason: 'no_space' });
    expect(await files.readdir(join(dir, 'volumes'))).toEqual([]);
  });

  test('a read-only disk is read_only', async () => {
    const dir = await smallDisk('-t', 'tmpfs', '-o', 'size=8m', 'none');
    const { store } = await temporaryStore(capabilities, { dir });
    await store.create({ volumeId: volumeA, sizeBytes: 4 * mebibyteBytes, epoch: 1, filesystem: 'raw' });
    await succeed('mount', '-o', 'remount,ro', dir);
    await expect(store.relinquish(volumeA, 1)).rejects.toMatchObject({ reason: 'read_only' });
    await expect(store.destroy(volumeA)).rejects.toMatchObject({ reason: 'read_only' });
    expect(await store.inspect(volumeA)).toMatchObject({ state: 'owned' });
  });

  test('what a full disk swallowed behind a mounted volume shows as an error when it is unmounted', async () => {
    const dir = await smallDisk('-t', 'tmpfs', '-o', 'size=8m', 'none');
    const { store } = await temporaryStore(capabilities, { dir });
    await store.create({ volumeId: volumeA, sizeBytes: 256 * mebibyteBytes, epoch: 1, filesystem: 'ext4' });
    const { path } = await store.mount(volumeA);
    await files.writeFile(join(path, 'big'), Buffer.alloc(32 * mebibyteBytes, 1));
    for (const repeat of [1, 2]) {
      await expect(store.unmount(volumeA), `${repeat}`).rejects.toMatchObject({ reason: 'io', volumeId: volumeA });
    }
    await expect(store.unmount(volumeA, { acceptLostWrites: true })).resolves.toMatchObject({
      filesystem: { kind: 'ext4' },
    });
  });
});
