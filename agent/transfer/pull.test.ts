// Past 300 lines: every way in which a copy can be cut, resumed and repaired, over one fake source and disk.
import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NbdError } from '../../nbd/error.ts';
import { ManualClock, systemClock } from '../../shared/clock.ts';
import { CHUNK_BYTES, chunkCount, chunkSum, SUM_BYTES, writeSums } from './chunks.ts';
import { type PullOptions, type PullProgress, pullVolume } from './pull.ts';
import { RootHash } from './root.ts';
import { SumsFile } from './sums.ts';
import { CHANGED, MemoryDisk, MemorySource, volumeOf } from './testing.ts';

const IMAGE = 'volume.img';
const STATE = 'volume.sums';

function pull(disk: MemoryDisk, source: MemorySource, more: Partial<PullOptions> = {}) {
  return pullVolume({
    connect: async () => source,
    imagePath: IMAGE,
    statePath: STATE,
    sizeBytes: source.sizeBytes,
    snapshot: 'first',
    clock: systemClock,
    signal: new AbortController().signal,
    disk,
    recordEveryBytes: 4 * CHUNK_BYTES,
    ...more,
  });
}

function rootOf(bytes: Uint8Array): string {
  const sums = Buffer.alloc(chunkCount(bytes.length) * SUM_BYTES);
  writeSums(bytes, sums);
  const hash = new RootHash(bytes.length);
  hash.add(sums);
  return hash.digest();
}

function expectSame(disk: MemoryDisk, source: MemorySource): void {
  const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
  expect(disk.bytes(IMAGE).length).toBe(source.sizeBytes);
  expect(digest(disk.bytes(IMAGE))).toBe(digest(source.bytes));
}

describe('a copy', () => {
  it('brings every byte, leaves zeros out and tells what it did', async () => {
    const source = new MemorySource(volumeOf('xx..h.sx..xx', 1, 777));
    const disk = new MemoryDisk();
    const written: number[] = [];
    disk.onWrite = (path, bytes) => {
      if (path === IMAGE) written.push(bytes.length);
    };
    const progress: PullProgress[] = [];
    const result = await pull(disk, source, { onProgress: (p) => progress.push(p) });
    expectSame(disk, source);
    expect(result).toEqual({
      root: rootOf(source.bytes),
      bytesTransferred: 7 * CHUNK_BYTES + 777,
      bytesKept: 0,
      bytesResumed: 0,
      bytesZero: 5 * CHUNK_BYTES,
      bytesRepaired: 0,
      rereadDirect: true,
      connections: 1,
    });
    expect(written.reduce((sum, bytes) => sum + bytes, 0)).toBe(7 * CHUNK_BYTES + 777);
    expect(progress.at(-1)).toMatchObject({ bytesDone: source.sizeBytes, bytesTotal: source.sizeBytes });
    expect(source.closed).toBeGreaterThan(0);
  });

  it('finds zeros by their content where the source has no map', async () => {
    const source = new MemorySource(volumeOf('x...x', 1));
    Object.assign(source, { contexts: new Set() });
    const result = await pull(new MemoryDisk(), source);
    expect(result).toMatchObject({ bytesZero: 3 * CHUNK_BYTES, bytesTransferred: 5 * CHUNK_BYTES });
    expect(result.root).toBe(rootOf(source.bytes));
  });

  it.each([0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])(
    'works for a volume of %i bytes',
    async (sizeBytes) => {
      const source = new MemorySource(volumeOf('', 3, sizeBytes));
      const disk = new MemoryDisk();
      expect((await pull(disk, source)).root).toBe(rootOf(source.bytes));
      expectSame(disk, source);
    },
  );

  it('that is called again when done reads nothing and needs no connection', async () => {
    const source = new MemorySource(volumeOf('x.x', 1));
    const disk = new MemoryDisk();
    const first = await pull(disk, source);
    const again = await pull(disk, source, { connect: () => Promise.reject(new Error('not needed')) });
    expect(again).toMatchObject({
      root: first.root,
      bytesTransferred: 0,
      bytesResumed: 3 * CHUNK_BYTES,
      connections: 0,
    });
  });

  it('starts over when the image or the state is not what the other says', async () => {
    const source = new MemorySource(volumeOf('xxxx', 1));
    for (const spoil of ['snapshot', 'image', 'state'] as const) {
      const disk = new MemoryDisk();
      await pull(disk, source);
      const more = spoil === 'snapshot' ? { snapshot: 'second' } : {};
      if (spoil === 'image') await (await disk.open(IMAGE, { mode: 'write' }))!.truncate(5);
      if (spoil === 'state') await (await disk.open(STATE, { mode: 'write' }))!.write(Buffer.from('x'), 40);
      // Zeros where data was: what is left of the old image must not shine through.
      const sparse = new MemorySource(volumeOf('x..x', 2));
      const result = await pull(disk, sparse, more);
      expect(result).toMatchObject({ bytesResumed: 0, bytesTransferred: 2 * CHUNK_BYTES });
      expectSame(disk, sparse);
    }
  });
});

describe('breaks', () => {
  it('are waited out, and nothing that had arrived travels again', async () => {
    const picture = 'xxxx.xxxxxxx..xxxxxxxxxxxxxxxxxxxxxxx.xxxxxx'.repeat(4);
    const dataBytes = [...picture].filter((letter) => letter === 'x').length * CHUNK_BYTES;
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 0, max: 40 }), { minLength: 1, maxLength: 6 }), async (breaks) => {
        const source = new MemorySource(volumeOf(picture, 5));
        const disk = new MemoryDisk();
        const clock = new ImpatientClock();
        const left = [...breaks];
        const connect = async (): Promise<MemorySource> => {
          source.breakAfterBytes = left.length > 0 ? left.pop()! * CHUNK_BYTES : Number.POSITIVE_INFINITY;
          return source;
        };
        const result = await pull(disk, source, { connect, clock });
        expectSame(disk, source);
        expect(source.bytesSent).toBe(dataBytes);
        expect(result).toMatchObject({ bytesTransferred: dataBytes, root: rootOf(source.bytes) });
      }),
      { numRuns: 25 },
    );
  });

  it('wait longer each time, at most 5 s, and give up when nothing arrives', async () => {
    const clock = new ImpatientClock();
    const connect = () => Promise.reject(new NbdError('disconnected', 'nobody there'));
    const pulling = pull(new MemoryDisk(), new MemorySource(volumeOf('x', 1)), {
      connect,
      clock,
      giveUpAfterMs: 20_000,
    });
    await expect(pulling).rejects.toMatchObject({ name: 'TransferError', reason: 'gave_up' });
    expect(clock.slept).toEqual([100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
  });

  it.each([
    ['unknown_export', 'refused'],
    ['refused', 'refused'],
    ['tls', 'refused'],
    ['io', 'source_io'],
  ] as const)('a source that answers %s is not asked again: %s', async (answer, reason) => {
    let asked = 0;
    const connect = () => {
      asked += 1;
      return Promise.reject(new NbdError(answer, 'no'));
    };
    const pulling = pull(new MemoryDisk(), new MemorySource(volumeOf('x', 1)), { connect });
    await expect(pulling).rejects.toMatchObject({ reason });
    expect(asked).toBe(1);
  });

  it('an abort ends the copy wherever it is, and the next call goes on', async () => {
    const source = new MemorySource(volumeOf('x'.repeat(64), 5));
    const disk = new MemoryDisk();
    const controller = new AbortController();
    const limiter = { take: async () => source.bytesSent > 20 * CHUNK_BYTES && controller.abort() };
    const aborted = pull(disk, source, { signal: controller.signal, limiter: limiter as never });
    await expect(aborted).rejects.toMatchObject({ reason: 'aborted' });
    const sent = source.bytesSent;
    const result = await pull(disk, source);
    expect(result.bytesResumed).toBe(sent);
    expect(source.bytesSent).toBe(64 * CHUNK_BYTES);
    expectSame(disk, source);
  });

  it('an abort ends the waiting between two connections', async () => {
    const clock = new ManualClock();
    const controller = new AbortController();
    const connect = async () => {
      queueMicrotask(() => queueMicrotask(() => controller.abort()));
      throw new NbdError('disconnected', 'nobody there');
    };
    const pulling = pull(new MemoryDisk(), new MemorySource(volumeOf('x', 1)), {
      connect,
      clock,
      signal: controller.signal,
    });
    await expect(pulling).rejects.toMatchObject({ reason: 'aborted' });
  });
});

describe('the disk', () => {
  it.each([
    ['ENOSPC', 'no_space'],
    ['EIO', 'target_io'],
  ])('%s ends the copy as %s, without a second try', async (code, reason) => {
    const disk = new MemoryDisk();
    let writes = 0;
    disk.onWrite = (path) => {
      if (path !== IMAGE) return;
      writes += 1;
      if (writes === 3) throw Object.assign(new Error('write failed'), { code });
    };
    const source = new MemorySource(volumeOf('x'.repeat(40), 1));
    let connections = 0;
    const connect = async () => {
      connections += 1;
      return source;
    };
    await expect(pull(disk, source, { connect })).rejects.toMatchObject({ reason });
    expect(connections).toBe(1);
  });

  it('an export of another size is refused', async () => {
    const source = new MemorySource(volumeOf('xx', 1));
    const pulling = pull(new MemoryDisk(), source, { sizeBytes: 3 * CHUNK_BYTES });
    await expect(pulling).rejects.toMatchObject({ reason: 'size_mismatch' });
  });

  it('that loses what it was given is found out, repaired once and told', async () => {
    const source = new MemorySource(volumeOf('xx.xxxxxxxxxxx', 1));
    const disk = new MemoryDisk();
    const flip = flipAt(9 * CHUNK_BYTES + 12_345, 1);
    disk.onWrite = flip;
    const result = await pull(disk, source);
    expect(result).toMatchObject({ bytesRepaired: CHUNK_BYTES, root: rootOf(source.bytes) });
    expectSame(disk, source);
  });

  it('that loses it twice is named with the place, also by a later call', async () => {
    const source = new MemorySource(volumeOf('xx.xxxxxxxxxxx', 1));
    const disk = new MemoryDisk();
    disk.onWrite = flipAt(9 * CHUNK_BYTES + 12_345, Number.POSITIVE_INFINITY);
    const offset = 9 * CHUNK_BYTES;
    await expect(pull(disk, source)).rejects.toMatchObject({ reason: 'reread_mismatch', offset });
    await expect(pull(disk, source)).rejects.toMatchObject({ reason: 'reread_mismatch', offset });
  });

  it('with something where zeros belong is found out', async () => {
    const source = new MemorySource(volumeOf('x..x', 1));
    const disk = new MemoryDisk();
    disk.onWrite = (path) => {
      if (path !== IMAGE) return;
      disk.onWrite = () => {};
      disk.bytes(IMAGE)[CHUNK_BYTES + 5] = 9;
    };
    const result = await pull(disk, source);
    expect(result.bytesRepaired).toBe(CHUNK_BYTES);
    expectSame(disk, source);
  });
});

describe('a later snapshot', () => {
  const base = { snapshot: 'first', context: CHANGED };

  it('brings what changed, and zeros what is zero now', async () => {
    const before = volumeOf('xxxx..xxhs', 1, 100);
    const after = Uint8Array.from(before);
    after.fill(0, CHUNK_BYTES, 3 * CHUNK_BYTES);
    after[5 * CHUNK_BYTES + 70] = 1;
    after[after.length - 1]! ^= 1;
    const disk = new MemoryDisk();
    await pull(disk, new MemorySource(before));
    const source = new MemorySource(after, before);
    const result = await pull(disk, source, { snapshot: 'second', base });
    expectSame(disk, source);
    expect(result).toMatchObject({
      root: rootOf(after),
      bytesTransferred: CHUNK_BYTES + 100,
      bytesZero: 2 * CHUNK_BYTES,
      bytesKept: 7 * CHUNK_BYTES,
      bytesResumed: 0,
    });
  });

  it('without the promised context is refused and changes nothing', async () => {
    const disk = new MemoryDisk();
    const first = new MemorySource(volumeOf('xx', 1));
    await pull(disk, first);
    const pulling = pull(disk, new MemorySource(volumeOf('xx', 2)), { snapshot: 'second', base });
    await expect(pulling).rejects.toMatchObject({ reason: 'refused' });
    expectSame(disk, first);
  });
});

describe('a power cut at any moment', () => {
  const letters = fc.constantFrom('x', 'x', '.', 'h', 's');
  const picture = fc.array(letters, { minLength: 1, maxLength: 12 }).map((each) => each.join(''));

  /** Every chunk that the state on the disk calls received is there, with its right sum. */
  async function expectHonest(disk: MemoryDisk, snapshots: Record<string, Uint8Array>): Promise<number> {
    const sums = await SumsFile.open(disk, STATE);
    if (!sums) return 0;
    const bytes = snapshots[sums.header.snapshot]!;
    const page = Buffer.alloc(SUM_BYTES);
    for (const [from, to] of sums.received.runs()) {
      for (let chunk = from; chunk < to; chunk += 1) {
        const at = chunk * CHUNK_BYTES;
        const here = disk.bytes(IMAGE).subarray(at, Math.min(at + CHUNK_BYTES, bytes.length));
        const there = bytes.subarray(at, at + CHUNK_BYTES);
        if (Buffer.compare(here, there) !== 0) throw new Error(`chunk ${chunk} is called received and is not there`);
        await sums.readSums(page, chunk);
        if (page.readBigUInt64LE() !== chunkSum(there)) throw new Error(`chunk ${chunk} has a wrong sum`);
      }
    }
    return sums.received.count();
  }

  it('loses nothing that was recorded, and the copy ends right', async () => {
    let recorded = 0;
    const end = fc.record({ operations: fc.oneof(fc.nat(30), fc.nat(160)), pieces: fc.nat(30) });
    const property = fc.asyncProperty(
      fc.tuple(picture, picture, picture),
      fc.array(end, { minLength: 1, maxLength: 3 }),
      fc.infiniteStream(fc.boolean()),
      async (pictures, ends, coins) => {
        const length = Math.max(...pictures.map((each) => each.length));
        const [first, second, third] = pictures.map((each) => volumeOf(each.padEnd(length, '.'), 11, 600)) as Three;
        const disk = new MemoryDisk();
        const keep = (): boolean => coins.next().value ?? true;
        const base = { snapshot: 'first', context: CHANGED };
        const rounds = [
          [new MemorySource(first), { snapshot: 'first' }],
          [new MemorySource(second, first), { snapshot: 'second', base }],
          // No base: it starts over, on an image that is full of the second.
          [new MemorySource(third), { snapshot: 'third' }],
          [new MemorySource(second), { snapshot: 'second' }],
        ] as const;
        for (const [source, more] of rounds) {
          for (const { operations, pieces } of ends) {
            const controller = new AbortController();
            let left = pieces;
            const take = async (): Promise<void> => {
              left -= 1;
              if (left === 0) controller.abort();
            };
            disk.operationsLeft = operations;
            await pull(disk, source, { ...more, signal: controller.signal, limiter: { take } }).catch(() => {});
            disk.powerCut(keep);
            recorded += await expectHonest(disk, { first, second, third });
          }
          // The third is left unfinished: the second starts over on what the cuts have left of both.
          if (more.snapshot === 'third') continue;
          const result = await pull(disk, source, more);
          expectSame(disk, source);
          expect(result.root).toBe(rootOf(source.bytes));
          expect(result.bytesRepaired).toBe(0);
        }
      },
    );
    await fc.assert(property, { numRuns: 80 });
    expect(recorded).toBeGreaterThan(100);
  });

  it.each([
    ['lost', false],
    ['kept', true],
  ])('while starting over, with all unsynced writes %s, leaves nothing of the old image behind', async (_, kept) => {
    const old = new MemorySource(volumeOf('xxxxxx', 1));
    const source = new MemorySource(volumeOf('.x..x.', 2));
    for (let cut = 0, done = false; !done; cut += 1) {
      const disk = new MemoryDisk();
      await pull(disk, old);
      disk.operationsLeft = cut;
      done = await pull(disk, source, { snapshot: 'second' }).then(
        () => true,
        () => false,
      );
      disk.powerCut(() => kept);
      const result = await pull(disk, source, { snapshot: 'second' });
      expect(result.bytesRepaired).toBe(0);
      expectSame(disk, source);
    }
  });
});

type Three = [Uint8Array, Uint8Array, Uint8Array];

/** A clock on which every sleep is over at once, and the time has passed. */
class ImpatientClock extends ManualClock {
  readonly slept: number[] = [];

  override async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    this.slept.push(ms);
    this.advance(ms);
  }
}

/** Flips a bit of the image at `place` in the first `times` writes that cover it. */
function flipAt(place: number, times: number) {
  let left = times;
  return (path: string, bytes: Uint8Array, offset: number): void => {
    const at = place - offset;
    if (path !== IMAGE || at < 0 || at >= bytes.length || left <= 0) return;
    left -= 1;
    bytes[at]! ^= 1;
  };
}
