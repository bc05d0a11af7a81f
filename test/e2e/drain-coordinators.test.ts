import { afterEach, expect, test, vi } from 'vitest';
import { redisMissing } from '../../coordinator/testing/redis-server.ts';
import { DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { TestCluster } from '../harness/cluster.ts';
import { owners } from '../harness/crash.ts';
import { drainEnded, drainHost, idsOf, populate, told } from '../harness/drains.ts';
import { untilClean } from '../harness/leftovers.ts';
import { doubles, observe, twoDown } from '../harness/observe.ts';

// Real processes, many of them: on a busy machine they take their time.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

const hosts = ['host-a', 'host-b', 'host-c'];
const names = ['coordinator', 'coordinator-2'];

let cluster: TestCluster;
afterEach(async () => cluster?.[Symbol.asyncDispose]());

test.skipIf(redisMissing)(
  `a coordinator is killed in mid-drain: the other one empties the host ${redisMissing ? '(needs redis-server)' : ''}`,
  async () => {
    cluster = await TestCluster.start({ hosts, store: 'redis', coordinators: 2, coordinatorFlags: { lease: '3s' } });
    const machines = await populate(cluster, 'host-a', ['red', 'green'], 3);
    const observation = observe();
    const { id } = await drainHost(cluster, 'host-a', { options: { concurrency: 2 } });
    const drainOf = async () => (await cluster.drains.getDrain({ drainId: id }, { timeoutMs: 5000 })).drain!;
    await cluster.until('one has moved', async () => (await drainOf()).machinesMoved > 0);
    let driver = '';
    await cluster.until('somebody drives a move of it', async () => {
      const { migrations } = await cluster.migrations.listMigrations({ openOnly: true });
      driver = migrations.find(({ drainId, driver: by }) => drainId === id && by !== '')?.driver ?? '';
      return driver !== '';
    });
    const other = names.find((name) => name !== driver)!;
    cluster.ask(other);
    await cluster.kill(driver);
    const drain = await drainEnded(cluster, id, 200_000);
    expect(drain, told(drain)).toMatchObject({ state: DrainState.DONE, machinesMoved: 6, machinesParked: 0 });
    for (const { machineId, destination } of drain.machines) {
      expect(await owners(cluster, machineId, hosts)).toEqual([destination]);
      expect(await cluster.machine(machineId)).toMatchObject({ state: MachineState.STARTED, epoch: 2n });
    }
    const report = await observation.report();
    expect(twoDown(report, idsOf(machines))).toEqual([]);
    expect(doubles(report)).toEqual([]);
    await untilClean(cluster, hosts);
  },
);
