import { describe, expect, test } from 'vitest';
import {
  type Migration,
  MigrationState,
  MigrationStep,
  MigrationStrategy,
} from '../../proto/gen/ferry/v1/migration_pb.ts';
import { FerryError } from '../../shared/error.ts';
import type { FakeAgent } from '../testing/fake-agent.ts';
import { Harness } from '../testing/harness.ts';

const machine = 'd8dd625fed5568';
const second = '00000000000002';

async function twoHosts(change: (to: FakeAgent) => void = () => {}): Promise<Harness> {
  const harness = new Harness();
  harness.world.add('h1').give(machine);
  change(harness.world.add('h2'));
  await harness.start();
  return harness;
}

const agent = (harness: Harness, host: string) => harness.world.agents.get(host)!;
const orders = (harness: Harness, ...methods: string[]) =>
  harness.world.log.map((line) => line.split('.')[1]!).filter((method) => methods.includes(method));
const waits = (harness: Harness, id: string, kind: string) =>
  harness.until(async () => {
    const migration = await harness.migration(id);
    return migration.wait?.kind === kind ? migration : undefined;
  });
const reportOf = ({ precopy }: Migration) => precopy!;

test('the running Machine is copied before the lock; one last round goes under the lock, before the stop', async () => {
  await using harness = await twoHosts();
  const migration = await harness.ended(await harness.migrate(machine, 'h2'));
  expect(migration).toMatchObject({ state: MigrationState.MOVED, strategy: MigrationStrategy.PRECOPY });
  expect(orders(harness, 'precopy', 'grantPermit', 'stopForMigration')).toEqual([
    'precopy',
    'grantPermit',
    'grantPermit',
    'precopy',
    'stopForMigration',
  ]);
  expect(reportOf(migration)).toMatchObject({
    mode: 'snapshots',
    ended: 'fits',
    rounds: [{ number: 1 }, { number: 2 }],
  });
  expect(migration.steps.find(({ step }) => step === MigrationStep.PRECOPY)?.message).toContain('fits');
  expect(migration.steps.find(({ step }) => step === MigrationStep.LOCK)?.message).toContain('last round done');
});

test('an order that says cold copies nothing before the stop', async () => {
  await using harness = await twoHosts();
  const wish = { machineId: machine, destination: 'h2', strategy: MigrationStrategy.COLD };
  const { migration } = await harness.migrations.migrateMachine(wish);
  expect(await harness.ended(migration!.id)).toMatchObject({ state: MigrationState.MOVED });
  expect(orders(harness, 'precopy')).toEqual([]);
});

test('an agent that makes no pre-copy is no reason to fail: it goes on cold, and says why', async () => {
  await using harness = await twoHosts((to) => {
    to.precopyEnds = [];
  });
  const migration = await harness.ended(await harness.migrate(machine, 'h2'));
  expect(migration).toMatchObject({ state: MigrationState.MOVED });
  expect(reportOf(migration)).toMatchObject({ ended: 'cold' });
  expect(reportOf(migration).endedReason).toContain('copies stopped volumes only');
  expect(orders(harness, 'precopy')).toEqual([]);
});

test('rounds that do not fit the budget yet say so, with what is predicted', async () => {
  await using harness = await twoHosts((to) => {
    to.precopyEnds = ['', '', '', 'not_shrinking'];
  });
  let asked = 0;
  agent(harness, 'h2').scripts.set('precopy', async (when) => {
    if (when === 'before') asked += 1;
    if (when === 'before' && asked === 4) await new Promise<void>((resolve) => resolve());
  });
  const seen: string[] = [];
  const id = await harness.migrate(machine, 'h2');
  for await (const { migration } of harness.migrations.watchMigration({ migrationId: id })) {
    if (migration!.wait?.kind === 'budget') seen.push(migration!.wait.message);
    harness.advance(100);
  }
  expect(seen[0]).toContain('900 ms predicted');
  expect(seen[0]).toContain('300 ms allowed');
  expect(reportOf(await harness.migration(id)).ended).toBe('not_shrinking');
});

describe('what a cold copy would meet too turns back while the Machine still runs:', () => {
  test.each(['no_space', 'io_error', 'copy_corrupt'] as const)('%s at the destination', async (reason) => {
    await using harness = await twoHosts();
    agent(harness, 'h2').scripts.set('precopy', () => {
      throw new FerryError(reason, 'the disk');
    });
    const migration = await harness.ended(await harness.migrate(machine, 'h2'));
    expect(migration).toMatchObject({ state: MigrationState.MOVED_BACK, failure: reason });
    expect(orders(harness, 'stopForMigration', 'grantPermit')).toEqual([]);
  });

  test('a destination that is silent', async () => {
    await using harness = await twoHosts();
    agent(harness, 'h2').scripts.set('precopy', () => {
      throw new FerryError('unreachable', 'gone');
    });
    const id = await harness.migrate(machine, 'h2');
    expect(await waits(harness, id, 'host')).toMatchObject({ wait: { subject: 'h2' } });
    expect(await harness.ended(id)).toMatchObject({ state: MigrationState.MOVED_BACK, failure: 'host_unreachable' });
    expect(orders(harness, 'stopForMigration')).toEqual([]);
  });

  test('a destination at which nothing arrives', async () => {
    await using harness = await twoHosts((to) => {
      to.precopyStuck = true;
    });
    // As a real agent answers: after the time that it was asked to wait.
    agent(harness, 'h2').scripts.set('precopy', async (when) => {
      if (when === 'after') await harness.clock.sleep(500);
    });
    const migration = await harness.ended(await harness.migrate(machine, 'h2'));
    expect(migration).toMatchObject({ state: MigrationState.MOVED_BACK, failure: 'copy_stuck' });
    expect(orders(harness, 'stopForMigration')).toEqual([]);
  });
});

test('a cancel before the lock leaves the Machine running and nothing behind', async () => {
  await using harness = await twoHosts();
  const hanging = harness.hangAt('h2', 'precopy', 'before');
  const id = await harness.migrate(machine, 'h2');
  await hanging;
  expect((await harness.migrations.cancelMigration({ migrationId: id })).outcome).toBe('aborted');
  expect(await harness.ended(id)).toMatchObject({ state: MigrationState.MOVED_BACK, failure: 'cancelled' });
  expect(agent(harness, 'h2').rows.get(id)?.handover.step).toBe('declined');
});

test('a migration in line keeps its copy fresh', async () => {
  await using harness = await twoHosts();
  agent(harness, 'h1').give(second);
  await harness.beat();
  const hanging = harness.hangAt('h2', 'copy', 'before');
  await harness.migrate(machine, 'h2');
  await hanging;
  const before = orders(harness, 'precopy').length;
  const waiter = await harness.migrate(second, 'h2');
  await waits(harness, waiter, 'lock');
  await harness.until(async () => orders(harness, 'precopy').length >= before + 4 || undefined);
  expect(await harness.migration(waiter)).toMatchObject({ step: MigrationStep.LOCK });
});

test('a last round that fails or takes too long is not waited for', async () => {
  await using harness = await twoHosts();
  agent(harness, 'h2').scripts.set('precopy', () => {
    if (orders(harness, 'grantPermit').length > 0) throw new FerryError('copy_broken', 'the stream broke');
  });
  const migration = await harness.ended(await harness.migrate(machine, 'h2'));
  expect(migration).toMatchObject({ state: MigrationState.MOVED });
  expect(migration.steps.find(({ step }) => step === MigrationStep.LOCK)?.message).toContain('without a last round');
});

test('a move back copies nothing before its stop', async () => {
  await using harness = await twoHosts((to) => {
    to.sick = true;
  });
  const parent = await harness.ended(await harness.migrate(machine, 'h2'));
  const child = await harness.ended(parent.returnedBy);
  expect(child).toMatchObject({ state: MigrationState.MOVED, strategy: MigrationStrategy.COLD, returns: parent.id });
  expect(harness.world.log).not.toContain('h1.precopy');
});
