import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  type DirectoryRow,
  DirectoryRowSchema,
  type DirectoryUpdate,
  DirectoryUpdateSchema,
} from '../proto/gen/ferry/v1/directory_pb.ts';
import { MachineRecordSchema } from '../proto/gen/ferry/v1/machine_pb.ts';
import { ManualClock } from '../shared/clock.ts';
import { type Logger, silentLog } from '../shared/log.ts';
import { Directory } from './directory.ts';
import type { Placement } from './handover/boot.ts';
import { Journal } from './journal.ts';
import { newLife } from './machines/lifecycle.ts';

const id = 'd8dd625fed5568';
const other = 'aaaaaaaaaaaaaa';
let dir: string;
let journal: Journal;
let directory: Directory;
let wentBack = false;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'ferry-directory-'));
  journal = new Journal(join(dir, 'journal.db'), () => 'j1');
  wentBack = false;
  open();
});
afterEach(() => {
  directory.close();
  journal.close();
  rmSync(dir, { recursive: true, force: true });
});

/** A fresh start of the agent. */
function open(more: { log?: Logger; rowsMax?: number } = {}): void {
  directory?.close();
  directory = new Directory({
    path: join(dir, 'directory.db'),
    host: 'host-a',
    region: 'ams',
    journal,
    bindIp: (address) => address,
    journalWentBack: () => wentBack,
    log: silentLog,
    ...more,
  });
}

function place(placement: Placement, state: 'created' | 'started' | 'destroyed' = 'started'): void {
  const life = newLife('started');
  const status = { ...life.status, state, startedAtMs: 1 } as typeof life.status;
  const record = create(MachineRecordSchema, { machineId: id, app: 'shop', network: 'net', networkNumber: 1 });
  const machine = { id, placement, record, runtime: { ...life, status }, volumeId: '', slot: 1, updatedAtMs: 0 };
  journal.write(() => journal.putMachine(machine));
}

function rowOf(facts: MessageInitShape<typeof DirectoryRowSchema>): DirectoryRow {
  const base = { machineId: id, app: 'shop', hostId: 'host-b', region: 'fra', privateIp: 'fdaa::b', started: true };
  return create(DirectoryRowSchema, { ...base, epoch: 1n, revision: 1n, ...facts });
}

function update(rows: DirectoryRow[], facts: MessageInitShape<typeof DirectoryUpdateSchema> = {}): DirectoryUpdate {
  return create(DirectoryUpdateSchema, { directoryId: 'd1', version: 1n, complete: false, ...facts, rows });
}

/** "host epoch" of every Machine that is answered. */
function answered(): string[] {
  return [...directory.apps().values()]
    .flat()
    .map((row) => `${row.hostId} ${row.epoch} ${row.started ? 'up' : 'down'}`);
}

test('the own journal overrides what is heard, whatever its epoch', () => {
  place({ kind: 'owner', epoch: 2 });
  directory.take(rowOf({ epoch: 9n }));
  expect(answered()).toEqual(['host-a 2 up']);
  expect(directory.own(id)).toMatchObject({ privateIp: 'fdaa:0:1:0:0:0:1:0', epoch: 2n });
});

test('unless the journal is an older copy: then the higher epoch wins', () => {
  place({ kind: 'owner', epoch: 2 });
  directory.take(rowOf({ epoch: 3n }));
  expect(answered()).toEqual(['host-a 2 up']);
  wentBack = true;
  expect(answered()).toEqual(['host-b 3 up']);
});

test('a Machine that was given up is answered only from a higher epoch than was owned here', () => {
  directory.take(rowOf({ epoch: 2n }));
  place({ kind: 'relinquished', epoch: 2, migrationId: 'm', destination: 'host-b' });
  expect(answered()).toEqual([]);
  directory.take(rowOf({ epoch: 3n }));
  expect(answered()).toEqual(['host-b 3 up']);
  directory.take(rowOf({ epoch: 9n, hostId: 'host-a' }));
  expect(answered()).toEqual([]);
});

test('the higher epoch wins, then the higher revision, whoever speaks last', () => {
  directory.take(rowOf({ epoch: 3n, revision: 1n }));
  directory.take(rowOf({ epoch: 2n, revision: 9n, hostId: 'host-c' }));
  expect(answered()).toEqual(['host-b 3 up']);
  directory.take(rowOf({ epoch: 3n, revision: 5n, started: false }));
  directory.take(rowOf({ epoch: 3n, revision: 4n, started: true }));
  expect(answered()).toEqual(['host-b 3 down']);
});

test('a row whose ID or address has no such shape is not taken', () => {
  for (const wrong of [{ machineId: '../x' }, { app: 'a b' }, { privateIp: '1.2.3.4' }, { bindIp: 'localhost' }]) {
    directory.take(rowOf(wrong));
    directory.apply(update([rowOf(wrong)], { complete: true }));
  }
  expect(answered()).toEqual([]);
});

test('revisions rise with each change of an own row, also after a restart, and not without one', () => {
  place({ kind: 'owner', epoch: 1 });
  const first = directory.own(id)!.revision;
  journal.write(() => journal.setMeta('x', '1'));
  expect(directory.own(id)!.revision).toBe(first);
  place({ kind: 'owner', epoch: 1 }, 'created');
  expect(directory.own(id)).toMatchObject({ started: false });
  expect(directory.own(id)!.revision).toBeGreaterThan(first);
  const second = directory.own(id)!.revision;
  open();
  expect(directory.own(id)!.revision).toBeGreaterThanOrEqual(second);
});

test('an update is on disk: an agent that starts without a coordinator knows it, and what it has', () => {
  directory.apply(update([rowOf({})], { complete: true, version: 7n }));
  open();
  expect(answered()).toEqual(['host-b 1 up']);
  expect(directory.known).toEqual({ directoryId: 'd1', directoryVersion: 7n });
});

test('an older copy of the file asks for what came since; higher epochs and the own journal win over it', () => {
  directory.apply(update([rowOf({}), rowOf({ machineId: other })], { complete: true, version: 7n }));
  directory.close();
  copyFileSync(join(dir, 'directory.db'), join(dir, 'older'));
  open();
  directory.apply(update([rowOf({ machineId: other, epoch: 2n, hostId: 'host-c' })], { version: 8n }));
  place({ kind: 'owner', epoch: 2 });
  directory.close();
  copyFileSync(join(dir, 'older'), join(dir, 'directory.db'));
  open();
  expect(directory.known.directoryVersion).toBe(7n);
  expect(answered()).toEqual(['host-b 1 up', 'host-a 2 up']);
  directory.take(rowOf({ machineId: other, epoch: 2n, hostId: 'host-c' }));
  directory.apply(update([rowOf({ machineId: other, epoch: 1n, hostId: 'host-b' })], { version: 8n }));
  expect(answered()).toEqual(['host-c 2 up', 'host-a 2 up']);
});

test('a complete update in pages forgets what is in none of them, once the last has come', () => {
  directory.take(rowOf({ machineId: 'cccccccccccccc' }));
  expect(directory.apply(update([rowOf({})], { complete: true, more: true, version: 3n }))).toBe(true);
  expect(answered()).toHaveLength(2);
  open();
  expect(directory.known.directoryId).toBe('');
  directory.apply(update([rowOf({})], { complete: true, more: true, version: 3n }));
  expect(directory.apply(update([rowOf({ machineId: other })], { version: 5n }))).toBe(false);
  expect([...directory.apps().values()].flat().map(({ machineId }) => machineId)).toEqual([other, id]);
});

test('changes of another directory than the known one are not taken for all of it', () => {
  directory.apply(update([rowOf({})], { complete: true }));
  directory.apply(update([rowOf({ machineId: other })], { directoryId: 'd2', version: 9n }));
  expect(directory.known).toEqual({ directoryId: 'd1', directoryVersion: 1n });
});

test('a Machine that is gone is forgotten; an own one is told once', () => {
  directory.apply(update([rowOf({ machineId: other })], { complete: true }));
  directory.apply(update([rowOf({ machineId: other, gone: true, revision: 1n })], { version: 2n }));
  place({ kind: 'owner', epoch: 1 });
  expect(answered()).toEqual(['host-a 1 up']);
  place({ kind: 'owner', epoch: 1 }, 'destroyed');
  expect(answered()).toEqual([]);
  const told = directory.destroyed();
  expect(told).toMatchObject([{ machineId: id, gone: true, hostId: 'host-a' }]);
  directory.reported(told);
  expect(directory.destroyed()).toEqual([]);
});

test('Machines that are left out of the name service have no names', () => {
  directory.take(rowOf({ skipRegistration: true }));
  expect(answered()).toEqual([]);
});

test('a file that cannot be read costs only the copy', () => {
  directory.close();
  writeFileSync(join(dir, 'directory.db'), 'no database at all, but long enough to be looked at as one'.repeat(100));
  open();
  directory.apply(update([rowOf({})], { complete: true }));
  open();
  expect(answered()).toEqual(['host-b 1 up']);
});

test('a change of an own Machine is noticed', async () => {
  const clock = new ManualClock();
  const stopping = new AbortController();
  let changes = 0;
  const watching = directory.watch(clock, () => (changes += 1), stopping.signal);
  expect(changes).toBe(0);
  journal.write(() => journal.setMeta('x', '1'));
  clock.advance(100);
  await Promise.resolve();
  expect(changes).toBe(0);
  place({ kind: 'owner', epoch: 1 });
  await new Promise((resolve) => setImmediate(resolve));
  clock.advance(100);
  await new Promise((resolve) => setImmediate(resolve));
  expect(changes).toBe(1);
  stopping.abort();
  await watching;
});

test('Machines that it has no room for are logged once, counted, and asked for again when there is room', () => {
  const logged: string[] = [];
  const log = { ...silentLog, error: (_: object, text: string) => logged.push(text) } as never;
  const all = ['1', '2', '3', '4'].map((digit) => rowOf({ machineId: digit.repeat(14) }));
  open({ log, rowsMax: 2 });
  expect(directory.note).toBeNull();
  directory.apply(update(all, { complete: true, version: 4n }));
  expect(answered()).toHaveLength(2);
  expect(logged).toHaveLength(1);
  expect(directory.note).toContain('names of 2 others are not answered here');
  directory.apply(update([rowOf({ machineId: '5'.repeat(14) })], { version: 5n }));
  expect(logged).toHaveLength(1);
  expect(directory.note).toContain('names of 3 others');
  // The next agent does not take what it has for all that there is.
  open({ log, rowsMax: 2 });
  expect(directory.known).toEqual({ directoryId: '', directoryVersion: 0n });
  directory.apply(update([...all, rowOf({ machineId: '5'.repeat(14) })], { complete: true, version: 5n }));
  expect(directory.note).toContain('names of 3 others');
  const gone = (digit: string) => rowOf({ machineId: digit.repeat(14), gone: true, revision: 2n });
  directory.apply(update([gone('1'), gone('5')], { version: 6n }));
  expect(directory.known).toEqual({ directoryId: 'd1', directoryVersion: 6n });
  directory.apply(update([gone('2')], { version: 7n }));
  // Two are left out, and there is room for two.
  expect(directory.known).toEqual({ directoryId: '', directoryVersion: 0n });
  directory.apply(update([all[3]!], { complete: true, version: 8n }));
  expect(answered()).toHaveLength(1);
  expect(directory.note).toBeNull();
});
