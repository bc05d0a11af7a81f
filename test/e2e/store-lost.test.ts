import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { redisMissing } from '../../coordinator/testing/redis-server.ts';
import { MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { TestCluster } from '../harness/cluster.ts';
import { handoverAt } from '../harness/drive.ts';
import { fussyConfig } from '../harness/ledger.ts';
import { untilClean } from '../harness/leftovers.ts';
import { doubles, observe, twoDown } from '../harness/observe.ts';

// Real processes, many of them: on a busy machine they take their time.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

const hosts = ['host-a', 'host-b', 'host-c', 'host-d'];
const coordinators = ['coordinator', 'coordinator-2'];
/** The first Machine stays down for so long: time enough for others to be stopped, if nothing kept them up. */
const downMs = 12_000;

let cluster: TestCluster;
afterEach(async () => cluster?.[Symbol.asyncDispose]());

/**
 * Three Machines of one network. The first is down, because the agent of its destination is frozen, when the store loses what
 * was written last; then the other two are to move.
 */
async function storeLoses(prepare: () => Promise<void>, lose: () => Promise<unknown>, said: string): Promise<void> {
  cluster = await TestCluster.start({ hosts, store: 'redis', coordinators: 2, coordinatorFlags: { lease: '3s' } });
  const machines = await cluster.runAll(
    ['host-a', 'host-b', 'host-c'].map((host) => [fussyConfig(cluster, { stopMs: 500 }), { host }]),
  );
  const [one, two, three] = machines.map(({ id }) => id) as [string, string, string];
  const observation = observe();
  await prepare();
  const first = await cluster.migrate(one, 'host-d');
  const isAt = async (...steps: string[]) => steps.includes((await handoverAt(cluster, 'host-a', first))?.step ?? '');
  await cluster.until('the first is being stopped', () => isAt('stopping', 'stopped'));
  cluster.signal('host-d', 'SIGSTOP');
  await cluster.until('the first is down', () => isAt('stopped'));
  await lose();
  const thawed = sleep(downMs).then(() => cluster.signal('host-d', 'SIGCONT'));
  // Ordered as soon as the coordinators let it.
  const later: string[] = [];
  const orders = [
    [two, 'host-c'],
    [three, 'host-b'],
  ] as const;
  for (const [machineId, destination] of orders) {
    await cluster.until(`${machineId} can be moved`, async () => {
      const { migration } = await cluster.migrations.migrateMachine({ machineId, destination });
      later.push(migration!.id);
      return true;
    });
  }
  await thawed;
  for (const id of later) {
    const migration = await cluster.ended(id);
    expect(migration, migration.reason).toMatchObject({ state: MigrationState.MOVED });
  }
  // The first one ended too, and is known again.
  const ended = await cluster.ended(first);
  expect([MigrationState.MOVED, MigrationState.MOVED_BACK], ended.reason).toContain(ended.state);
  await untilClean(cluster, hosts);
  for (const { id } of machines) expect(await cluster.machine(id)).toMatchObject({ state: MachineState.STARTED });
  const report = await observation.report();
  expect(twoDown(report, { net: [one, two, three] })).toEqual([]);
  expect(doubles(report)).toEqual([]);
  for (const name of coordinators) expect(cluster.log(name)).toContain(said);
}

describe.skipIf(redisMissing !== '')(`the store in mid-move${redisMissing}`, () => {
  test('Redis fails over to a replica that lacks the last writes: never two of a network down, nothing is left', async () => {
    await storeLoses(
      async () => {
        await cluster.redis.addReplica();
        cluster.redis.loseWrites();
      },
      () => cluster.redis.failOver(),
      'another server took the store over',
    );
  });

  test('FLUSHALL: never two of a network down, nothing is left', async () => {
    await storeLoses(
      async () => {},
      () => cluster.redis.ask('FLUSHALL'),
      'the store was lost',
    );
  });
});
