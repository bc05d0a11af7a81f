import { create } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { HandoverSchema } from '../../proto/gen/ferry/v1/handover_pb.ts';
import { MigrationState, MigrationStep } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { FerryError } from '../../shared/error.ts';
import { Harness, refusal } from '../testing/harness.ts';

const first = 'd8dd625fed5568';
const second = '00000000000002';
const third = '00000000000003';

async function network(): Promise<Harness> {
  const harness = new Harness();
  harness.world.add('h1').give(first);
  harness.world.add('h2').give(second);
  harness.world.add('h3').give(third);
  await harness.start();
  return harness;
}

const agent = (harness: Harness, host: string) => harness.world.agents.get(host)!;

const waitingFor = (harness: Harness, id: string, text: string) =>
  harness.until(async () => {
    const migration = await harness.migration(id);
    return migration.waitingFor.includes(text) ? migration : undefined;
  });

test('Machines of one network, moved at once: never two down, first come first served', async () => {
  await using harness = await network();
  const ids = await Promise.all([
    harness.migrate(first, 'h2'),
    harness.migrate(second, 'h3'),
    harness.migrate(third, 'h1'),
  ]);
  for (const id of ids) expect(await harness.ended(id)).toMatchObject({ state: MigrationState.MOVED });
  expect(harness.world.downMax).toBe(1);
  const stops = harness.world.log.filter((line) => line.endsWith('stopForMigration'));
  expect(stops).toHaveLength(3);
});

test('Machines of other networks do not wait', async () => {
  await using harness = await network();
  const other = '00000000000004';
  agent(harness, 'h1').give(other, 'beta', 'bank');
  await harness.beat();
  const hanging = harness.hangAt('h2', 'copy', 'before');
  const blocked = await harness.migrate(first, 'h2');
  await hanging;
  expect(await harness.ended(await harness.migrate(other, 'h3'))).toMatchObject({ state: MigrationState.MOVED });
  expect(await harness.migration(blocked)).toMatchObject({ step: MigrationStep.FORK });
});

test('a waiter says what it waits for; lock list and explain show the holder and the line', async () => {
  await using harness = await network();
  const hanging = harness.hangAt('h2', 'copy', 'before');
  const holder = await harness.migrate(first, 'h2');
  await hanging;
  const waiter = await harness.migrate(second, 'h3');
  await waitingFor(harness, waiter, holder);
  const { locks } = await harness.locks.listLocks({});
  expect(locks).toMatchObject([
    { network: 'alpha', migrationId: holder, machineId: first, step: 'fork', waiters: [{ migrationId: waiter }] },
  ]);
  const { lock, permits, explanation } = await harness.locks.explainLock({ network: 'alpha' });
  expect(lock?.fence).toBeGreaterThan(0n);
  expect(permits.map(({ hostId, permit }) => [hostId, permit?.migrationId])).toEqual([
    ['h1', holder],
    ['h2', holder],
    ['h3', holder],
  ]);
  expect(explanation).toContain(holder);
  expect(explanation).toContain('In line');
  expect(await refusal(harness.locks.explainLock({ network: 'nowhere' }))).toMatchObject({ reason: 'unknown_network' });
});

test('every host with a Machine of the network promises first, in the order of host numbers', async () => {
  await using harness = await network();
  await harness.ended(await harness.migrate(first, 'h2'));
  const numbers = new Map((await harness.store.hosts()).map((host) => [host.id, host.number]));
  const asked = harness.world.log.filter((line) => line.endsWith('grantPermit')).map((line) => line.split('.')[0]!);
  expect([...asked].sort()).toEqual(['h1', 'h2', 'h3']);
  expect(asked).toEqual([...asked].sort((a, b) => numbers.get(a)! - numbers.get(b)!));
  const log = harness.world.log;
  expect(log.findLastIndex((line) => line.endsWith('grantPermit'))).toBeLessThan(log.indexOf('h1.stopForMigration'));
});

test('a host that does not answer is waited for, with its name and since when, until an operator overrides it', async () => {
  await using harness = await network();
  agent(harness, 'h3').silent = true;
  const id = await harness.migrate(first, 'h2');
  const waiting = await waitingFor(harness, id, 'host h3 has not answered since');
  expect(waiting).toMatchObject({ state: MigrationState.RUNNING, step: MigrationStep.LOCK });
  expect(harness.world.log).not.toContain('h1.stopForMigration');
  expect(await refusal(harness.migrations.overrideHost({ migrationId: id, hostId: 'h1' }))).toMatchObject({
    reason: 'invalid_argument',
    field: 'host_id',
  });
  await harness.migrations.overrideHost({ migrationId: id, hostId: 'h3' });
  expect(await harness.ended(id)).toMatchObject({ state: MigrationState.MOVED });
});

test('a host that answers again lets the migration go on by itself', async () => {
  await using harness = await network();
  agent(harness, 'h3').silent = true;
  const id = await harness.migrate(first, 'h2');
  await waitingFor(harness, id, 'host h3');
  agent(harness, 'h3').silent = false;
  expect(await harness.ended(id)).toMatchObject({ state: MigrationState.MOVED });
});

test('a host that falls silent before it gave its permit back never blocks the outcome', async () => {
  await using harness = await network();
  agent(harness, 'h3').scripts.set('releasePermit', () => {
    agent(harness, 'h3').silent = true;
    throw new FerryError('unreachable', 'gone');
  });
  const id = await harness.migrate(first, 'h2');
  expect(await harness.ended(id)).toMatchObject({ state: MigrationState.MOVED, settled: true });
  agent(harness, 'h3').scripts.clear();
  agent(harness, 'h3').silent = false;
  await harness.until(async () => (agent(harness, 'h3').permits.get('alpha')?.holder === '' ? true : undefined));
  await harness.until(async () => ((await harness.store.openMigrations()).length === 0 ? true : undefined));
});

test('a fence that a host has seen already is minted above', async () => {
  await using harness = await network();
  agent(harness, 'h2').permits.set('alpha', { holder: '', fence: 41n });
  const id = await harness.migrate(first, 'h2');
  expect((await harness.ended(id)).fence).toBe(42n);
});

test('permits of a migration that no host ever heard of are given back', async () => {
  await using harness = await network();
  agent(harness, 'h3').permits.set('alpha', { holder: 'mig_01HF7YAT00000000000000DEAD', fence: 3n });
  expect(await harness.ended(await harness.migrate(first, 'h2'))).toMatchObject({ state: MigrationState.MOVED });
});

test('a permit for a migration that nobody knows is respected while it keeps a Machine down', async () => {
  await using harness = await network();
  const lost = 'mig_01HF7YAT00000000000000DEAD';
  agent(harness, 'h3').permits.set('alpha', { holder: lost, fence: 3n });
  agent(harness, 'h1').rows.set(lost, {
    handover: create(HandoverSchema, { migrationId: lost, machineId: first, role: 'source', step: 'stopped' }),
    peer: 'h2',
    epoch: 2n,
    held: true,
  });
  const id = await harness.migrate(third, 'h1');
  await waitingFor(harness, id, lost);
  expect(harness.world.log.filter((line) => line === 'h3.stopForMigration')).toEqual([]);
});

test('a permit for a migration that nobody knows is given back soon after its Machine is up again', async () => {
  await using harness = await network();
  const lost = 'mig_01HF7YAT00000000000000DEAD';
  agent(harness, 'h3').permits.set('alpha', { holder: lost, fence: 3n });
  agent(harness, 'h1').rows.set(lost, {
    handover: create(HandoverSchema, { migrationId: lost, machineId: first, role: 'source', step: 'stopped' }),
    peer: 'h2',
    epoch: 2n,
    held: true,
  });
  const startMs = harness.clock.nowMs();
  const seenMs = startMs + 40_000;
  await harness.until(async () => (harness.clock.nowMs() >= seenMs ? true : undefined));
  expect(agent(harness, 'h3').permits.get('alpha')?.holder).toBe(lost);
  agent(harness, 'h1').rows.delete(lost);
  await harness.until(async () => (agent(harness, 'h3').permits.get('alpha')?.holder === '' ? true : undefined));
  expect(harness.clock.nowMs() - seenMs).toBeLessThanOrEqual(6000);
});

test('the lock of a migration that nobody knows is released once its source burnt it', async () => {
  await using harness = await network();
  const lost = 'mig_01HF7YAT00000000000000DEAD';
  await harness.store.acquireLock({
    network: 'alpha',
    migrationId: lost,
    machineId: first,
    source: 'h1',
    destination: 'h2',
    sinceMs: 0,
    priority: 0,
    fenceAbove: 0n,
  });
  const id = await harness.migrate(second, 'h3');
  expect(await harness.ended(id)).toMatchObject({ state: MigrationState.MOVED });
  expect(agent(harness, 'h1').rows.get(lost)?.handover.step).toBe('aborted');
});

test('the lock of an unknown migration stays while its source does not answer', async () => {
  await using harness = await network();
  const lost = 'mig_01HF7YAT00000000000000DEAD';
  agent(harness, 'h1').silent = true;
  await harness.store.acquireLock({
    network: 'alpha',
    migrationId: lost,
    machineId: first,
    source: 'h1',
    destination: 'h2',
    sinceMs: 0,
    priority: 0,
    fenceAbove: 0n,
  });
  const id = await harness.migrate(second, 'h3');
  await waitingFor(harness, id, lost);
  await harness.beat();
  expect((await harness.store.lock('alpha'))?.migrationId).toBe(lost);
});

test('a cancelled waiter leaves the line', async () => {
  await using harness = await network();
  const hanging = harness.hangAt('h2', 'copy', 'before');
  await harness.migrate(first, 'h2');
  await hanging;
  const waiter = await harness.migrate(second, 'h3');
  await waitingFor(harness, waiter, 'held by');
  const { outcome } = await harness.migrations.cancelMigration({ migrationId: waiter });
  expect(outcome).toBe('aborted');
  expect(await harness.ended(waiter)).toMatchObject({ state: MigrationState.MOVED_BACK, failure: 'cancelled' });
  expect(await harness.store.lockWaiters('alpha')).toEqual([]);
  expect(harness.world.runningOn(second)).toEqual(['h2']);
});

test('a store that begins empty grants nothing, and frees no permit, before its hosts had time to report', async () => {
  await using harness = new Harness();
  harness.world.add('h1').give(first);
  harness.world.add('h2').give(second);
  await harness.start({ early: true });
  const id = await harness.migrate(first, 'h2');
  const waiting = await waitingFor(harness, id, 'this store began empty');
  expect(waiting.step).toBe(MigrationStep.LOCK);
  expect(harness.world.log.some((line) => line.endsWith('grantPermit') || line.endsWith('releasePermit'))).toBe(false);
  expect(await harness.ended(id)).toMatchObject({ state: MigrationState.MOVED });
});

test('a waiter reminds both its hosts, so that neither takes it for forgotten', async () => {
  await using harness = await network();
  const hanging = harness.hangAt('h2', 'copy', 'before');
  await harness.migrate(first, 'h2');
  await hanging;
  const waiter = await harness.migrate(second, 'h3');
  const prepared = () => harness.world.log.filter((line) => line.includes('h3') && line.endsWith('prepare')).length;
  await harness.until(async () => (prepared() >= 3 ? true : undefined));
  expect(await harness.migration(waiter)).toMatchObject({ step: MigrationStep.LOCK, state: MigrationState.RUNNING });
});

test('a start deadline that a Machine without checks can never meet is refused', async () => {
  await using harness = await network();
  const wish = { machineId: first, destination: 'h2', startDeadline: { seconds: 5n } };
  expect(await refusal(harness.migrations.migrateMachine(wish))).toMatchObject({
    reason: 'invalid_argument',
    field: 'start_deadline',
  });
});

test('a lock that a lost write gave to another goes back to the one that hosts have promised the network to', async () => {
  await using harness = await network();
  const hanging = harness.hangAt('h3', 'grantPermit', 'after');
  const promised = await harness.migrate(first, 'h2');
  await hanging;
  // What a store does that takes over without the last writes.
  await harness.store.releaseLock('alpha', promised);
  const other = await harness.migrate(second, 'h3');
  await waitingFor(harness, other, `promised network alpha to ${promised}`);
  await harness.crash();
  await harness.start();
  // The first one needs the lock to go on, the other one its permits: one of them has to give way.
  expect(await harness.ended(promised)).toMatchObject({ state: MigrationState.MOVED });
  expect(await harness.ended(other)).toMatchObject({ state: MigrationState.MOVED });
  expect(harness.world.downMax).toBe(1);
});
