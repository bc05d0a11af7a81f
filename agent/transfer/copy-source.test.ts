// Past 300 lines: every way in which a copy can go, on one real file system with shared blocks.
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ManualClock, systemClock } from '../../shared/clock.ts';
import { CHUNK_BYTES } from './chunks.ts';
import { type Disk, hostDisk } from './disk.ts';
import { AllocationMap } from './extents.ts';
import { keepSums, rereadKept, rootSnapshot } from './kept-sums.ts';
import { seedCopy } from './seed-copy.ts';
import { MIB, migrationId, Site, settled, volumeId } from './testing-site.ts';
import { temporaryXfs, xfsMissing } from './testing-xfs.ts';

const missing = xfsMissing();
const nothing = { snapshot: '', root: '' };
const forever = new AbortController().signal;

describe.skipIf(missing !== null)(
  `the source of a copy on XFS (${missing ?? 'needs root, XFS and loop devices'})`,
  () => {
    let xfs: ReturnType<typeof temporaryXfs>;
    let site: Site;
    beforeEach(() => {
      xfs = temporaryXfs(1_024);
    });
    afterEach(async () => {
      await site?.close();
      xfs[Symbol.dispose]();
    });

    async function round(number: number, more: Parameters<Site['pull']>[1] = {}) {
      const live = await settled(async () => site.source.live(number, await site.have()));
      return { live, result: await site.pull(live, more) };
    }

    it('copies in rounds under overwrites, punches and freed blocks, and ends with equal bytes and roots', async () => {
      site = await Site.make(xfs.dir);
      site.write(0, 20 * MIB);
      site.write(40 * MIB, 8 * MIB);
      for (let number = 1; number <= 5; number += 1) {
        const { live, result } = await round(number);
        expect(live).toMatchObject({ mode: 'snapshots', refused: '' });
        expect(live.snapshotMs).toBeGreaterThan(0);
        const snapshot = join(site.imagePath, '..', `${migrationId}-${number}.snap`);
        expect(result.root).toBe(await site.rootOf(snapshot));
        site.compare(snapshot, site.copyPath);
        if (number > 1) expect(result.bytesTransferred).toBeLessThanOrEqual(live.changedBytes);
        site.scatter(30, 4096);
        site.scatter(3, 300_000);
        site.punch(number * 3 * MIB, MIB);
        // What was punched is written again, onto blocks that were free meanwhile.
        site.write(number * 3 * MIB + 8192, 200_000);
        site.punch((40 + number) * MIB, 40_000);
      }
      const before = site.bytesServed;
      const { bytesTransferred, bytesKept, round: last } = await site.finish();
      expect(last.changedBytes).toBeLessThan(20 * MIB);
      expect(bytesTransferred).toBe(site.bytesServed - before);
      expect(bytesKept).toBeGreaterThan(40 * MIB);
    });

    it('makes no snapshot while nothing is written, and one as soon as something was', async () => {
      site = await Site.make(xfs.dir);
      site.write(0, 8 * MIB);
      await round(1);
      const idle = await settled(async () => site.source.live(2, await site.have()));
      expect(idle).toMatchObject({ isUnchanged: true, snapshot: '', refused: '' });
      expect((await site.volumes.snapshots(volumeId)).map(({ name }) => name)).toEqual([`${migrationId}-1`]);
      site.write(2 * MIB, 4096);
      const { live } = await round(3);
      expect(live).toMatchObject({ snapshot: `${migrationId}/3`, changedBytes: CHUNK_BYTES });
      await site.finish();
    });

    it('does not take over what was written in place after a snapshot was defragmented', async () => {
      let isMoved = false;
      let snapshot = '';
      // The image keeps the places that the snapshot had, and the snapshot is given the others.
      const map: Disk['map'] = (path, size) => {
        const other = path === site.imagePath ? snapshot : site.imagePath;
        return hostDisk.map(isMoved ? other : path, size);
      };
      site = await Site.make(xfs.dir, { copy: { disk: { ...hostDisk, map } } });
      site.write(0, 8 * MIB);
      await round(1);
      snapshot = join(site.imagePath, '..', `${migrationId}-1.snap`);
      site.write(2 * MIB, 4096);
      isMoved = true;
      const last = await settled(async () => site.source.stopped(await site.have()));
      expect(last.changedBytes).toBe(0);
      const { root } = await site.pull(last);
      const whole = await site.rootOf(site.imagePath);
      expect(root).not.toBe(whole);
      expect(await site.source.root(new AbortController().signal)).toBe(whole);
    });

    it('keeps a hole that was data in between, as a hole', async () => {
      site = await Site.make(xfs.dir);
      site.write(0, MIB);
      await round(1);
      site.write(8 * MIB, MIB);
      await round(2);
      site.punch(8 * MIB, MIB);
      const { bytesZero } = await site.finish();
      expect(bytesZero).toBe(MIB);
    });

    it('goes on with the next round when one was cut, and nothing of the cut one is taken for the newer', async () => {
      site = await Site.make(xfs.dir);
      site.write(0, 40 * MIB);
      for (let number = 1; number <= 3; number += 1) {
        const controller = new AbortController();
        const before = site.bytesServed;
        site.onRead = (served) => served - before > 6 * MIB && controller.abort();
        const live = await settled(async () => site.source.live(number, await site.have()));
        await expect(site.pull(live, { signal: controller.signal })).rejects.toMatchObject({ reason: 'aborted' });
        site.onRead = () => {};
        site.scatter(40, 8192);
        site.punch(number * 5 * MIB, MIB);
      }
      await site.finish();
    });

    it('goes on after a restart of the agent at any point, and reads again only what it had not noted', async () => {
      site = await Site.make(xfs.dir);
      site.write(0, 30 * MIB);
      const first = await settled(() => site.source.live(1, nothing));
      await site.pull(first);
      await site.open();
      // Asked again it is the same snapshot, and the copy needs nothing.
      const again = await settled(async () => site.source.live(1, await site.have()));
      expect(again).toMatchObject({ snapshot: first.snapshot, snapshotMs: 0, mode: 'snapshots' });
      site.scatter(20, 4096);
      const second = await settled(async () => site.source.live(2, await site.have()));
      await site.open();
      const asked = await settled(async () => site.source.live(2, await site.have()));
      expect(asked).toMatchObject({
        snapshot: second.snapshot,
        baseContext: second.baseContext,
        changedBytes: second.changedBytes,
      });
      await site.pull(asked);
      site.scatter(20, 4096);
      await settled(async () => site.source.stopped(await site.have()));
      await site.open();
      await site.finish();
    });

    it('holds the snapshot that the copy has and the newest, no other, and of other migrations none', async () => {
      site = await Site.make(xfs.dir);
      site.write(0, MIB);
      await site.volumes.snapshot(volumeId, 'mig_01ARZ3NDEKTSV4RRFFQ69G5FAA-3');
      await site.open();
      const held = async () => (await site.volumes.snapshots(volumeId)).map(({ name }) => name.slice(-1));
      expect(await held()).toEqual([]);
      await round(1);
      site.write(0, 4096);
      await settled(async () => site.source.live(2, await site.have()));
      await settled(async () => site.source.live(3, await site.have()));
      await vi.waitFor(async () => expect(await held()).toEqual(['1', '3']));
      await round(3);
      site.write(0, 4096);
      await settled(async () => site.source.live(4, await site.have()));
      await vi.waitFor(async () => expect(await held()).toEqual(['3', '4']));
      await expect(site.source.openExport(`${migrationId}/1`)).rejects.toMatchObject({ reason: 'unknown_export' });
      await site.source.end();
      expect(await site.names()).toEqual(['owned-e1.img']);
    });

    it('copies a volume of 50,000 extents from the file in use, says why, and ends with equal bytes', async () => {
      site = await Site.make(xfs.dir, { sizeMib: 256 });
      site.fragment(50_000);
      const { live } = await round(1);
      expect(live).toMatchObject({
        mode: 'live',
        refused: 'too_many_extents',
        modeReason: expect.stringContaining('extents, a snapshot'),
      });
      expect(await site.source.live(2, await site.have())).toMatchObject({ snapshot: '', refused: 'too_many_extents' });
      site.scatter(50, 4096);
      const { round: last } = await site.finish();
      expect(last.changedBytes).toBeLessThanOrEqual(51 * 2 * CHUNK_BYTES);
    });

    it('takes no further snapshot once there are too many extents, and the last copy still brings only the changes', async () => {
      site = await Site.make(xfs.dir, { copy: { extentsMax: 40 } });
      site.write(0, 20 * MIB);
      await round(1);
      for (let at = 0; at < 60; at += 1) site.write(at * 128 * 1024, 4096);
      expect(await site.source.live(2, await site.have())).toMatchObject({ snapshot: '', refused: 'too_many_extents' });
      const { round: last } = await site.finish();
      expect(last.changedBytes).toBe(60 * CHUNK_BYTES);
    });

    it('takes no snapshot on a disk without room, but copies', async () => {
      site = await Site.make(xfs.dir, { copy: { reserveBytes: 100_000 * MIB } });
      site.write(0, 10 * MIB);
      const { live } = await round(1);
      expect(live).toMatchObject({ mode: 'live', refused: 'no_room', modeReason: expect.stringContaining('MiB free') });
      site.scatter(10, 4096);
      const { round: last } = await site.finish();
      expect(last.changedBytes).toBeLessThanOrEqual(20 * CHUNK_BYTES);
    });

    it('drops its snapshots when the room runs out, readers included, and the copy goes on with what it has', async () => {
      const clock = new ManualClock();
      site = await Site.make(xfs.dir, { clock, copy: { reserveBytes: 300 * MIB } });
      site.write(0, 40 * MIB);
      await round(1);
      site.scatter(100, 65_536);
      // A hole in the snapshot that is offered and never taken: the copy still has its data.
      site.punch(10 * MIB, MIB);
      const live = await settled(async () => site.source.live(2, await site.have()));
      const reader = await site.source.openExport(live.snapshot);
      const free = await site.volumes.freeBytes();
      execFileSync('fallocate', ['-l', String(free - 100 * MIB), join(xfs.dir, 'filler')]);
      while (clock.sleeping === 0) await new Promise((resolve) => setImmediate(resolve));
      clock.advance(1_000);
      while ((await site.volumes.snapshots(volumeId)).length > 0) await new Promise((resolve) => setImmediate(resolve));
      await expect(reader.readInto(Buffer.alloc(4096), 0, 4096)).rejects.toMatchObject({ reason: 'shutdown' });
      expect(await site.source.live(3, await site.have())).toMatchObject({ snapshot: '', refused: 'no_room' });
      const { bytesTransferred } = await site.finish();
      expect(bytesTransferred).toBeLessThan(20 * MIB);
    });

    it('gives no other bytes the name of a snapshot that is gone: what the copy has of it is compared in the end', async () => {
      site = await Site.make(xfs.dir);
      site.write(0, 20 * MIB);
      const controller = new AbortController();
      site.onRead = (served) => served > 8 * MIB && controller.abort();
      await expect(round(1, { signal: controller.signal })).rejects.toMatchObject({ reason: 'aborted' });
      // Dropped for want of room, and then the agent was killed.
      await site.source.dropSnapshots('no_room');
      await site.open();
      site.write(MIB, 2 * MIB);
      expect(await site.source.live(1, await site.have())).toMatchObject({ snapshot: '', refused: 'no_room' });
      const { bytesTransferred } = await site.finish();
      expect(bytesTransferred).toBeLessThan(20 * MIB);
    });

    it('watches the room on when looking or dropping has failed, and of a stopped volume drops nothing', async () => {
      const clock = new ManualClock();
      site = await Site.make(xfs.dir, { clock });
      const looks: (() => Promise<number>)[] = [];
      let drops = 0;
      const volumes = new Proxy(site.volumes, {
        get: (target, name) => {
          if (name === 'freeBytes') return looks.shift() ?? (async () => 1_000 * MIB);
          const value = Reflect.get(target, name);
          if (name !== 'dropSnapshot') return typeof value === 'function' ? value.bind(target) : value;
          return async (...of: [string, string]) => {
            drops += 1;
            if (drops === 1) throw new Error('the disk does not answer');
            return target.dropSnapshot(...of);
          };
        },
      });
      await site.open({ volumes, reserveBytes: 500 * MIB });
      site.write(0, MIB);
      await round(1);
      looks.push(() => Promise.reject(new Error('no statfs')), ...[1, 2].map(() => async () => 100 * MIB));
      while ((await site.volumes.snapshots(volumeId)).length > 0) {
        if (clock.sleeping > 0) clock.advance(1_000);
        await new Promise((resolve) => setImmediate(resolve));
      }
      expect([looks.length, drops]).toEqual([0, 2]);
      await site.open();
      await round(2);
      await site.source.stopped(await site.have());
      await site.source.dropSnapshots('no_room');
      expect(await site.volumes.snapshots(volumeId)).toHaveLength(1);
      expect((await site.finish()).bytesTransferred).toBe(0);
    });

    it('compares sums where blocks cannot be shared: one read after the stop, and what was written meanwhile travels', async () => {
      const capabilities = { reflink: false, reasons: { reflink: 'no shared blocks here' } };
      site = await Site.make(xfs.dir, { capabilities });
      site.write(0, 30 * MIB);
      let writes = 0;
      site.onRead = () => {
        writes += 1;
        if (writes % 4 === 0) site.scatter(1, 4096);
        if (writes % 9 === 0) site.punch(writes * 65_536, 65_536);
      };
      const { live } = await round(1);
      expect(live).toMatchObject({
        mode: 'live',
        refused: 'not_supported',
        modeReason: expect.stringContaining('no shared blocks here'),
      });
      await site.open();
      const { round: last } = await site.finish();
      expect(last.changedBytes).toBeGreaterThan(0);
      expect(last.changedBytes).toBeLessThan(20 * MIB);
    });

    it('a live copy that was cut and began again ends right, whatever changed in between', async () => {
      site = await Site.make(xfs.dir, { capabilities: { reflink: false } });
      site.write(0, 30 * MIB);
      for (let cut = 0; cut < 4; cut += 1) {
        const controller = new AbortController();
        const before = site.bytesServed;
        site.onRead = (served) => served - before > 4 * MIB && controller.abort();
        await expect(round(1, { signal: controller.signal })).rejects.toMatchObject({ reason: 'aborted' });
        site.onRead = () => {};
        site.punch(cut * 7 * MIB, 3 * MIB);
        site.scatter(30, 4096);
        if (cut === 1) await site.open();
      }
      await site.finish();
    });

    it.each(['again', 'after a restart', 'after a restart that lost the sums'])(
      'a hole that a reader hears of who has something else there travels in the end: asked %s',
      async (how) => {
        site = await Site.make(xfs.dir, { capabilities: { reflink: false } });
        site.write(0, 2 * MIB);
        const ask = async () => (await settled(() => site.source.live(1, nothing))).snapshot;
        const snapshot = await ask();
        const reader = await site.source.openExport(snapshot);
        await reader.readInto(Buffer.alloc(CHUNK_BYTES), 5 * CHUNK_BYTES, CHUNK_BYTES);
        if (how !== 'after a restart that lost the sums') await reader.close();
        site.punch(5 * CHUNK_BYTES, CHUNK_BYTES);
        if (how !== 'again') await site.open();
        const have = { snapshot, root: '' };
        await settled(() => site.source.live(1, have));
        // It asks from the first chunk that it lacks, across those that it has.
        await (await site.source.openExport(snapshot)).blockStatus('base:allocation', 0, site.sizeBytes);
        const last = await settled(() => site.source.stopped(have));
        const stopped = await site.source.openExport(last.snapshot);
        const [changed] = await stopped.blockStatus(last.baseContext, 5 * CHUNK_BYTES, CHUNK_BYTES);
        expect(changed).toMatchObject({ flags: 1 });
      },
    );

    it('of a stopped volume only, is a plain copy', async () => {
      site = await Site.make(xfs.dir);
      site.write(0, 10 * MIB);
      site.write(63 * MIB, 5000);
      const { bytesTransferred, round: last } = await site.finish();
      expect(last).toMatchObject({ baseContext: '' });
      expect(bytesTransferred).toBe(10 * MIB + CHUNK_BYTES);
      expect((await site.volumes.snapshots()).length).toBe(0);
    });

    it('with one changed extent left out has equal roots all the same: only reading everything again finds it', async () => {
      let hidden: number | null = null;
      const disk: Disk = {
        ...hostDisk,
        async map(path, sizeBytes) {
          const map = await hostDisk.map(path, sizeBytes);
          if (hidden === null || path.endsWith('.snap')) return map;
          // The place that the block had in the snapshot: as if this change had never been.
          const snapshot = await hostDisk.map(
            join(path, '..', readdirSync(join(path, '..')).find((name) => name.endsWith('.snap'))!),
            sizeBytes,
          );
          return withOldPlace(map, snapshot, hidden);
        },
      };
      site = await Site.make(xfs.dir, { copy: { disk } });
      site.write(0, 10 * MIB);
      await round(1);
      site.write(2 * MIB, 4096);
      hidden = 5 * MIB;
      site.write(hidden, 4096);
      const rooting = site.source.root(forever);
      const last = await settled(async () => site.source.stopped(await site.have()));
      expect(last.changedBytes).toBe(CHUNK_BYTES);
      const { root } = await site.pull(last);
      expect(await rooting).toBe(root);
      expect(() => site.compare(site.imagePath, site.copyPath)).toThrow();
      expect(await site.rootOf(site.imagePath)).not.toBe(root);
      expect(await site.rootOf(site.copyPath)).toBe(root);
    });

    it('reads nothing to keep sums that a killed agent had not written down; the re-read before the settlement keeps them', async () => {
      site = await Site.make(xfs.dir);
      site.write(0, 30 * MIB);
      await round(1);
      site.write(2 * MIB, 4096);
      const { root } = await site.finish();
      let bytesRead = 0;
      const open: Disk['open'] = async (path, how) => {
        const file = await hostDisk.open(path, how);
        if (file === null || !path.endsWith('.img')) return file;
        const read = file.read.bind(file);
        file.read = async (target, offset) => {
          bytesRead += target.length;
          return read(target, offset);
        };
        return file;
      };
      const disk = { ...hostDisk, open };
      // The agent is killed: what it knew and had not written down is gone, and so are the snapshots at its next start.
      for (const { name } of await site.volumes.snapshots(volumeId)) await site.volumes.dropSnapshot(volumeId, name);
      await site.open({ disk });
      await site.source.end(root);
      expect(bytesRead).toBe(0);
      expect(await site.names()).toEqual(['owned-e1.img']);
      const paths = { imagePath: site.imagePath, keptPath: site.volumes.statePath(volumeId, 'root.sums') };
      const reread = (wanted: string) => rereadKept(paths, wanted, { signal: forever, disk });
      expect(await reread('another')).toBe(root);
      expect(await site.names()).toEqual(['owned-e1.img']);
      expect(await reread(root)).toBe(root);
      expect(await site.names()).toEqual(['owned-e1.img', 'root.sums']);
      const before = bytesRead;
      // Known sums are not believed: all is read each time.
      expect(await reread(root)).toBe(root);
      expect(bytesRead - before).toBeGreaterThanOrEqual(30 * MIB);
    });

    describe.each([true, false])('a way back to a host that kept its copy (shared blocks: %s)', (shares) => {
      const other = 'vol_bbbbbbbbbbbbbbb2';

      /** Moves the volume once; then `site` is the host that has it, and the old image is kept. */
      async function moved(): Promise<{ root: string; keptPath: string; keptSums: string }> {
        site = await Site.make(xfs.dir, { capabilities: { reflink: shares } });
        site.write(0, 30 * MIB);
        await round(1);
        const { root } = await site.finish();
        await site.source.end(root);
        expect(await site.names()).toEqual(['owned-e1.img', 'root.sums']);
        await site.volumes.relinquish(volumeId, 1);
        const keptPath = (await site.volumes.inspect(volumeId))!.path;
        const { copyPath, statePath } = site;
        const keptSums = site.volumes.statePath(volumeId, 'root.sums');
        execFileSync('mkdir', [join(xfs.dir, 'volumes', other)]);
        execFileSync('mv', [copyPath, join(xfs.dir, 'volumes', other, 'owned-e2.img')]);
        expect(await keepSums({ statePath, keptPath: site.volumes.statePath(other, 'root.sums') }, root)).toBe(true);
        Object.assign(site, { imagePath: join(xfs.dir, 'volumes', other, 'owned-e2.img') });
        await site.open({ volumeId: other, migrationId: 'mig_01ARZ3NDEKTSV4RRFFQ69G5FAW' });
        return { root, keptPath, keptSums };
      }

      it.each(['live', 'stopped'])('brings only what changed since, asked while %s', async (when) => {
        const { root, keptPath, keptSums } = await moved();
        site.scatter(20, 4096);
        site.punch(3 * MIB, MIB);
        const disk = shares ? hostDisk : { ...hostDisk, share: async () => false };
        const seed = () => {
          const [imagePath, statePath, clock, signal] = [site.copyPath, site.statePath, systemClock, forever];
          return seedCopy({
            kept: { imagePath: keptPath, sumsPath: keptSums },
            root,
            imagePath,
            statePath,
            clock,
            signal,
            disk,
          });
        };
        expect(await seed()).toBeNull();
        execFileSync('truncate', ['-s', String(site.sizeBytes), site.copyPath]);
        expect(await seed()).toBe(rootSnapshot(root));
        expect(await seed()).toBe(rootSnapshot(root));
        site.compare(keptPath, site.copyPath);
        site.bytesServed = 0;
        if (when === 'live') {
          const live = await settled(async () => site.source.live(1, await site.have(root)));
          expect(live.changedBytes).toBeLessThanOrEqual(60 * CHUNK_BYTES);
          await site.pull(live);
          expect(await seed()).toBeNull();
          site.scatter(5, 4096);
        }
        await site.finish(await site.have(root));
        expect(site.bytesServed).toBeLessThanOrEqual(70 * CHUNK_BYTES);
      });
    });
  },
);

/** A map in which the bytes of one chunk lie where they do in another map. */
function withOldPlace(map: AllocationMap, old: AllocationMap, offset: number): AllocationMap {
  const changed = new AllocationMap(map.sizeBytes, map.source);
  changed.add(0, map.sizeBytes);
  const inside = (at: number): boolean => at >= offset && at < offset + CHUNK_BYTES;
  const rows: [number, number, number][] = [];
  for (const [from, wanted] of [
    [map, false],
    [old, true],
  ] as const) {
    for (let index = 0; index < from.places.count; index += 1) {
      for (let at = from.places.start(index); at < from.places.end(index); at += 4096) {
        if (inside(at) === wanted)
          rows.push([at, at + 4096, from.places.physical(index) + at - from.places.start(index)]);
      }
    }
  }
  for (const row of rows.sort((a, b) => a[0] - b[0])) changed.places.add(...row);
  return changed;
}
