import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { AllocationMap } from './extents.ts';
import { FilefragParser, readMap } from './filefrag.ts';

const HEAD = `Filesystem type is: ef53
File size of a b (c).img is 10485760 (2560 blocks of 4096 bytes)
 ext:     logical_offset:        physical_offset: length:   expected: flags:`;

function parse(text: string, sizeBytes = 10_485_760): FilefragParser {
  const parser = new FilefragParser(sizeBytes);
  // In pieces that end anywhere, as a pipe gives them.
  for (let at = 0; at < text.length; at += 37) parser.add(Buffer.from(text.slice(at, at + 37), 'latin1'));
  parser.end();
  return parser;
}

function blocks(map: AllocationMap): [number, number][] {
  return map
    .extents(0, map.sizeBytes)
    .filter((extent) => extent.flags === 0)
    .map((extent) => [extent.offset / 4096, (extent.offset + extent.length) / 4096]);
}

describe('the lines of filefrag', () => {
  it('give data, with unwritten as hole and everything uncertain as data', () => {
    const parser = parse(`${HEAD}
   0:        0..       9:    7603200..   7603209:     10:
   1:       10..      19:    7603210..   7603219:     10:             shared
   2:       30..      39:    7603300..   7603309:     10:    7603220: unwritten
   3:       40..      49:          0..         0:      0:             unknown_loc,delalloc
   4:       60..      69:    7603400..   7603409:     10:    7603310: unwritten,delalloc
   5:       80..      80:          0..      4095:   4096:             inline
   6:       90..      99:    7603500..   7603509:     10:    7603410: encoded,unwritten
   7:     2559..    2560:    7603600..   7603601:      2:    7603510: last,eof
a b (c).img: 8 extents found`);
    expect(parser.failure()).toBeNull();
    expect(blocks(parser.map)).toEqual([[0, 20], [40, 50], [60, 70], [80, 81], [90, 100], [2559, 2560]]); // biome-ignore format: a table
    expect(parser.map.rangeCount).toBe(6);
    expect(parser.map.dataBytes).toBe(52 * 4096);
  });

  it('of a file of holes only give none', () => {
    const parser = parse(`${HEAD.split('\n').slice(0, 2).join('\n')}\na b (c).img: 0 extents found`);
    expect(parser.failure()).toBeNull();
    expect(parser.map.dataBytes).toBe(0);
  });

  it.each([
    ['nothing at all', ''],
    ['no count at the end', HEAD],
    ['fewer lines than found', `${HEAD}\n   0:  0..  9:  1..  10:  10:  last\nx: 2 extents found`],
    ['a line of another kind', `${HEAD}\n   0:  0  1..  10:  10:  last\nx: 1 extent found`],
    ['an extent before its table', `${HEAD.split('\n')[1]}\n   0:  0..  9:  1..  10:  10:  last\nx: 1 extent found`],
    ['a number too many', `${HEAD}\n   0:  0..  9:  1..  10:  10:  20:  30:  last\nx: 1 extent found`],
    ['another size', `${HEAD.replace('10485760', '1048576')}\nx: 0 extents found`],
    ['FIBMAP', `${HEAD}\nFIBMAP: 1 extents\nx: 0 extents found`],
  ])('with %s are not believed', (_, text) => {
    expect(parse(text).failure()).not.toBeNull();
  });
});

describe('a real file', () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'ferry-extents-'));
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  const probe = spawnSync('filefrag', ['-v', import.meta.filename]);
  const hasFallocate = spawnSync('fallocate', ['--version']).status === 0;
  it.skipIf(probe.status !== 0 || !hasFallocate)(
    'shows its holes (needs filefrag, fallocate and extent maps)',
    async () => {
      const path = join(directory, 'a file: 3 extents found');
      const file = openSync(path, 'w');
      writeSync(file, Buffer.alloc(8192, 1), 0, 8192, 65_536);
      closeSync(file);
      truncateSync(path, 1_048_576);
      execFileSync('fallocate', ['--offset', '524288', '--length', '65536', path]);
      const map = await readMap(path, 1_048_576);
      expect(map.source).toEqual({ kind: 'extents' });
      expect(blocks(map)).toEqual([[16, 18]]);
      expect((await readMap(path, 4096)).source.kind).toBe('assumed');
    },
  );

  it.skipIf(!existsSync('/dev/shm'))('without an extent map is all data, and it says so (needs /dev/shm)', async () => {
    const path = `/dev/shm/ferry-extents-${process.pid}`;
    writeFileSync(path, Buffer.alloc(100));
    try {
      const map = await readMap(path, 100);
      expect(map.source).toEqual({ kind: 'assumed', reason: expect.stringContaining('filefrag') });
      expect(map.extents(0, 100)).toEqual([{ offset: 0, length: 100, flags: 0 }]);
    } finally {
      rmSync(path);
    }
  });
});
