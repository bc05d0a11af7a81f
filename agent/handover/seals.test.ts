import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { sealOf } from './boot.ts';
import { Seals } from './seals.ts';

const machine = 'd8dd625fed5568';
const copy = 'vol_aaaaaaaaaaaaaaa1';
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'ferry-seals-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

test('a Machine is owned, given up, received again and owned at a higher epoch, one file at a time', () => {
  const seals = new Seals(folder);
  seals.mark(machine, { state: 'owned', epoch: 1 }, null);
  seals.mark(machine, { state: 'relinquished', epoch: 1 }, null);
  expect(readdirSync(folder)).toEqual([`${machine}.relinquished-e1`]);
  seals.receive(machine, copy, 3);
  expect(seals.isReceiving(machine, copy, 3)).toBe(true);
  expect(seals.isReceiving(machine, copy, 4)).toBe(false);
  expect(sealOf(seals.of(machine))).toEqual({ state: 'relinquished', epoch: 1 });
  seals.mark(machine, { state: 'owned', epoch: 3 }, copy);
  expect(readdirSync(folder)).toEqual([`${machine}.owned-e3`]);
});

test('what was done can be done again, by another reader of the folder too', () => {
  const seal = { state: 'owned', epoch: 2 } as const;
  new Seals(folder).receive(machine, copy, 2);
  for (const repeat of [1, 2]) {
    new Seals(folder).mark(machine, seal, copy);
    expect(sealOf(new Seals(folder).of(machine)), `${repeat}`).toEqual(seal);
  }
  new Seals(folder).unmark(machine, copy);
  expect(readdirSync(folder)).toEqual([`${machine}.owned-e2`]);
});

test('a crash between the two files of a mark leaves the higher one, and the next mark tidies up', () => {
  writeFileSync(join(folder, `${machine}.owned-e5`), '');
  writeFileSync(join(folder, `${machine}.relinquished-e3`), '');
  const seals = new Seals(folder);
  expect(sealOf(seals.of(machine))).toEqual({ state: 'owned', epoch: 5 });
  seals.mark(machine, { state: 'owned', epoch: 5 }, null);
  expect(readdirSync(folder)).toEqual([`${machine}.owned-e5`]);
});

test('files that are no markers are left alone', () => {
  writeFileSync(join(folder, 'notes.txt'), '');
  const seals = new Seals(folder);
  expect(seals.receiving()).toEqual([]);
  seals.mark(machine, { state: 'owned', epoch: 1 }, null);
  expect(readdirSync(folder)).toEqual([`${machine}.owned-e1`, 'notes.txt']);
});
