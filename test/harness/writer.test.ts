import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { blockOf, missingBlocks, readAcknowledged } from './writer.ts';

const bytes = 4096;
let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'ferry-writer-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

function missing(blocks: readonly Buffer[], acknowledged: Record<number, number>): string[] {
  writeFileSync(join(dir, 'blocks'), Buffer.concat(blocks));
  const lines = Object.entries(acknowledged).map(([place, write]) => `${place} ${write}\n`);
  writeFileSync(join(dir, 'acks'), lines.join(''));
  return missingBlocks(join(dir, 'blocks'), readAcknowledged(join(dir, 'acks')), bytes);
}

test('what was acknowledged is there: the block, a newer one, a hole where one was punched', () => {
  const blocks = [blockOf(7, 0, bytes), blockOf(9, 1, bytes), Buffer.alloc(bytes), blockOf(12, 3, bytes)];
  expect(missing(blocks, { 0: 7, 1: 8, 2: -10, 3: -11 })).toEqual([]);
});

test('what is not there is found: older, empty, damaged, of another place, come back after it was punched', () => {
  const damaged = blockOf(7, 2, bytes);
  damaged[3000]! ^= 1;
  const blocks = [blockOf(6, 0, bytes), Buffer.alloc(bytes), damaged, blockOf(7, 4, bytes), blockOf(7, 4, bytes)];
  expect(missing(blocks, { 0: 7, 1: 7, 2: 7, 3: 7, 4: -8, 5: 7 })).toMatchObject([
    expect.stringContaining('place 0: write 6 instead of 7'),
    expect.stringContaining('place 1: empty'),
    expect.stringContaining('place 2: the block is damaged'),
    expect.stringContaining('place 3: the block is damaged'),
    expect.stringContaining('place 4: write 7 instead of -8'),
    expect.stringContaining('place 5: empty'),
  ]);
});

test('of several acknowledgements of a place the last counts; a line cut off does not', () => {
  writeFileSync(join(dir, 'acks'), '1 5\n2 6\n1 -7\n3 8\n3 punch\n2 9');
  expect([...readAcknowledged(join(dir, 'acks'))]).toEqual([
    [1, { write: -7, isPunching: false }],
    [2, { write: 6, isPunching: false }],
    [3, { write: 8, isPunching: true }],
  ]);
});

test('a block that was being punched out may be there or not', () => {
  writeFileSync(join(dir, 'acks'), '0 7\n0 punch\n1 7\n1 punch\n');
  writeFileSync(join(dir, 'blocks'), Buffer.concat([blockOf(7, 0, bytes), Buffer.alloc(bytes)]));
  expect(missingBlocks(join(dir, 'blocks'), readAcknowledged(join(dir, 'acks')), bytes)).toEqual([]);
});
