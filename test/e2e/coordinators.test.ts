import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, test, vi } from 'vitest';
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
import { doubles, type Observation, observe } from '../harness/observe.ts';

// Real processes, many of them: on a busy machine they take their time.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

/** Of the long suite only: not there at all in the ordinary one, in which a skipped test may be a failure. */
const longTest: (title: string, run: () => Promise<void>) => void =
  process.env.FERRY_TEST_LONG === '1' ? test : () => {};
const names = ['coordinator', 'coordinator-2'];
/** The ledger takes so long to stop: the time in which its driver is hit. */
const stopMs = 2500;

let cluster: TestCluster;
afterEach(async () => cluster?.[Symbol.asyncDispose]());

const start = (flags: Record<string, string> = { lease: '3s' }) =>
  TestCluster.start({ store: 'redis', coordinators: 2, coordinatorFlags: flags });

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
async function endsWell({ load, machineId, migrationId, observation, before }: Move): Promise<void> {
  const migration = await cluster.ended(migrationId);
  expect(migration, migration.reason).toMatchObject({ state: MigrationState.MOVED, holdsLock: false, settled: true });
  await load.more(20);
  expect(await owners(cluster, machineId)).toEqual(['host-b']);
  expect(await cluster.machine(machineId)).toMatchObject({ hostId: 'host-b', state: MachineState.STARTED, epoch: 2n });
  expect(await load.verdict()).toMatchObject({ lost: 0, problems: [] });
  expect(doubles(await observation.report())).toEqual([]);
  await oldOrdersAreRefused({ migrationId, machineId, before }, ['host-a', 'host-b']);
  await untilFree(cluster);
}

/** Once the agents have heard the other coordinator they refuse what the one from before orders, late or repeated. */
async function oldOrdersAreRefused(
  { machineId, migrationId, before }: Pick<Move, 'machineId' | 'migrationId' | 'before'>,
  hosts: readonly string[],
): Promise<void> {
  for (const host of hosts) {
    await cluster.until(`${host} has heard the other coordinator`, async () => {
      return ((await handoverAt(cluster, host, migrationId))?.term ?? 0n) > before.term;
    });
  }
  const drive = new Drive(cluster, { id: machineId, network: 'net' }, { migrationId });
  const header = { ...drive.header, term: before.term, fence: before.fence };
  const atSource = [
    () => drive.from.stopForMigration({ header }),
    () => drive.from.abort({ header, machineId, reason: 'from before' }),
  ];
  const atDestination = [
    () => drive.to.copy({ header }),
    () => drive.to.decline({ header, machineId, source: 'host-a', epoch: 2n, reason: 'from before' }),
  ];
  for (const order of [...atSource, ...(hosts.includes('host-b') ? atDestination : [])]) {
    const refusal = await order().then(() => null, toFerryError);
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
    await oldOrdersAreRefused(move, ['host-a']);
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
    await oldOrdersAreRefused(move, ['host-a']);
    await endsWell(move);
    expect(cluster.log(move.driver)).toMatch(/session lost|ran out|stale_term/);
    await worksAgain(move);
  });

  longTest('is frozen until the other one has finished', async () => {
    cluster = await start();
    const move = await underWay();
    cluster.signal(move.driver, 'SIGSTOP');
    await endsWell(move);
    const { term } = await cluster.migration(move.migrationId);
    cluster.signal(move.driver, 'SIGCONT');
    await worksAgain(move);
    expect((await cluster.migration(move.migrationId)).term).toBe(term);
  });

  longTest('is frozen for 60 s, with leases as they are', async () => {
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
    (how === 'reset' ? longTest : test)(
      `is cut off from Redis (${how}): the other one finishes, and it says what it lacks`,
      async () => {
        cluster = await start();
        const move = await underWay();
        cluster.redis.proxy(move.driver).cut(how);
        await takenOver(move);
        await oldOrdersAreRefused(move, ['host-a']);
        await endsWell(move);
        cluster.ask(move.driver);
        const refusal = await cluster.migration(move.migrationId).then(() => null, toFerryError);
        expect(refusal?.reason).toMatch(/store_unreachable|deadline/);
        cluster.redis.proxy(move.driver).restore();
        await worksAgain(move);
      },
    );
  }

  for (const { name, step } of steps) {
    longTest(`is killed in step ${name}: the other one finishes`, async () => {
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
