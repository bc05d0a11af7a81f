import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Bitmap } from './bitmap.ts';
import { bytesOfChunks, changedChunks, chunksContext } from './changes.ts';
import { CHUNK_BYTES } from './chunks.ts';
import { AllocationMap } from './extents.ts';
import { FilefragParser } from './filefrag.ts';

const BLOCK_BYTES = 4096;
const CHUNK_BLOCKS = CHUNK_BYTES / BLOCK_BYTES;

/** Rows of block, count, place of the first on the device, and flags. */
type Row = readonly [start: number, count: number, physical: number, flags?: string];

function mapOf(blocks: number, rows: readonly Row[]): AllocationMap {
  const parser = new FilefragParser(blocks * BLOCK_BYTES);
  const lines = rows.map(([start, count, physical, flags = ''], index) => {
    return `${index}: ${start}..${start + count - 1}: ${physical}..${physical + count - 1}: ${count}: ${flags}`;
  });
  const text = [
    'Filesystem type is: 58465342',
    `File size of x is ${blocks * BLOCK_BYTES} (${blocks} blocks of ${BLOCK_BYTES} bytes)`,
    ' ext:     logical_offset:        physical_offset: length:   expected: flags:',
    ...lines,
    `x: ${rows.length} extents found`,
  ].join('\n');
  parser.add(Buffer.from(text));
  parser.end();
  expect(parser.failure()).toBeNull();
  return parser.map;
}

function chunksOf(bitmap: Bitmap): number[] {
  return [...bitmap.runs()].flatMap(([from, to]) => Array.from({ length: to - from }, (_, index) => from + index));
}

describe('two maps of 4 chunks and a half', () => {
  it.each<[string, readonly Row[], readonly Row[], number[]]>([
    ['nothing in either', [], [], []],
    ['equal places', [[0, 72, 500]], [[0, 72, 500]], []],
    ['equal places, cut otherwise', [[0, 72, 500]], [[0, 20, 500, 'shared'], [20, 52, 520, 'last,eof']], []],
    ['one block elsewhere', [[0, 72, 500]], [[0, 17, 500], [17, 1, 900], [18, 54, 518]], [1]],
    ['a block on each side of a border', [[0, 72, 500]], [[0, 15, 500], [15, 2, 900], [17, 55, 517]], [0, 1]],
    ['data where a hole was', [], [[40, 1, 900]], [2]],
    ['a hole where data was', [[40, 1, 900]], [], [2]],
    ['unwritten where data was', [[40, 1, 900]], [[40, 1, 900, 'unwritten']], [2]],
    ['data where unwritten was, at the same place', [[40, 1, 900, 'unwritten']], [[40, 1, 900]], [2]],
    ['unwritten and a hole', [[40, 8, 900, 'unwritten']], [], []],
    ['the same blocks, at another place of the file', [[0, 16, 900]], [[16, 16, 900]], [0, 1]],
    ['two blocks that changed places', [[0, 2, 900]], [[0, 1, 901], [1, 1, 900]], [0]],
    ['the last, short chunk', [[64, 8, 900]], [[64, 7, 900], [71, 1, 950]], [4]],
    ...['delalloc', 'unknown_loc', 'inline', 'encoded', 'encrypted', 'not_aligned', 'tail_packed', '0x4000', 'shared,inline'].map(
      (flags): [string, readonly Row[], readonly Row[], number[]] => [`${flags} in both, at one place`, [[16, 4, 900, flags]], [[16, 4, 900, flags]], [1]],
    ),
    ['delalloc before', [[16, 4, 900, 'delalloc']], [[16, 4, 900]], [1]],
    ['delalloc now', [[16, 4, 900]], [[16, 4, 900, 'unwritten,delalloc']], [1]],
    ['unknown where nothing is now', [[16, 4, 0, 'unknown_loc']], [], [1]],
  ])('%s', (_, before, now, changed) => {
    expect(chunksOf(changedChunks(mapOf(72, before), mapOf(72, now)))).toEqual(changed);
  }); // biome-ignore format: a table

  it('are all changed when one is assumed or of another size', () => {
    const map = mapOf(72, [[0, 72, 500]]);
    const all = [0, 1, 2, 3, 4];
    expect(chunksOf(changedChunks(AllocationMap.assumed(72 * BLOCK_BYTES, 'test'), map))).toEqual(all);
    expect(chunksOf(changedChunks(map, AllocationMap.assumed(72 * BLOCK_BYTES, 'test')))).toEqual(all);
    expect(chunksOf(changedChunks(mapOf(64, [[0, 64, 500]]), map))).toEqual(all);
  });

  it('of 400,000 extents are compared, and each difference is found', () => {
    const extents = 400_000;
    const maps = [0, 1].map((side) => {
      const map = new AllocationMap(extents * CHUNK_BYTES, { kind: 'extents' });
      for (let at = 0; at < extents; at += 1) {
        const moved = side === 1 && at % 1000 === 7 ? 1 : 0;
        map.places.add(at * CHUNK_BYTES, at * CHUNK_BYTES + BLOCK_BYTES, (2 * at + moved) * BLOCK_BYTES);
      }
      return map;
    });
    expect(changedChunks(maps[0]!, maps[1]!).count()).toBe(400);
  });
});

/** A file system that shares blocks, as bytes: one number a block. Freed places are used again, lowest first. */
class ModelDisk {
  readonly #uses: number[] = [];
  readonly content: number[] = [];
  readonly live: (number | null)[];
  #writes = 0;

  constructor(blocks: number) {
    this.live = Array.from({ length: blocks }, () => null);
  }

  write(block: number): void {
    const place = this.live[block]!;
    this.#writes += 1;
    if (place !== null && this.#uses[place] === 1) {
      this.content[place] = this.#writes;
      return;
    }
    this.punch(block);
    let free = 0;
    while ((this.#uses[free] ?? 0) > 0) free += 1;
    this.#uses[free] = 1;
    this.content[free] = this.#writes;
    this.live[block] = free;
  }

  punch(block: number): void {
    const place = this.live[block] ?? null;
    if (place !== null) this.#uses[place]! -= 1;
    this.live[block] = null;
  }

  snapshot(): (number | null)[] {
    for (const place of this.live) if (place !== null) this.#uses[place]! += 1;
    return [...this.live];
  }

  drop(snapshot: readonly (number | null)[]): void {
    for (const place of snapshot) if (place !== null) this.#uses[place]! -= 1;
  }

  /** A file's chunks as texts. */
  chunks(file: readonly (number | null)[]): string[] {
    const bytes = file.map((place) => (place === null ? 0 : this.content[place]!));
    const count = Math.ceil(bytes.length / CHUNK_BLOCKS);
    return Array.from({ length: count }, (_, at) => bytes.slice(at * CHUNK_BLOCKS, (at + 1) * CHUNK_BLOCKS).join());
  }

  map(file: readonly (number | null)[]): AllocationMap {
    return mapOf(
      file.length,
      file.flatMap((place, at): Row[] => (place === null ? [] : [[at, 1, 1000 + place]])),
    );
  }
}

const blocks = 5 * CHUNK_BLOCKS + 3;
const change = fc.record({
  kind: fc.constantFrom('write', 'write', 'punch'),
  block: fc.nat(blocks - 1),
  count: fc.integer({ min: 1, max: 20 }),
});
const changes = fc.array(change, { maxLength: 8 });

function apply(disk: ModelDisk, list: readonly { kind: string; block: number; count: number }[]): void {
  for (const { kind, block, count } of list) {
    for (let at = block; at < Math.min(block + count, blocks); at += 1) {
      if (kind === 'write') disk.write(at);
      else disk.punch(at);
    }
  }
}

describe('any history of writes, punches and freed blocks', () => {
  it('leaves no changed chunk out', () => {
    fc.assert(
      fc.property(changes, fc.array(changes, { maxLength: 4 }), (first, between) => {
        const disk = new ModelDisk(blocks);
        apply(disk, first);
        const base = disk.snapshot();
        let other: (number | null)[] | null = null;
        for (const list of between) {
          // Snapshots that come and go in between free blocks for others.
          if (other) disk.drop(other);
          other = disk.snapshot();
          apply(disk, list);
        }
        const found = changedChunks(disk.map(base), disk.map(disk.live));
        const [before, now] = [disk.chunks(base), disk.chunks(disk.live)];
        for (const [chunk, bytes] of now.entries()) {
          if (bytes !== before[chunk]) expect(found.has(chunk), `chunk ${chunk}`).toBe(true);
        }
      }),
      { numRuns: 500 },
    );
  });

  it('brings a copy of rounds that are cut anywhere to the same bytes, keeping only what the copy holds', () => {
    const round = fc.record({ list: changes, pieces: fc.nat(8) });
    fc.assert(
      fc.property(fc.array(round, { minLength: 1, maxLength: 6 }), changes, (rounds, last) => {
        const disk = new ModelDisk(blocks);
        const copy: (string | null)[] = Array.from({ length: Math.ceil(blocks / CHUNK_BLOCKS) }, () => null);
        let held: (number | null)[] | null = null;
        const bring = (file: readonly (number | null)[], pieces: number): void => {
          const since = held && changedChunks(disk.map(held), disk.map(file));
          const bytes = disk.chunks(file);
          for (let chunk = 0; chunk < copy.length; chunk += 1) if (!since || since.has(chunk)) copy[chunk] = null;
          for (let chunk = 0, left = pieces; chunk < copy.length && left > 0; chunk += 1) {
            if (copy[chunk] !== null) continue;
            copy[chunk] = bytes[chunk]!;
            left -= 1;
          }
        };
        for (const { list, pieces } of rounds) {
          apply(disk, list);
          const snapshot = disk.snapshot();
          bring(snapshot, pieces);
          if (held) disk.drop(held);
          held = snapshot;
        }
        apply(disk, last);
        bring(disk.live, copy.length);
        expect(copy).toEqual(disk.chunks(disk.live));
      }),
      { numRuns: 500 },
    );
  });

  it('finds a hole that became data and a hole again only against the snapshot that the copy holds', () => {
    const disk = new ModelDisk(blocks);
    const first = disk.snapshot();
    disk.write(3);
    const second = disk.snapshot();
    disk.punch(3);
    expect(chunksOf(changedChunks(disk.map(first), disk.map(disk.live)))).toEqual([]);
    expect(chunksOf(changedChunks(disk.map(second), disk.map(disk.live)))).toEqual([0]);
  });

  it('hides a change once the base is dropped and its block is used again: bases are kept', () => {
    const disk = new ModelDisk(blocks);
    disk.write(3);
    const base = disk.snapshot();
    const map = disk.map(base);
    const before = disk.chunks(base);
    disk.drop(base);
    disk.punch(3);
    disk.write(3);
    expect(disk.chunks(disk.live)).not.toEqual(before);
    expect(chunksOf(changedChunks(map, disk.map(disk.live)))).toEqual([]);
  });
});

it('the context of a set of chunks names exactly their bytes, from anywhere', () => {
  const chunks = new Bitmap(5);
  for (const chunk of [0, 2, 4]) chunks.fill(chunk, chunk + 1, true);
  const sizeBytes = 4 * CHUNK_BYTES + 100;
  const context = chunksContext('changed', chunks, sizeBytes);
  expect(context.extents(100, sizeBytes - 100).map(({ length, flags }) => [length, flags])).toEqual([
    [CHUNK_BYTES - 100, 1],
    [CHUNK_BYTES, 0],
    [CHUNK_BYTES, 1],
    [CHUNK_BYTES, 0],
    [100, 1],
  ]);
  expect(chunksContext('changed', chunks, sizeBytes, 2).extents(0, sizeBytes)).toHaveLength(2);
  expect(bytesOfChunks(chunks, sizeBytes)).toBe(2 * CHUNK_BYTES + 100);
});
