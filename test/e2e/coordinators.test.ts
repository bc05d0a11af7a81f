import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { redisMissing } from '../../coordinator/testing/redis-server.ts';
import { MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { type Migration, MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { toFerryError } from '../../shared/error.ts';
import { TestCluster } from '../harness/cluster.ts';
import { owners, steps, untilStep } from '../harness/crash.ts';
import { Drive, handoverAt, untilFree } from '../harness/drive.ts';
import { fussyConfig, LedgerLoad } from '../harness/ledger.ts';
import { untilClean } from '../harness/leftovers.ts';
import { type Load, loadOn } from '../harness/load.ts';
import { doubles, type Observation, observe, twoDown } from '../harness/observe.ts';

const long = process.env.FERRY_TEST_LONG === '1';
const names = ['coordinator', 'coordinator-2'];
/** The ledger takes so long to stop: the time in which its driver is hit. */
const stopMs = 4000;

let cluster: TestCluster;
afterEach(async () => cluster?.[Symbol.asyncDispose]());

const start = (flags: Record<string, string> = { lease: '3s' }, hosts = ['host-a', 'host-b']) =>
  TestCluster.start({ hosts, store: 'redis', coordinators: 2, coordinatorFlags: flags });

interface Move {
  readonly load: Load;
  readonly machineId: string;
  readonly migrationId: string;
  readonly observation: Observation;
  /** Coordinator that drives it, and the other one. */
  readonly driver: string;
  readonly other: string;
  readonly before: Migration;
}

/** A ledger under load that is being stopped for its move from host-a to host-b. */
async function underWay(): Promise<Move> {
  const machine = await cluster.run(fussyConfig(cluster, { stopMs }), { host: 'host-a' });
  const load = await loadOn(cluster, machine, 8080);
  const observation = observe();
  const migrationId = await cluster.migrate(machine.id, 'host-b');
  await cluster.until('it is being stopped', async () => {
    const at = await handoverAt(cluster, 'host-a', migrationId);
    return at?.step === 'stopping';
  });
  const before = await cluster.migration(migrationId);
  const driver = before.driver.split('/')[0]!;
  expect(names).toContain(driver);
  const other = names.find((name) => name !== driver)!;
  cluster.ask(other);
  return { load, machineId: machine.id, migrationId, observation, driver, other, before };
}

/** The other coordinator has taken over: it drives, under a higher term. */
async function takenOver({ migrationId, other, before }: Move): Promise<void> {
  await cluster.until('the other coordinator drives it', async () => {
    const now = await cluster.migration(migrationId);
    return now.driver.startsWith(`${other}/`) || now.driver === other || now.state !== MigrationState.RUNNING;
  });
  expect((await cluster.migration(migrationId)).term).toBeGreaterThan(before.term);
}

/** The move ends as it should, whoever ended it. */
async function endsWell({ load, machineId, migrationId, observation }: Move): Promise<void> {
  const migration = await cluster.ended(migrationId);
  expect(migration, migration.reason).toMatchObject({ state: MigrationState.MOVED, holdsLock: false, settled: true });
  await load.more(20);
  expect(await owners(cluster, machineId)).toEqual(['host-b']);
  expect(await cluster.machine(machineId)).toMatchObject({ hostId: 'host-b', state: MachineState.STARTED, epoch: 2n });
  expect(await load.verdict()).toMatchObject({ lost: 0, problems: [] });
  expect(doubles(await observation.report())).toEqual([]);
  await untilFree(cluster);
}

/** An order of the coordinator from before is refused by both agents. */
async function oldOrdersAreRefused({ machineId, migrationId, before }: Move): Promise<void> {
  const drive = new Drive(cluster, { id: machineId, network: 'net' }, { migrationId });
  const header = { ...drive.header, term: before.term, fence: before.fence };
  const orders = [
    drive.from.stopForMigration({ header }),
    drive.from.abort({ header, machineId, reason: 'from before' }),
    drive.to.copy({ header }),
    drive.to.decline({ header, machineId, source: 'host-a', epoch: 2n, reason: 'from before' }),
  ];
  for (const order of orders) {
    const refusal = await order.then(() => null, toFerryError);
    expect(refusal).toMatchObject({ reason: 'stale_term' });
  }
}

/** The coordinator from before works again: it sees what the other did, and can move the Machine back. */
async function worksAgain({ machineId, migrationId, driver }: Move): Promise<void> {
  cluster.ask(driver);
  await cluster.until('it answers', async () => (await cluster.migration(migrationId)).state === MigrationState.MOVED);
  const back = await cluster.ended(await cluster.migrate(machineId, 'host-a'));
  expect(back, back.reason).toMatchObject({ state: MigrationState.MOVED });
  await untilFree(cluster);
}

describe.skipIf(redisMissing !== '')(`the coordinator that drives a move${redisMissing}`, () => {
  test('is killed: the other one finishes', async () => {
    cluster = await start();
    const move = await underWay();
    await cluster.kill(move.driver);
    await takenOver(move);
    await oldOrdersAreRefused(move);
    await endsWell(move);
    cluster.spawn(move.driver);
    await worksAgain(move);
  });

  test('is frozen for longer than its lease: the other one finishes, and it gives up when it goes on', async () => {
    cluster = await start();
    const move = await underWay();
    cluster.signal(move.driver, 'SIGSTOP');
    await takenOver(move);
    cluster.signal(move.driver, 'SIGCONT');
    await oldOrdersAreRefused(move);
    await endsWell(move);
    expect(cluster.log(move.driver)).toMatch(/session lost|ran out|stale_term/);
    await worksAgain(move);
  });

  test('is frozen until the other one has finished', async () => {
    cluster = await start();
    const move = await underWay();
    cluster.signal(move.driver, 'SIGSTOP');
    await endsWell(move);
    const { term } = await cluster.migration(move.migrationId);
    cluster.signal(move.driver, 'SIGCONT');
    await worksAgain(move);
    expect((await cluster.migration(move.migrationId)).term).toBe(term);
  });

  test.runIf(long)('is frozen for 60 s, with leases as they are', async () => {
    cluster = await start({});
    const move = await underWay();
    cluster.signal(move.driver, 'SIGSTOP');
    const until = sleep(60_000);
    await takenOver(move);
    await endsWell(move);
    await until;
    cluster.signal(move.driver, 'SIGCONT');
    await worksAgain(move);
  });

  for (const how of ['drop', 'reset'] as const) {
    test(`is cut off from Redis (${how}): the other one finishes, and it says what it lacks`, async () => {
      cluster = await start();
      const move = await underWay();
      cluster.redis.proxy(move.driver).cut(how);
      await takenOver(move);
      await oldOrdersAreRefused(move);
      await endsWell(move);
      cluster.ask(move.driver);
      const refusal = await cluster.migration(move.migrationId).then(() => null, toFerryError);
      expect(refusal?.reason).toMatch(/store_unreachable|deadline/);
      cluster.redis.proxy(move.driver).restore();
      await worksAgain(move);
    });
  }
});

describe.skipIf(redisMissing !== '' || !long)('the coordinator that drives a move is killed in each step', () => {
  for (const { name, step } of steps) {
    test(`${name}: the other one finishes`, async () => {
      cluster = await start();
      const load = await LedgerLoad.start(cluster, 'host-a', { fillMib: 64 });
      const observation = observe();
      const migrationId = await cluster.migrate(load.machine.id, 'host-b');
      await untilStep(cluster, migrationId, step);
      const driver = (await cluster.migration(migrationId)).driver.split('/')[0] || 'coordinator';
      cluster.ask(names.find((each) => each !== driver)!);
      await cluster.kill(driver);
      const migration = await cluster.ended(migrationId);
      expect([MigrationState.MOVED, MigrationState.MOVED_BACK], migration.reason).toContain(migration.state);
      await load.more(20);
      expect(await owners(cluster, load.machine.id)).toHaveLength(1);
      expect(await load.verdict()).toMatchObject({ lost: 0, problems: [] });
      expect(doubles(await observation.report())).toEqual([]);
      await untilClean(cluster, ['host-a', 'host-b']);
    });
  }
});

const slow = {
  init: { exec: ['/bin/sh', '-c', 'trap "sleep 2; exit 0" INT; while :; do sleep 0.1; done'] },
  stopConfig: { timeout: { seconds: 20n, nanos: 0 } },
};
const withVolume = { ...slow, mounts: [{ path: '/data', sizeGb: 1, name: 'data' }] };
const hosts = ['host-a', 'host-b', 'host-c'];

/** Two Machines of one network; the first is being stopped when the store loses what was written last. */
async function storeLoses(lose: () => Promise<void>, prepare: () => Promise<void> = async () => {}): Promise<void> {
  const one = await cluster.run(withVolume, { host: 'host-a' });
  const two = await cluster.run(slow, { host: 'host-b' });
  const three = await cluster.run(slow, { host: 'host-c' });
  const observation = observe();
  await prepare();
  const first = await cluster.migrate(one.id, 'host-c');
  await cluster.until('the first is being stopped', async () => {
    const step = (await handoverAt(cluster, 'host-a', first))?.step ?? '';
    return ['stopping', 'stopped'].includes(step);
  });
  await lose();
  // Ordered as soon as the coordinators let it: two more of the same network.
  const later: string[] = [];
  for (const { id, destination } of [
    { id: two.id, destination: 'host-a' },
    { id: three.id, destination: 'host-b' },
  ]) {
    await cluster.until(`${id} can be moved`, async () => {
      later.push(await cluster.migrate(id, destination));
      return true;
    });
  }
  for (const id of later) expect(await cluster.ended(id)).toMatchObject({ state: MigrationState.MOVED });
  await cluster.until('no hand-over is open, and no migration runs', async () => {
    const open = await Promise.all(hosts.map((host) => cluster.handover(host).listHandovers({ openOnly: true })));
    const { migrations } = await cluster.migrations.listMigrations({ openOnly: true });
    return (
      open.every(({ handovers }) => handovers.every(({ standing }) => standing !== 'active')) && migrations.length === 0
    );
  });
  await untilFree(cluster, hosts);
  const machines = await Promise.all([one, two, three].map(({ id }) => cluster.machine(id)));
  for (const machine of machines) expect(machine).toMatchObject({ state: MachineState.STARTED });
  const report = await observation.report();
  expect(twoDown(report, { net: [one.id, two.id, three.id] })).toEqual([]);
  expect(doubles(report)).toEqual([]);
}

describe.skipIf(redisMissing !== '')(`the store in mid-move${redisMissing}`, () => {
  test('Redis fails over to a replica that lacks the last writes: never two of a network down, nothing is left', async () => {
    cluster = await start({ lease: '3s' }, hosts);
    await cluster.redis.addReplica();
    await storeLoses(
      () => cluster.redis.failOver(),
      async () => cluster.redis.loseWrites(),
    );
  });

  test('FLUSHALL: never two of a network down, nothing is left', async () => {
    cluster = await start({ lease: '3s' }, hosts);
    await storeLoses(async () => {
      await cluster.redis.ask('FLUSHALL');
    });
  });
});
