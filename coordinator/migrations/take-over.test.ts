// Longer than usual: one migration in the hands of two coordinators, at each order.
import { clone } from '@bufbuild/protobuf';
import { describe, expect, test } from 'vitest';
import { ClusterService, MigrationService } from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import { MigrationSchema, MigrationState, MigrationStep } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { FerryError } from '../../shared/error.ts';
import { Harness, type Running } from '../testing/harness.ts';

const machine = 'd8dd625fed5568';
const second = '00000000000002';

/** Two coordinators on one store. The first has a clock of its own, so that it can be stopped. */
async function twoCoordinators(): Promise<{ harness: Harness; c1: Running; c2: Running }> {
  const harness = new Harness();
  harness.world.add('h1').give(machine);
  harness.world.add('h2');
  await harness.start();
  const c2 = await harness.join('c2');
  const [c1] = harness.coordinators;
  return { harness, c1: c1!, c2 };
}

const agent = (harness: Harness, host: string) => harness.world.agents.get(host)!;
const hung = async (harness: Harness, hanging: Promise<void>) => {
  let isHung = false;
  void hanging.then(() => {
    isHung = true;
  });
  await harness.until(async () => isHung || undefined);
};
const expectFree = (harness: Harness) =>
  harness.until(async () => {
    const held = [...harness.world.agents.values()].filter((each) => each.permits.get('alpha')?.holder);
    return held.length === 0 && (await harness.store.locks()).length === 0 ? true : undefined;
  });

const orders = [
  ['h1', 'offer'],
  ['h2', 'prepare'],
  ['h2', 'precopy'],
  ['h1', 'grantPermit'],
  ['h1', 'stopForMigration'],
  ['h2', 'copy'],
  ['h1', 'relinquish'],
  ['h2', 'accept'],
  ['h1', 'releasePermit'],
  ['h1', 'settle'],
] as const;

describe.each(orders)('the driving coordinator stands still at %s.%s', (host, method) => {
  test.each(['before', 'after'] as const)(
    '%s the order is obeyed; the other one finishes, and it stays so',
    async (when) => {
      const { harness, c1 } = await twoCoordinators();
      await using _ = harness;
      const { scripts } = agent(harness, host);
      let goOn = () => {};
      const held = new Promise<void>((resolve) => {
        goOn = resolve;
      });
      const hanging = new Promise<void>((resolve) => {
        scripts.set(method, async (now) => {
          if (now !== when) return;
          scripts.delete(method);
          resolve();
          await held;
        });
      });
      const id = await harness.migrate(machine, 'h2');
      await hung(harness, hanging);
      const before = (await harness.store.migration(id))!;
      expect(before.driver).toMatch(/^c1\//);
      harness.suspend(c1);
      const ended = await harness.ended(id);
      expect(ended).toMatchObject({ state: MigrationState.MOVED, settled: true });
      expect(ended.term).toBeGreaterThan(before.migration.term);
      const after = (await harness.store.migration(id))!;
      // The order is answered now, or reaches the agent only now; the one who sent it still thinks that it drives.
      goOn();
      await harness.settle();
      await harness.resume(c1);
      await harness.until(async () => (c1.coordinator.driving === 0 ? true : undefined));
      expect(await harness.store.migration(id)).toEqual(after);
      expect(harness.world.runningOn(machine)).toEqual(['h2']);
      expect(harness.world.downMax).toBeLessThanOrEqual(1);
      await expectFree(harness);
    },
  );
});

test('an agent refuses the orders of the one who drove before', async () => {
  const { harness, c1 } = await twoCoordinators();
  await using _ = harness;
  const hanging = harness.hangAt('h2', 'copy', 'before');
  const id = await harness.migrate(machine, 'h2');
  await hung(harness, hanging);
  const { term } = (await harness.store.migration(id))!.migration;
  harness.suspend(c1);
  await harness.ended(id);
  const late = { header: { migrationId: id, term, lockHolder: id, fence: 1n } };
  for (const host of ['h1', 'h2']) {
    const seen = agent(harness, host).terms.get(id)!;
    expect(seen).toBeGreaterThan(late.header.term);
  }
});

test('a coordinator that ends lets another one take over at once', async () => {
  const { harness, c1, c2 } = await twoCoordinators();
  await using _ = harness;
  const hanging = harness.hangAt('h2', 'copy', 'before');
  const id = await harness.migrate(machine, 'h2');
  await hung(harness, hanging);
  const leftMs = harness.clock.nowMs();
  await harness.leave(c1);
  expect(await harness.ended(id)).toMatchObject({ state: MigrationState.MOVED });
  // Far less than a lease, by the clock of the test.
  expect(harness.clock.nowMs() - leftMs).toBeLessThanOrEqual(5000);
  const { coordinators } = await harness.client(ClusterService, c2).getStatus({});
  expect(coordinators.map(({ id, alive, self }) => [id, alive, self])).toEqual([
    ['c1', false, false],
    ['c2', true, true],
  ]);
});

test('a coordinator that cannot reach the store sends nothing more; the other one finishes; it drives again later', async () => {
  const { harness } = await twoCoordinators();
  await using _ = harness;
  let cut = false;
  const store = new Proxy(harness.store, {
    get: (target, name) => {
      const value = Reflect.get(target, name);
      if (typeof value !== 'function') return value;
      return (...args: unknown[]) => {
        if (cut && name !== 'describe') throw new FerryError('store_unreachable', 'cut off');
        return value.apply(target, args);
      };
    },
  });
  const c3 = await harness.join('c3', { store });
  await harness.leave(harness.coordinators[0]!);
  await harness.leave(harness.coordinators[0]!);
  const c2 = await harness.join('c4');
  harness.suspend(c2);
  const hanging = harness.hangAt('h2', 'copy', 'before');
  const id = (await harness.client(MigrationService, c3).migrateMachine({ machineId: machine, destination: 'h2' }))
    .migration!.id;
  await hung(harness, hanging);
  cut = true;
  await harness.resume(c2);
  harness.ask(c2);
  expect(await harness.ended(id)).toMatchObject({ state: MigrationState.MOVED });
  expect(c3.coordinator.driving).toBe(0);
  const sent = harness.world.log.length;
  cut = false;
  await harness.until(async () => {
    const rows = await harness.store.sessions();
    return rows.some((row) => row.coordinator === 'c3' && row.alive) || undefined;
  });
  expect(harness.world.log.slice(sent).filter((line) => line.endsWith('copy'))).toEqual([]);
  const again = (await harness.client(MigrationService, c3).migrateMachine({ machineId: machine, destination: 'h1' }))
    .migration!;
  expect(await harness.ended(again.id)).toMatchObject({ state: MigrationState.MOVED });
});

test('any coordinator may be asked: a cancel and a watch at the one that does not drive', async () => {
  const { harness, c2 } = await twoCoordinators();
  await using _ = harness;
  agent(harness, 'h1').give(second);
  await harness.beat();
  const hanging = harness.hangAt('h2', 'copy', 'before');
  await harness.migrate(machine, 'h2');
  await hung(harness, hanging);
  const waiter = await harness.migrate(second, 'h2');
  const other = harness.client(MigrationService, c2);
  const seen: MigrationStep[] = [];
  const watching = (async () => {
    for await (const { migration } of other.watchMigration({ migrationId: waiter })) seen.push(migration!.step);
  })();
  await harness.until(async () => (await harness.migration(waiter)).wait?.kind === 'lock' || undefined);
  expect((await other.cancelMigration({ migrationId: waiter })).outcome).toBe('aborted');
  expect(await harness.ended(waiter)).toMatchObject({ state: MigrationState.MOVED_BACK, failure: 'cancelled' });
  await harness.until(async () => (seen.includes(MigrationStep.RELEASE) ? true : undefined));
  await watching;
  expect(harness.world.runningOn(second)).toEqual(['h1']);
});

test('a waiter at one coordinator gets the lock that another one released within a second', async () => {
  const { harness, c2 } = await twoCoordinators();
  await using _ = harness;
  agent(harness, 'h1').give(second);
  await harness.beat();
  const hanging = harness.hangAt('h1', 'relinquish', 'before');
  const first = await harness.migrate(machine, 'h2');
  await hung(harness, hanging);
  const wish = { machineId: second, destination: 'h2' };
  const waiter = (await harness.client(MigrationService, c2).migrateMachine(wish)).migration!.id;
  expect((await harness.store.migration(waiter))?.driver).toMatch(/^c2\//);
  await harness.until(async () => (await harness.migration(waiter)).wait?.kind === 'lock' || undefined);
  await harness.migrations.cancelMigration({ migrationId: first });
  for (const id of [first, waiter]) await harness.ended(id);
  expect(await harness.migration(waiter)).toMatchObject({ state: MigrationState.MOVED });
  expect(harness.world.downMax).toBe(1);
});

test.each([
  ['h2', 'accept'],
  ['h1', 'releasePermit'],
] as const)(
  'a record that lost its last writes is no reason to turn back: the agents say what is done (%s.%s)',
  async (host, method) => {
    const { harness, c1 } = await twoCoordinators();
    await using _ = harness;
    const hanging = harness.hangAt(host, method, 'after');
    const id = await harness.migrate(machine, 'h2');
    await hung(harness, hanging);
    harness.suspend(c1);
    const record = (await harness.store.migration(id))!;
    const plan = { ...record.plan, finished: ['plan', 'prepare'] };
    const migration = clone(MigrationSchema, record.migration);
    migration.holdsLock = false;
    migration.fence = 0n;
    await harness.store.updateMigration({ ...record, migration, plan });
    await harness.store.releaseLock('alpha', id);
    const ended = await harness.ended(id);
    expect(ended).toMatchObject({ state: MigrationState.MOVED, settled: true, failure: '' });
    expect(harness.world.log.filter((line) => line === 'h1.offer')).toHaveLength(1);
    expect(harness.world.downMax).toBe(1);
    await expectFree(harness);
  },
);

test('an agent that has seen a higher term than a store that lost its last writes: the driver mints above it', async () => {
  const harness = new Harness();
  harness.world.add('h1').give(machine);
  harness.world.add('h2');
  await using _ = harness;
  await harness.start();
  let id = '';
  agent(harness, 'h1').scripts.set('offer', (when) => {
    if (when === 'before' && id !== '' && !agent(harness, 'h1').terms.has(id))
      agent(harness, 'h1').terms.set(id, 1n << 40n);
  });
  agent(harness, 'h1').silent = true;
  id = await harness.migrate(machine, 'h2');
  agent(harness, 'h1').silent = false;
  const ended = await harness.ended(id);
  expect(ended).toMatchObject({ state: MigrationState.MOVED });
  expect(ended.term).toBeGreaterThan(1n << 40n);
});
