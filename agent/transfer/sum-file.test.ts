import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { alignedBuffers } from './aligned.ts';
import { CHUNK_BYTES, chunkCount, SUM_BYTES, writeSums } from './chunks.ts';
import { hostDisk } from './disk.ts';
import { AllocationMap } from './extents.ts';
import { RootHash } from './root.ts';
import { sumFile } from './sum-file.ts';
import { volumeOf } from './testing.ts';

let directory: string;
let path: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'ferry-sum-'));
  path = join(directory, 'volume.img');
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const signal = new AbortController().signal;

function rootOf(bytes: Uint8Array): string {
  const sums = Buffer.alloc(chunkCount(bytes.length) * SUM_BYTES);
  writeSums(bytes, sums);
  const hash = new RootHash(bytes.length);
  hash.add(sums);
  return hash.digest();
}

describe('the root of a file', () => {
  it.each([
    ['xxh..s.x', 0],
    ['....', 0],
    [`${'x'.repeat(40)}${'.'.repeat(40)}hs`, 100],
    ['', 5],
    ['', 0],
  ])('%s and %i bytes: is that of its bytes, direct or not, with a map or without', async (picture, extra) => {
    const bytes = volumeOf(picture, 7, extra);
    writeFileSync(path, bytes);
    const blind = { ...hostDisk, map: async (_: string, size: number) => AllocationMap.assumed(size, 'test') };
    for (const direct of [true, false]) {
      for (const disk of [hostDisk, blind]) {
        const result = await sumFile({ path, signal, direct, disk });
        expect(result.root).toBe(rootOf(bytes));
        expect(result.sizeBytes).toBe(bytes.length);
        if (disk === blind) expect(result).toMatchObject({ bytesRead: bytes.length, map: { kind: 'assumed' } });
      }
    }
  });

  it('does not read holes, and tells how far it is', async () => {
    writeFileSync(path, volumeOf('xx', 1));
    truncateSync(path, 1024 * 1_048_576);
    const done: number[] = [];
    const onProgress = ({ bytesDone }: { bytesDone: number }) => done.push(bytesDone);
    const result = await sumFile({ path, signal, direct: false, onProgress });
    if (result.map.kind === 'extents') expect(result.bytesRead).toBe(2 * CHUNK_BYTES);
    expect(done.at(-1)).toBe(1024 * 1_048_576);
    expect(done).toEqual([...done].sort((a, b) => a - b));
  });

  it('ends at an abort, and for a file that is not there', async () => {
    writeFileSync(path, volumeOf('xx', 1));
    await expect(sumFile({ path, signal: AbortSignal.abort(), direct: false })).rejects.toMatchObject({
      reason: 'aborted',
    });
    await expect(sumFile({ path: `${path}x`, signal, direct: false })).rejects.toMatchObject({ reason: 'target_io' });
  });
});

describe('the disk of this host', () => {
  it('writes, zeros and reads back whole and ragged pieces, through O_DIRECT where it works', async () => {
    const file = (await hostDisk.open(path, { mode: 'create', direct: true }))!;
    const [buffer, back] = alignedBuffers(2, 1_048_576) as [Uint8Array, Uint8Array];
    buffer.fill(7);
    await file.truncate(3 * 1_048_576 + 100);
    await file.write(buffer, 1_048_576);
    await file.write(buffer.subarray(0, 100), 3 * 1_048_576);
    await file.zero(1_048_576 + 1000, 500_000);
    await file.zero(2 * 1_048_576 - 10, 5);
    await file.sync();
    expect(await file.read(back, 1_048_576)).toBe(1_048_576);
    const expected = Buffer.alloc(1_048_576, 7)
      .fill(0, 1000, 501_000)
      .fill(0, 1_048_576 - 10, 1_048_576 - 5);
    expect(Buffer.compare(back, expected)).toBe(0);
    expect(await file.read(back.subarray(0, 4096), 3 * 1_048_576)).toBe(100);
    expect((await file.stat()).sizeBytes).toBe(3 * 1_048_576 + 100);
    await file.close();
    expect(await hostDisk.open(`${path}x`, { mode: 'write', direct: true })).toBeNull();
  });

  it('takes a buffer that no device could read directly into', async () => {
    const file = (await hostDisk.open(path, { mode: 'create', direct: true }))!;
    await file.write(Buffer.alloc(8192, 3), 0);
    const back = Buffer.alloc(8192);
    expect(await file.read(back, 0)).toBe(8192);
    expect(back.every((byte) => byte === 3)).toBe(true);
    await file.close();
  });
});
