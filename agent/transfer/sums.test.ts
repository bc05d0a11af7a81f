import { describe, expect, it } from 'vitest';
import { CHUNK_BYTES, chunkSum, isZeroChunk } from './chunks.ts';
import { NO_VOLUME_ROOT, RootHash } from './root.ts';
import { SumsFile, type SumsHeader } from './sums.ts';
import { MemoryDisk } from './testing.ts';

const header: SumsHeader = {
  sizeBytes: 10 * CHUNK_BYTES + 5,
  snapshot: 'vs_é',
  imageInode: 2 ** 45,
  fresh: true,
  repaired: false,
};

describe('a sums file', () => {
  it('keeps header, bitmaps and sums', async () => {
    const disk = new MemoryDisk();
    const sums = await SumsFile.create(disk, 'sums', header);
    expect(sums.chunkCount).toBe(11);
    await sums.writeSums(Buffer.from('0123456789abcdef'), 9);
    sums.received.fill(9, 11, true);
    sums.verified.fill(10, 11, true);
    await sums.record();
    const root = await sums.root();
    await sums.setHeader({ ...header, fresh: false, snapshot: '' });
    const again = (await SumsFile.open(disk, 'sums'))!;
    expect(again.header).toEqual({ ...header, fresh: false, snapshot: '' });
    expect([...again.received.runs(), ...again.verified.runs()]).toEqual([[9, 11], [10, 11]]); // biome-ignore format: pairs
    const page = Buffer.alloc(24);
    await again.readSums(page, 8);
    expect(page.toString('latin1')).toBe(`${'\0'.repeat(8)}0123456789abcdef`);
    expect(await again.root()).toBe(root);
    await again.zeroSums(9, 11);
    expect(await again.root()).toBe(await (await SumsFile.create(disk, 'other', header)).root());
  });

  it('that is cut, changed or not one is not opened', async () => {
    const disk = new MemoryDisk();
    expect(await SumsFile.open(disk, 'sums')).toBeNull();
    for (let at = 0; at < 512; at += 7) {
      await SumsFile.create(disk, 'sums', header);
      disk.bytes('sums')[at]! ^= 1;
      expect(await SumsFile.open(disk, 'sums')).toBeNull();
    }
    const sums = await SumsFile.create(disk, 'sums', header);
    expect(await SumsFile.open(disk, 'sums')).not.toBeNull();
    await (await disk.open('sums', { mode: 'write' }))!.truncate(6000);
    expect(await SumsFile.open(disk, 'sums')).toBeNull();
    await expect(sums.setHeader({ ...header, snapshot: 'x'.repeat(256) })).rejects.toThrow('255');
  });
});

describe('sums and roots', () => {
  it('zeros have the sum 0, at any length, and nothing else here has', () => {
    for (const length of [1, 100, CHUNK_BYTES]) {
      const chunk = new Uint8Array(length);
      expect(chunkSum(chunk)).toBe(0n);
      expect(isZeroChunk(chunk, 0n)).toBe(true);
      chunk[length - 1] = 1;
      expect(chunkSum(chunk)).not.toBe(0n);
      // Even a collision would not make it zeros.
      expect(isZeroChunk(chunk, 0n)).toBe(false);
    }
  });

  it('a root depends on length, order and every sum, and is the same for zeros however added', () => {
    const root = (sizeBytes: number, ...sums: string[]): string => {
      const hash = new RootHash(sizeBytes);
      for (const sum of sums) hash.add(Buffer.from(sum));
      return hash.digest();
    };
    const two = 2 * CHUNK_BYTES;
    const roots = [
      root(two, 'aaaaaaaa', 'bbbbbbbb'),
      root(two, 'bbbbbbbb', 'aaaaaaaa'),
      root(two - 1, 'aaaaaaaa', 'bbbbbbbb'),
      root(0),
      NO_VOLUME_ROOT,
    ];
    expect(new Set(roots).size).toBe(roots.length);
    expect(roots.every((each) => /^[0-9a-f]{64}$/.test(each))).toBe(true);
    const zeros = new RootHash(20_000 * CHUNK_BYTES);
    zeros.addZeros(20_000);
    expect(zeros.digest()).toBe(root(20_000 * CHUNK_BYTES, '\0'.repeat(160_000)));
    expect(() => root(two, 'aaaaaaaa')).toThrow('2');
  });

  it('a root stays what it was: agents of two versions must agree', () => {
    const hash = new RootHash(3 * CHUNK_BYTES);
    hash.add(Buffer.from('0123456789abcdefghijklmn'));
    expect(hash.digest()).toMatchInlineSnapshot(`"65750d92ab1884f9eeb9240b53598037c4eb7cae57541268f8f02a745696a6dd"`);
    expect(chunkSum(Buffer.alloc(CHUNK_BYTES, 'ferry'))).toMatchInlineSnapshot(`18118567037289930707n`);
    expect(NO_VOLUME_ROOT).toMatchInlineSnapshot(`"64a5addc20f3336398b04a06f21613b847aa8d920718557a9808f60479cf65a6"`);
  });
});
