import { describe, expect, it } from 'vitest';
import { Bitmap } from './bitmap.ts';
import { CHUNK_BYTES, SUM_BYTES } from './chunks.ts';
import type { Disk } from './disk.ts';
import { AllocationMap } from './extents.ts';
import { ServedSums } from './served-sums.ts';
import { MemoryDisk } from './testing.ts';

const chunks = 40;
const path = 'copy.sums';

function place(disk: Disk = new MemoryDisk()) {
  return { disk, path, sizeBytes: chunks * CHUNK_BYTES, imageInode: 7 };
}

/** Sums of `count` chunks, all of them `value`. */
function sums(value: number, count = 1): Buffer {
  const bytes = Buffer.alloc(count * SUM_BYTES);
  for (let at = 0; at < count; at += 1) bytes.writeBigUInt64LE(BigInt(value), at * SUM_BYTES);
  return bytes;
}

function known(of: ServedSums): number[] {
  return Array.from({ length: chunks }, (_, chunk) => chunk).filter((chunk) => of.has(chunk));
}

describe('the sums of what was served', () => {
  it('are known again after a restart once they are recorded, and only then', async () => {
    const at = place();
    const first = await ServedSums.create(at, 'a');
    await first.put('a', 3, sums(1, 2));
    await first.record();
    await first.put('a', 9, sums(2));
    expect(known(first)).toEqual([3, 4, 9]);
    const again = (await ServedSums.resume(at))!;
    expect(again.snapshot).toBe('a');
    expect(known(again)).toEqual([3, 4]);
    expect(await ServedSums.resume({ ...at, imageInode: 8 })).toBeNull();
  });

  it('of another snapshot are not taken, and what changed is not known of the next one', async () => {
    const at = place();
    const of = await ServedSums.create(at, 'a');
    await of.put('a', 0, sums(1, 10));
    const changed = new Bitmap(chunks);
    changed.fill(2, 5, true);
    await of.moveTo('b', changed);
    await of.put('a', 3, sums(9));
    expect(known(of)).toEqual([0, 1, 5, 6, 7, 8, 9]);
    expect(known((await ServedSums.resume(at))!)).toEqual([0, 1, 5, 6, 7, 8, 9]);
    await of.moveTo('c', null);
    expect(known(of)).toEqual([]);
  });

  it('of a name that comes soon are not taken for those of the one before after a restart', async () => {
    const at = place();
    const of = await ServedSums.create(at, 'a');
    await of.put('a', 0, sums(1, 10));
    const changed = new Bitmap(chunks);
    changed.fill(2, 5, true);
    await of.moveSoonTo('b', changed);
    await of.put('b', 2, sums(2, 3));
    await of.record();
    expect(known(of)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    const old = (await ServedSums.resume(at))!;
    expect([old.snapshot, known(old)]).toEqual(['a', [0, 1, 5, 6, 7, 8, 9]]);
    await of.moveTo('c', new Bitmap(chunks));
    const named = (await ServedSums.resume(at))!;
    expect([named.snapshot, known(named)]).toEqual(['c', [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]);
  });

  it('of holes are known without being served', async () => {
    const of = await ServedSums.create(place(), 'a');
    await of.put('a', 1, sums(5));
    await of.moveTo('b', new Bitmap(chunks));
    const map = new AllocationMap(chunks * CHUNK_BYTES, { kind: 'extents' });
    map.add(CHUNK_BYTES, 2 * CHUNK_BYTES);
    map.add(3 * CHUNK_BYTES + 5, 3 * CHUNK_BYTES + 6);
    await of.putHoles('b', map);
    expect(of.unknownCount).toBe(1);
    expect(of.has(3)).toBe(false);
  });

  it('that differ are found; those of a file in use are what was told last', async () => {
    const disk = new MemoryDisk();
    const [told, now] = [
      await ServedSums.create(place(disk), 'live'),
      await ServedSums.create({ ...place(disk), path: 'b' }, 'now'),
    ];
    const isCurrent = () => true;
    expect(await told.tell(0, sums(1, 4), isCurrent)).toBe(true);
    expect(await told.tellHoles(4, 8, { isCurrent, isFirst: true })).toBe(true);
    await told.tell(1, sums(2), isCurrent);
    await now.put('now', 0, sums(1, 4));
    await now.put('now', 4, sums(0, 3));
    await now.put('now', 7, sums(3));
    await now.put('now', 9, sums(3));
    const changed = await now.differing(told);
    expect([0, 1, 2, 3, 4, 5, 6, 7, 8, 9].filter((chunk) => !changed.has(chunk))).toEqual([0, 2, 3, 4, 5, 6]);
    expect(await told.tell(0, sums(8), () => false)).toBe(false);
    expect((await now.differing(told)).has(0)).toBe(false);
  });

  it('told otherwise before are forgotten durably before the newer bytes may leave', async () => {
    const at = place();
    const of = await ServedSums.create(at, 'live');
    await of.tell(0, sums(1, 2), () => true);
    await of.record();
    await of.tell(1, sums(2), () => true);
    // The agent is killed now: the older sum must not speak for the newer bytes.
    expect(known((await ServedSums.resume(at))!)).toEqual([0]);
  });

  it('of holes are what was told only to the first reader, and to nobody who may have something else', async () => {
    const at = place();
    const of = await ServedSums.create(at, 'live');
    const isCurrent = () => true;
    await of.tell(1, sums(1, 2), isCurrent);
    await of.tellHoles(0, 2, { isCurrent, isFirst: true });
    expect(known(of)).toEqual([0, 2]);
    await of.tellHoles(0, 5, { isCurrent, isFirst: false });
    expect(known(of)).toEqual([0]);
    expect(known((await ServedSums.resume(at))!)).toEqual([]);
    expect(await of.tellHoles(4, 5, { isCurrent: () => false, isFirst: true })).toBe(false);
    expect(known(of)).toEqual([0]);
  });

  it('are kept in memory when the disk is full', async () => {
    const disk = new MemoryDisk();
    disk.onWrite = () => {
      throw Object.assign(new Error('full'), { code: 'ENOSPC' });
    };
    const at = place(disk);
    const of = await ServedSums.create(at, 'a');
    expect(of.isDurable).toBe(false);
    await of.put('a', 3, sums(1, 2));
    await of.moveTo('b', new Bitmap(chunks));
    expect(known(of)).toEqual([3, 4]);
    expect(await ServedSums.resume(at)).toBeNull();
    await of.tell(0, sums(4, chunks), () => true);
    expect(await of.root()).toMatch(/^[0-9a-f]{64}$/);
  });
});
