import { timestampMs } from '@bufbuild/protobuf/wkt';
import { expect, test } from 'vitest';
import { MigrationState, MoveReason } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { FerryError } from '../../shared/error.ts';
import { Harness } from '../testing/harness.ts';

const machine = 'd8dd625fed5568';
const second = '00000000000002';
const third = '00000000000003';

async function network(config = {}): Promise<Harness> {
  const harness = new Harness(config);
  const source = harness.world.add('h1');
  for (const id of [machine, second, third]) source.give(id);
  harness.world.add('h2');
  harness.world.add('h3');
  await harness.start();
  return harness;
}

const agent = (harness: Harness, host: string) => harness.world.agents.get(host)!;
const waits = (harness: Harness, id: string, kind: string) =>
  harness.until(async () => {
    const migration = await harness.migration(id);
    return migration.wait?.kind === kind ? migration : undefined;
  });

test('what waits for the lock says who holds it and since when; a change of words keeps the time', async () => {
  await using harness = await network();
  const hanging = harness.hangAt('h2', 'copy', 'before');
  const holder = await harness.migrate(machine, 'h2');
  await hanging;
  const waiter = await harness.migrate(second, 'h3');
  const first = await waits(harness, waiter, 'lock');
  expect(first.wait).toMatchObject({ subject: holder, message: first.waitingFor });
  expect(first.waitingFor).toContain(machine);
  const since = timestampMs(first.wait!.since!);
  await harness.until(async () => harness.clock.nowMs() > since + 30_000 || undefined);
  expect(timestampMs((await waits(harness, waiter, 'lock')).wait!.since!)).toBe(since);
});

test.each([
  ['copy', 'h1', 'stopForMigration', 'host', 'h1'],
  ['permit', 'h1', 'releasePermit', 'host', 'h1'],
] as const)('a silent host is named while it is waited for (%s)', async (_name, host, method, kind, subject) => {
  await using harness = await network();
  let lost = 0;
  agent(harness, host).scripts.set(method, () => {
    lost += 1;
    if (lost < 3) throw new FerryError('unreachable', 'gone');
  });
  const id = await harness.migrate(machine, 'h2');
  if (method === 'stopForMigration') expect((await waits(harness, id, kind)).wait).toMatchObject({ subject });
  const ended = await harness.ended(id);
  expect(ended).toMatchObject({ state: MigrationState.MOVED, waitingFor: '' });
  expect(ended.wait).toBeUndefined();
});

test('a start that takes its time says that health is waited for', async () => {
  await using harness = await network();
  agent(harness, 'h2').sick = true;
  const id = await harness.migrate(machine, 'h2');
  expect((await waits(harness, id, 'health')).wait).toMatchObject({ subject: 'h2' });
  agent(harness, 'h2').sick = false;
  expect(await harness.ended(id)).toMatchObject({ state: MigrationState.MOVED });
});

test('higher goes first in line; first come first served within one priority', async () => {
  await using harness = await network();
  const hanging = harness.hangAt('h1', 'relinquish', 'before');
  const holder = await harness.migrate(machine, 'h2');
  await hanging;
  const order = async (machineId: string, priority: number) => {
    const wish = { machineId, destination: 'h3', priority, reason: MoveReason.MAINTENANCE, orderedBy: 'me' };
    const id = (await harness.migrations.migrateMachine(wish)).migration!.id;
    await waits(harness, id, 'lock');
    return id;
  };
  const low = await order(second, 0);
  const high = await order(third, 5);
  const { lock, explanation } = await harness.locks.explainLock({ network: 'alpha' });
  expect(lock?.waiters.map(({ migrationId, priority }) => [migrationId, priority])).toEqual([
    [high, 5],
    [low, 0],
  ]);
  expect(explanation).toContain(`${high} (priority 5)`);
  await harness.migrations.cancelMigration({ migrationId: holder });
  const ended = await harness.ended(low);
  expect(ended).toMatchObject({ state: MigrationState.MOVED, orderedBy: 'me', moveReason: MoveReason.MAINTENANCE });
  const stops = (id: string) => agent(harness, 'h1').rows.get(id)!;
  expect([...agent(harness, 'h1').rows.keys()]).toContain(high);
  expect(stops(high).handover.step).toBe('tombstoned');
  const endedAt = async (id: string) => timestampMs((await harness.migration(id)).endedAt!);
  expect(await endedAt(high)).toBeLessThanOrEqual(await endedAt(low));
  expect(harness.world.downMax).toBe(1);
});

test('a parked migration is off the list of open ones once a later one moved the Machine, or an operator has seen it', async () => {
  await using harness = await network();
  agent(harness, 'h1').scripts.set('stopForMigration', (when) => {
    if (when === 'before') throw new FerryError('io_error', 'the disk failed');
  });
  const park = async (id: string) => {
    const migration = await harness.migrate(id, 'h2');
    expect(await harness.ended(migration)).toMatchObject({ state: MigrationState.PARKED });
    return migration;
  };
  const open = async () => (await harness.migrations.listMigrations({ openOnly: true })).migrations.map(({ id }) => id);
  const parked = await park(machine);
  expect(await open()).toEqual([parked]);
  const { attention, migrationsParked, locksHeld } = await harness.cluster.getStatus({});
  expect(migrationsParked).toEqual([parked]);
  expect(attention[0]).toContain(parked);
  expect(locksHeld).toBe(1);
  agent(harness, 'h1').scripts.clear();
  const { migration } = await harness.migrations.retryMigration({ migrationId: parked });
  expect(await harness.ended(migration!.id)).toMatchObject({ state: MigrationState.MOVED });
  await harness.until(async () => ((await open()).length === 0 ? true : undefined));
  expect((await harness.migration(parked)).answered).toContain(migration!.id);
});
