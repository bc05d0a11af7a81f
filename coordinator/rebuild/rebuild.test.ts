// Longer than usual: a store that is lost under a migration, at each step and in each way.
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { SqliteStore } from '../store/sqlite.ts';
import type { Store } from '../store/store.ts';
import { Harness, refusal } from '../testing/harness.ts';

const machine = 'd8dd625fed5568';
const second = '00000000000002';
const third = '00000000000003';

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

function network(): Harness {
  const harness = new Harness();
  harness.world.add('h1').give(machine);
  harness.world.add('h2').give(second);
  harness.world.add('h3').give(third);
  return harness;
}

/** Where the Machine is in the end, and that it runs nowhere else. */
async function runsOnce(harness: Harness, id: string): Promise<string> {
  const hosts = await harness.until(async () => {
    const running = harness.world.runningOn(id);
    return running.length === 1 ? running : undefined;
  });
  return hosts[0]!;
}

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
] as const;

/** A store that can be emptied under a running coordinator, as FLUSHALL does, or taken over by another server. */
function flushable(harness: Harness): { store: Store; flush: () => void; failOver: () => void } {
  let current: Store = harness.store;
  let flushes = 0;
  let takeovers = 0;
  const identity = async () => ({ ...(await current.identity()), incarnation: String(takeovers) });
  const store = new Proxy(harness.store, {
    get: (_, name) => {
      if (name === 'identity') return identity;
      const value = Reflect.get(current, name);
      return typeof value === 'function' ? value.bind(current) : value;
    },
  });
  const flush = () => {
    flushes += 1;
    const path = join(harness.directory, `flushed-${flushes}.db`);
    current = new SqliteStore({ path, random: harness.random, clock: harness.clock });
  };
  const failOver = () => {
    takeovers += 1;
  };
  return { store, flush, failOver };
}

describe.each(orders)('the store is lost while the coordinator waits for %s.%s', (host, method) => {
  test.each(['before', 'after'] as const)('%s the order is obeyed, and the coordinator with it', async (when) => {
    await using harness = network();
    await harness.start();
    const hanging = harness.hangAt(host, method, when);
    await harness.migrate(machine, 'h2');
    await hung(harness, hanging);
    await harness.crash();
    harness.forget();
    await harness.start({ early: true });
    const other = await harness.until(() =>
      harness.migrate(third, 'h1').catch((error: unknown) => {
        expect(String(error)).toContain('the store was lost');
        return undefined;
      }),
    );
    expect(await harness.ended(other)).toMatchObject({ state: MigrationState.MOVED });
    await runsOnce(harness, machine);
    expect(harness.world.downMax).toBeLessThanOrEqual(1);
    await expectFree(harness);
  });

  test.each(['before', 'after'] as const)('%s the order is obeyed, under the running coordinator', async (when) => {
    await using harness = network();
    await harness.start();
    const { store, flush } = flushable(harness);
    await harness.leave(harness.coordinators[0]!);
    await harness.join('c2', { store, clock: harness.clock });
    harness.use(store);
    const hanging = harness.hangAt(host, method, when);
    const id = await harness.migrate(machine, 'h2');
    await hung(harness, hanging);
    const waiter = await harness.migrate(third, 'h1');
    flush();
    const known = (migrationId: string) =>
      harness.until(async () => {
        const migration = await harness.migration(migrationId).catch(() => undefined);
        return migration?.state === MigrationState.RUNNING || migration === undefined ? undefined : migration;
      });
    expect(await known(id)).toMatchObject({ state: MigrationState.MOVED });
    expect(await known(waiter)).toMatchObject({ state: MigrationState.MOVED });
    expect(await runsOnce(harness, machine)).toBe('h2');
    expect(harness.world.downMax).toBeLessThanOrEqual(1);
    await expectFree(harness);
  });
});

test('the lock is known again with its holder and the fence of the permits', async () => {
  await using harness = network();
  await harness.start();
  const { store, flush } = flushable(harness);
  await harness.leave(harness.coordinators[0]!);
  await harness.join('c2', { store, clock: harness.clock });
  harness.use(store);
  const hanging = harness.hangAt('h2', 'copy', 'before');
  const id = await harness.migrate(machine, 'h2');
  await hung(harness, hanging);
  const before = await harness.store.lock('alpha');
  const copies: string[] = [];
  let goOn = () => {};
  agent(harness, 'h2').scripts.set('copy', async (when) => {
    if (when === 'before') {
      copies.push('held');
      await new Promise<void>((resolve) => {
        goOn = resolve;
      });
    }
  });
  flush();
  await harness.until(async () => (copies.length > 0 ? true : undefined));
  expect(await harness.store.lock('alpha')).toMatchObject({ migrationId: id, fence: before?.fence, source: 'h1' });
  agent(harness, 'h2').scripts.clear();
  goOn();
  expect(await harness.ended(id)).toMatchObject({ state: MigrationState.MOVED });
  await expectFree(harness);
});

test('another server that took over and lacks the lock: it is known again from the permits, and the move goes on', async () => {
  await using harness = network();
  await harness.start();
  const { store, failOver } = flushable(harness);
  await harness.leave(harness.coordinators[0]!);
  await harness.join('c2', { store, clock: harness.clock });
  harness.use(store);
  const hanging = harness.hangAt('h2', 'copy', 'before');
  const id = await harness.migrate(machine, 'h2');
  await hung(harness, hanging);
  const before = await harness.store.lock('alpha');
  let goOn = () => {};
  let asked = 0;
  agent(harness, 'h2').scripts.set('copy', async (when) => {
    if (when === 'after' || asked > 0) return;
    asked += 1;
    await new Promise<void>((resolve) => {
      goOn = resolve;
    });
  });
  await harness.store.releaseLock('alpha', id);
  failOver();
  const locked = () => harness.store.lock('alpha');
  const again = await harness.until(async () => (await locked()) ?? undefined);
  expect(again).toMatchObject({ migrationId: id, source: 'h1' });
  expect(again.fence).toBeGreaterThanOrEqual(before!.fence);
  await harness.until(async () => (asked > 0 ? true : undefined));
  goOn();
  expect(await harness.ended(id)).toMatchObject({ state: MigrationState.MOVED });
  await expectFree(harness);
});

test('a move back goes on as a move back', async () => {
  await using harness = network();
  await harness.start();
  agent(harness, 'h2').sick = true;
  const hanging = harness.hangAt('h1', 'copy', 'before');
  const id = await harness.migrate(machine, 'h2');
  await hung(harness, hanging);
  const { returnedBy } = await harness.migration(id);
  await harness.crash();
  harness.forget();
  await harness.start();
  const parent = await harness.until(async () => {
    const migration = await harness.migration(id).catch(() => undefined);
    return migration?.state === MigrationState.MOVED_BACK ? migration : undefined;
  });
  expect(parent.returnedBy).toBe(returnedBy);
  expect(await harness.migration(returnedBy)).toMatchObject({ state: MigrationState.MOVED, returns: id });
  expect(await runsOnce(harness, machine)).toBe('h1');
  await expectFree(harness);
});

describe('a host that another one remembers, and that has not reported since', () => {
  async function lost(): Promise<{ harness: Harness; id: string }> {
    const harness = network();
    await harness.start();
    await harness.beat();
    await harness.crash();
    harness.forget();
    agent(harness, 'h3').silent = true;
    await harness.start({ early: true });
    const wish = { machineId: machine, destination: 'h2' };
    // The store does not know yet whether it was lost: nobody has reported to it but for those that do not remember it.
    expect(await refusal(harness.migrations.migrateMachine(wish))).toMatchObject({ reason: 'rebuilding' });
    for (const { storeGeneration } of harness.world.agents.values()) expect(storeGeneration).not.toBe('');
    return { harness, id: '' };
  }
  const waited = (harness: Harness) =>
    harness.until(async () => {
      const { rebuilding } = await harness.cluster.getStatus({});
      return rebuilding.includes('h3') ? rebuilding : undefined;
    });

  test('is waited for, with its name; a report opens the gate', async () => {
    const { harness } = await lost();
    await using _ = harness;
    expect(await waited(harness)).toContain('ferry host remove');
    harness.advance(60_000);
    await harness.settle();
    expect(await waited(harness)).toContain('h3');
    agent(harness, 'h3').silent = false;
    const id = await harness.until(() => harness.migrate(machine, 'h2').catch(() => undefined));
    expect(await harness.ended(id)).toMatchObject({ state: MigrationState.MOVED });
  });

  test('is waited for also when no agent at all could report for long', async () => {
    await using harness = network();
    await harness.start();
    await harness.beat();
    await harness.crash();
    harness.forget();
    for (const each of harness.world.agents.values()) each.silent = true;
    await harness.start({ early: true });
    harness.advance(60_000);
    await harness.settle();
    harness.advance(60_000);
    await harness.settle();
    expect(await harness.cluster.getStatus({})).not.toMatchObject({ rebuilding: '' });
    for (const host of ['h1', 'h2']) agent(harness, host).silent = false;
    await waited(harness);
    agent(harness, 'h3').silent = false;
    const id = await harness.until(() => harness.migrate(machine, 'h2').catch(() => undefined));
    expect(await harness.ended(id)).toMatchObject({ state: MigrationState.MOVED });
  });

  test('is waited for no longer once an operator removes it, and the others forget it', async () => {
    const { harness } = await lost();
    await using _ = harness;
    await waited(harness);
    await harness.hosts.removeHost({ hostId: 'h3' });
    expect([...agent(harness, 'h1').remembered.keys()]).not.toContain('h3');
    const id = await harness.until(() => harness.migrate(machine, 'h2').catch(() => undefined));
    expect(await harness.ended(id)).toMatchObject({ state: MigrationState.MOVED });
  });
});

test('cordons and numbers come back with the hosts', async () => {
  await using harness = network();
  await harness.start();
  await harness.hosts.cordonHost({ hostId: 'h2' });
  const before = (await harness.hosts.listHosts({})).hosts.map(({ id, number, cordoned }) => [id, number, cordoned]);
  await harness.crash();
  harness.forget();
  await harness.start();
  expect((await harness.hosts.listHosts({})).hosts.map(({ id, number, cordoned }) => [id, number, cordoned])).toEqual(
    before,
  );
});

test('the numbers of networks are known again at once in a store that was lost under the running coordinator', async () => {
  await using harness = network();
  for (const { machines } of harness.world.agents.values()) {
    for (const each of machines.values()) each.privateIp = 'fdaa:0:1234:0:1:0:1:0';
  }
  await harness.start();
  const { store, flush } = flushable(harness);
  await harness.leave(harness.coordinators[0]!);
  await harness.join('c2', { store, clock: harness.clock });
  harness.use(store);
  const number = () => harness.until(async () => (await harness.store.networks()).get('alpha'));
  const before = await number();
  await harness.beat();
  flush();
  const fromMs = harness.clock.nowMs();
  expect(await number()).toBe(before);
  expect(harness.clock.nowMs() - fromMs).toBeLessThan(10_000);
});
