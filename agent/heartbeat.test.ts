import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type HeartbeatRequest, HeartbeatResponseSchema } from '../proto/gen/ferry/v1/host_pb.ts';
import { ManualClock } from '../shared/clock.ts';
import { FerryError } from '../shared/error.ts';
import { silentLog } from '../shared/log.ts';
import type { ClientPool } from '../shared/rpc/client.ts';
import { Directory } from './directory.ts';
import { Heartbeat } from './heartbeat.ts';
import { Journal } from './journal.ts';

type Answer = MessageInitShape<typeof HeartbeatResponseSchema>;

let dir: string;
let journal: Journal;
let directory: Directory;
let clock: ManualClock;
let heard: HeartbeatRequest[];
let answers: ((request: HeartbeatRequest) => Answer)[];
let stopping: AbortController;
let heartbeat: Heartbeat;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'ferry-heartbeat-'));
  journal = new Journal(join(dir, 'journal.db'), () => 'j1');
  const bindIp = (address: string) => address;
  const path = join(dir, 'directory.db');
  const facts = { path, host: 'h1', region: 'ams', bindIp, journalWentBack: () => false };
  directory = new Directory({ ...facts, journal, log: silentLog });
  clock = new ManualClock();
  heard = [];
  answers = [];
  stopping = new AbortController();
  const call = async (request: HeartbeatRequest) => {
    heard.push(request);
    return create(HeartbeatResponseSchema, { hostNumber: 7, intervalMs: 2000, ...answers.shift()?.(request) });
  };
  const pool = { client: () => ({ heartbeat: call }) } as unknown as ClientPool;
  const report = async () => ({ hostId: 'h1' });
  const parts = { pool, journal, directory, clock, log: silentLog, report, onJournal: () => {} };
  heartbeat = new Heartbeat({ ...parts, coordinators: ['c:1'] });
});
afterEach(() => {
  stopping.abort();
  directory.close();
  journal.close();
  rmSync(dir, { recursive: true, force: true });
});

/** Lets `ms` pass, in steps so short that nobody sleeps past one. */
async function pass(ms: number): Promise<void> {
  for (let passedMs = 0; passedMs < ms; passedMs += 50) {
    await setImmediate();
    clock.advance(50);
    await setImmediate();
  }
}

test('a report a period; at once when something changed, also while one was on its way', async () => {
  const running = heartbeat.run(stopping.signal);
  await pass(1000);
  expect(heard).toHaveLength(1);
  heartbeat.soon();
  await pass(50);
  expect(heard).toHaveLength(2);
  answers.push(() => {
    heartbeat.soon();
    return {};
  });
  heartbeat.soon();
  await pass(500);
  expect(heard).toHaveLength(4);
  await pass(2000);
  expect(heard).toHaveLength(5);
  stopping.abort();
  await running;
});

test('a directory that comes in pages is asked for to its end, without waiting', async () => {
  const page = (version: bigint, complete: boolean, more: boolean) => () => ({
    directory: { directoryId: 'd1', version, complete, more, rows: [] },
  });
  answers.push(page(3n, true, true), page(5n, false, false));
  const running = heartbeat.run(stopping.signal);
  await pass(500);
  expect(heard.map(({ directoryId, directoryVersion }) => [directoryId, directoryVersion])).toEqual([
    ['', 0n],
    ['d1', 3n],
  ]);
  await pass(2000);
  expect(heard.at(-1)).toMatchObject({ directoryId: 'd1', directoryVersion: 5n });
  stopping.abort();
  await running;
});

test('number, generation of the store and roster are remembered, written once', async () => {
  answers.push(() => ({ storeGeneration: 'g1', roster: [{ id: 'h2', address: 'h2:1' }] }));
  await heartbeat.beat();
  const { counter } = journal;
  answers.push(() => ({ storeGeneration: 'g1', roster: [{ id: 'h2', address: 'h2:1' }] }));
  await heartbeat.beat();
  expect(journal.counter).toBe(counter);
  expect(heard[1]).toMatchObject({ hostNumber: 7, storeGeneration: 'g1' });
  expect(journal.roster()).toEqual(new Map([['h2', 'h2:1']]));
  answers.push(() => ({ storeGeneration: 'g2' }));
  await heartbeat.beat();
  answers.push(() => ({ storeGeneration: 'g2' }));
  await heartbeat.beat();
  expect(heard.at(-1)).toMatchObject({ storeGeneration: 'g2' });
});

test('the roster that it has is named in the next report, and by an agent that starts none', async () => {
  answers.push(() => ({ rosterVersion: 'v1', roster: [{ id: 'h2', address: 'h2:1' }] }));
  await heartbeat.beat();
  answers.push(() => ({ rosterVersion: 'v1' }));
  await heartbeat.beat();
  expect(heard.map(({ rosterVersion }) => rosterVersion)).toEqual(['', 'v1']);
  expect(journal.roster()).toEqual(new Map([['h2', 'h2:1']]));
});

test('an answer that cannot be written down is an answer all the same: names are taken, and no other coordinator is asked', async () => {
  const full = new FerryError('no_space', 'the disk is full');
  journal.write = () => {
    throw full;
  };
  answers.push(() => ({ directory: { directoryId: 'd1', version: 3n, complete: true, rows: [] } }));
  expect(await heartbeat.beat()).toMatchObject({ hostNumber: 7 });
  expect(heard).toHaveLength(1);
  expect(directory.known).toEqual({ directoryId: 'd1', directoryVersion: 3n });
});
