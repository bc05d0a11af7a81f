import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { type Drain, DrainMachineState, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MoveReason } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { TestCluster } from '../harness/cluster.ts';
import { drainEnded, drainHost, idsOf, populate, told } from '../harness/drains.ts';
import { untilClean } from '../harness/leftovers.ts';
import { doubles, networksDownAtOnce, observe, twoDown } from '../harness/observe.ts';

// Real processes, many of them: on a busy machine they take their time.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

const hosts = ['host-a', 'host-b', 'host-c', 'host-d'];
const networks = ['red', 'green', 'blue', 'grey'];
const limit = 3;
const long = process.env.FERRY_TEST_LONG === '1';
const by = { reason: MoveReason.MAINTENANCE, orderedBy: 'ada' };

let cluster: TestCluster;
afterEach(async () => cluster?.[Symbol.asyncDispose]());

const inState = (drain: Drain, state: DrainMachineState) => drain.machines.filter((each) => each.state === state);

describe('a host with 12 Machines on 4 networks is drained, 3 at a time', () => {
  test('it ends up cordoned and empty; networks in parallel, within one network one after the other', async () => {
    cluster = await TestCluster.start({ hosts });
    const machines = await populate(cluster, 'host-a', networks, 3);

    const plan = await drainHost(cluster, 'host-a', { dryRun: true, options: { concurrency: limit }, ...by });
    expect(plan).toMatchObject({ id: '', machinesTotal: 12, machinesParked: 0, blockers: [] });
    for (const each of plan.machines) {
      expect(['host-b', 'host-c', 'host-d']).toContain(each.destination);
      expect(each.predictedDowntimeMs).toBeGreaterThan(0n);
    }
    expect(plan.predictedTotalMs).toBeGreaterThan(0n);
    expect((await cluster.hosts.getHostStatus({ hostId: 'host-a' })).host?.cordoned).toBe(false);
    expect((await cluster.drains.listDrains({})).drains).toEqual([]);

    const observation = observe();
    const begun = await drainHost(cluster, 'host-a', { options: { concurrency: limit }, ...by });
    expect(begun.id).toMatch(/^drn_/);
    const moving: number[] = [];
    for await (const { drain } of cluster.drains.watchDrain({ drainId: begun.id }, { timeoutMs: 90_000 })) {
      moving.push(inState(drain!, DrainMachineState.MOVING).length);
    }
    const drain = await drainEnded(cluster, begun.id);
    console.log(told(drain));
    expect(drain).toMatchObject({ state: DrainState.DONE, machinesMoved: 12, machinesParked: 0, orderedBy: 'ada' });
    expect(Math.max(...moving)).toBeGreaterThan(1);
    expect(Math.max(...moving)).toBeLessThanOrEqual(limit);

    const report = await observation.report();
    expect(twoDown(report, idsOf(machines))).toEqual([]);
    expect(doubles(report)).toEqual([]);
    expect(networksDownAtOnce(report, idsOf(machines))).toBeGreaterThan(1);

    const { host, machines: left } = await cluster.hosts.getHostStatus({ hostId: 'host-a' });
    expect(host).toMatchObject({ cordoned: true, machineCount: 0 });
    expect(left).toEqual([]);
    for (const each of drain.machines) {
      // Predicted and happened, side by side.
      expect(each.predictedDowntimeMs).toBeGreaterThan(0n);
      expect(each.downtime?.totalMs).toBeGreaterThan(0n);
      expect(each.copyMs).toBeDefined();
      expect(each.waitMs).toBeDefined();
      const machine = await cluster.machine(each.machineId);
      expect(machine).toMatchObject({ hostId: each.destination, state: MachineState.STARTED, epoch: 2n });
      const launch = machine.events.findLast(({ migration }) => migration?.migrated);
      expect(launch?.migration).toMatchObject({ moveReason: 'maintenance', orderedBy: 'ada', drainId: drain.id });
    }
    await untilClean(cluster, hosts);
  });

  test('all at once, one that runs nowhere any more: it is parked, its network is reported, the rest moves', async () => {
    cluster = await TestCluster.start({ hosts, coordinatorFlags: { 'start-deadline': '10s' } });
    const whole = await populate(cluster, 'host-a', ['red', 'green', 'blue'], 2);
    // A second one of the blocked network is waited for, for a minute.
    const machines = { ...whole, ...(await populate(cluster, 'host-a', ['grey'], long ? 2 : 1)) };
    const ids = idsOf(machines);
    const observation = observe();
    const bad = machines.grey![0]!;
    writeFileSync(join(cluster.dir, `refuse.${bad.id}`), '');
    const { id } = await drainHost(cluster, 'host-a', { options: { concurrency: 8, attemptsMax: 1 }, ...by });
    const drain = await drainEnded(cluster, id, 120_000);
    expect(drain, told(drain)).toMatchObject({ state: DrainState.BLOCKED, blockedNetworks: ['grey'] });
    const parked = drain.machines.find(({ machineId }) => machineId === bad.id);
    expect(parked).toMatchObject({ state: DrainMachineState.PARKED, networkBlocked: true });
    expect(parked?.reason).toContain('exit code 1');
    expect(parked?.nextAction).not.toBe('');
    for (const each of drain.machines.filter(({ network }) => network !== 'grey')) {
      expect(each, told(drain)).toMatchObject({ state: DrainMachineState.MOVED });
      expect(await cluster.machine(each.machineId)).toMatchObject({ state: MachineState.STARTED });
    }
    expect(twoDown(await observation.report(), ids)).toEqual([]);

    // Repaired, and told to go on: the host is emptied after all.
    rmSync(join(cluster.dir, `refuse.${bad.id}`));
    await cluster.drains.resumeDrain({ drainId: id });
    await cluster.until('the drain is done', async () => {
      const now = (await cluster.drains.getDrain({ drainId: id })).drain!;
      return now.state === DrainState.DONE;
    });
    expect((await cluster.hosts.getHostStatus({ hostId: 'host-a' })).host?.machineCount).toBe(0);
    expect(await cluster.machine(bad.id)).toMatchObject({ state: MachineState.STARTED });
    await untilClean(cluster, hosts);
  });
});
