import { afterEach, describe, expect, test, vi } from 'vitest';
import { DrainMachineState, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { type Machine, MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationStep } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { toFerryError } from '../../shared/error.ts';
import { TestCluster } from '../harness/cluster.ts';
import { owners } from '../harness/crash.ts';
import { drainEnded, drainHost, idsOf, populate, told } from '../harness/drains.ts';
import { untilClean } from '../harness/leftovers.ts';
import { doubles, observe, twoDown } from '../harness/observe.ts';

// Real processes, many of them: on a busy machine they take their time.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

const hosts = ['host-a', 'host-b', 'host-c'];
const long = process.env.FERRY_TEST_LONG === '1';
const phases = long
  ? ['order', ...Object.keys(MigrationStep).filter((name) => /^[A-Z]+$/.test(name) && name !== 'UNSPECIFIED')]
  : ['order', 'PREPARE', 'PRECOPY', 'LOCK', 'STOP', 'FORK', 'START'];
const refusalOf = (asked: Promise<unknown>) =>
  asked.then(
    () => Promise.reject(new Error('was not refused')),
    (error: unknown) => toFerryError(error),
  );

let cluster: TestCluster;
afterEach(async () => cluster?.[Symbol.asyncDispose]());

const cordoned = async (hostId: string) => (await cluster.hosts.getHostStatus({ hostId })).host!.cordoned;
const drainOf = async (drainId: string) => (await cluster.drains.getDrain({ drainId })).drain!;

describe('a drain that cannot be', () => {
  let machines: Machine[];

  /** Nothing was begun: no drain, no cordon, the Machines run on undisturbed. */
  async function untouched(): Promise<void> {
    expect((await cluster.drains.listDrains({ openOnly: true })).drains).toEqual([]);
    expect((await cluster.migrations.listMigrations({})).migrations).toEqual([]);
    expect(await cordoned('host-a')).toBe(false);
    for (const { id, instanceId } of machines) {
      expect(await cluster.machine(id)).toMatchObject({ hostId: 'host-a', state: MachineState.STARTED, instanceId });
    }
    await untilClean(cluster, hosts);
  }

  test('of an unknown host, to an unknown host, to itself: refused, and what was wrong is named', async () => {
    cluster = await TestCluster.start({ hosts });
    machines = (await populate(cluster, 'host-a', ['red'], 2)).red!;
    expect(await refusalOf(drainHost(cluster, 'host-x'))).toMatchObject({ reason: 'unknown_host' });
    const elsewhere = await refusalOf(drainHost(cluster, 'host-a', { options: { to: ['host-x'] } }));
    expect(elsewhere).toMatchObject({ reason: 'unknown_host' });
    expect(elsewhere.message).toContain('host-x');
    const itself = await refusalOf(drainHost(cluster, 'host-a', { options: { to: ['host-a'] } }));
    expect(['same_host', 'invalid_argument', 'no_host']).toContain(itself.reason);
    expect(await refusalOf(drainOf('drn_01ARZ3NDEKTSV4RRFFQ69G5FAV'))).toMatchObject({ reason: 'unknown_drain' });
    await untouched();
  });

  test('with all other hosts cordoned: refused with the reason of each', async () => {
    cluster = await TestCluster.start({ hosts });
    machines = (await populate(cluster, 'host-a', ['red'], 2)).red!;
    for (const hostId of ['host-b', 'host-c']) await cluster.hosts.cordonHost({ hostId });
    const refusal = await refusalOf(drainHost(cluster, 'host-a'));
    expect(refusal).toMatchObject({ reason: 'no_host' });
    const words = `${refusal.message} ${JSON.stringify(refusal.facts)}`;
    expect(words).toMatch(/host-b.*cordoned/);
    expect(words).toMatch(/host-c.*cordoned/);
    const plan = await drainHost(cluster, 'host-a', { dryRun: true });
    expect(plan.blockers.length).toBeGreaterThan(0);
    expect(plan.machines[0]?.refusedHosts).toMatchObject({ 'host-b': expect.stringContaining('cordoned') });
    await untouched();

    // Partly: what has no place is parked, says why, and moves once there is one.
    const { id } = await drainHost(cluster, 'host-a', { options: { partial: true, attemptsMax: 1 } });
    const blocked = await drainEnded(cluster, id);
    expect(blocked, told(blocked)).toMatchObject({ state: DrainState.BLOCKED, machinesParked: 2 });
    expect(blocked.machines[0]?.reason).toContain('cordoned');
    expect(blocked.machines[0]?.nextAction).not.toBe('');
    await cluster.hosts.uncordonHost({ hostId: 'host-b' });
    await cluster.drains.resumeDrain({ drainId: id });
    await cluster.until('it is done', async () => (await drainOf(id)).state === DrainState.DONE);
    await untilClean(cluster, hosts);
  });

  test('to hosts without room: refused with the numbers', async () => {
    cluster = await TestCluster.start({ hosts, xfsMib: { 'host-b': 320, 'host-c': 320 } });
    const config = {
      init: { exec: ['/bin/sh', '-c', 'head -c 400000000 /dev/urandom > "$FERRY_VOLUME_PATH/data"; sync; sleep 1000'] },
      mounts: [{ path: '/data', sizeGb: 1, name: 'data' }],
    };
    machines = [await cluster.run(config, { host: 'host-a' })];
    await cluster.until('its data is there', async () => {
      const { volumes } = await cluster.volumes.listVolumes({ hostId: 'host-a' });
      return volumes.some(({ allocatedBytes }) => allocatedBytes > 390_000_000n);
    });
    const refusal = await refusalOf(drainHost(cluster, 'host-a'));
    expect(refusal).toMatchObject({ reason: 'no_host' });
    expect(`${refusal.message} ${JSON.stringify(refusal.facts)}`).toMatch(/host-b.*(MiB|MB|GiB|GB|bytes)/);
    await untouched();
  });
});

describe('a drain', () => {
  test('ordered twice at once is begun once; a second one is refused with the first', async () => {
    cluster = await TestCluster.start({ hosts });
    const machines = await populate(cluster, 'host-a', ['red'], 2, 500);
    const observation = observe();
    const both = await Promise.allSettled([drainHost(cluster, 'host-a'), drainHost(cluster, 'host-a')]);
    const begun = both.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []));
    const refused = both.flatMap((each) => (each.status === 'rejected' ? [toFerryError(each.reason)] : []));
    expect(begun).toHaveLength(1);
    expect(refused).toMatchObject([{ reason: 'drain_exists' }]);
    const { id } = begun[0]!;
    const third = await refusalOf(drainHost(cluster, 'host-a'));
    expect(third).toMatchObject({ reason: 'drain_exists' });
    expect(`${third.message} ${third.nextAction}`).toContain(id);
    const drain = await drainEnded(cluster, id);
    expect(drain, told(drain)).toMatchObject({ state: DrainState.DONE, machinesMoved: 2 });
    expect(await refusalOf(cluster.drains.cancelDrain({ drainId: id }))).toMatchObject({ reason: 'drain_ended' });
    expect(await refusalOf(cluster.drains.pauseDrain({ drainId: id }))).toMatchObject({ reason: 'drain_ended' });
    expect(twoDown(await observation.report(), idsOf(machines))).toEqual([]);
    await untilClean(cluster, hosts);
  });

  test('is paused: what is under way ends, nothing begins; then it goes on', async () => {
    cluster = await TestCluster.start({ hosts });
    await populate(cluster, 'host-a', ['red', 'green', 'blue', 'grey'], 1, 1000);
    const { id } = await drainHost(cluster, 'host-a', { options: { concurrency: 2 } });
    await cluster.until('a Machine moves', async () =>
      (await drainOf(id)).machines.some(({ state }) => state === DrainMachineState.MOVING),
    );
    await cluster.drains.pauseDrain({ drainId: id });
    await cluster.until('what was under way has ended', async () => {
      const drain = await drainOf(id);
      return (
        drain.state === DrainState.PAUSED && drain.machines.every(({ state }) => state !== DrainMachineState.MOVING)
      );
    });
    const paused = await drainOf(id);
    expect(paused.machinesMoved).toBeGreaterThan(0);
    expect(paused.machinesMoved).toBeLessThan(4);
    const { migrations } = await cluster.migrations.listMigrations({});
    expect(await cordoned('host-a')).toBe(true);
    // A coordinator that comes back does not take the pause off.
    await cluster.kill('coordinator');
    cluster.spawn('coordinator');
    await cluster.untilHostsAnswer();
    expect(await drainOf(id)).toMatchObject({ state: DrainState.PAUSED, machinesMoved: paused.machinesMoved });
    expect((await cluster.migrations.listMigrations({})).migrations).toHaveLength(migrations.length);
    await cluster.drains.resumeDrain({ drainId: id });
    expect(await drainEnded(cluster, id)).toMatchObject({ state: DrainState.DONE, machinesMoved: 4 });
    await untilClean(cluster, hosts);
  });

  test('goes on where it was when its coordinator is killed', async () => {
    cluster = await TestCluster.start({ hosts });
    const machines = await populate(cluster, 'host-a', ['red', 'green'], 2, 500);
    const observation = observe();
    const { id } = await drainHost(cluster, 'host-a', { options: { concurrency: 3 } });
    for (const moved of [1, 2]) {
      await cluster.until(`${moved} have moved`, async () => (await drainOf(id)).machinesMoved >= moved);
      await cluster.kill('coordinator');
      cluster.spawn('coordinator');
      await cluster.untilHostsAnswer();
    }
    const drain = await drainEnded(cluster, id);
    expect(drain, told(drain)).toMatchObject({ state: DrainState.DONE, machinesMoved: 4, machinesParked: 0 });
    for (const each of drain.machines) {
      expect(await owners(cluster, each.machineId, hosts)).toEqual([each.destination]);
    }
    const report = await observation.report();
    expect(twoDown(report, idsOf(machines))).toEqual([]);
    expect(doubles(report)).toEqual([]);
    await untilClean(cluster, hosts);
  });

  test('is cancelled in each phase: it says how it ended, every Machine runs at one host, nothing is left', async () => {
    cluster = await TestCluster.start({ hosts });
    const [machine] = (await populate(cluster, 'host-a', ['red'], 1, 500)).red!;
    const machineId = machine!.id;
    const observation = observe();
    const cancelled: string[] = [];
    for (const phase of phases) {
      const { hostId: from } = await cluster.machine(machineId);
      const { id } = await drainHost(cluster, from);
      await cluster.until(`the Machine is in ${phase}`, async () => {
        const [each] = (await drainOf(id)).machines;
        const step = MigrationStep[phase as keyof typeof MigrationStep];
        return phase === 'order' || each!.state === DrainMachineState.MOVED || each!.step === step;
      });
      const refusal = await cluster.drains.cancelDrain({ drainId: id, uncordon: true }).then(() => null, toFerryError);
      // It may have ended before the order arrived.
      if (refusal !== null) expect(refusal).toMatchObject({ reason: 'drain_ended' });
      const drain = await drainEnded(cluster, id);
      expect([DrainState.CANCELLED, DrainState.DONE], `${phase}: ${told(drain)}`).toContain(drain.state);
      expect(drain.message).not.toBe('');
      await untilClean(cluster, hosts);
      const { hostId, state } = await cluster.machine(machineId);
      expect(state, phase).toBe(MachineState.STARTED);
      expect(await owners(cluster, machineId, hosts)).toEqual([hostId]);
      if (drain.state === DrainState.CANCELLED) {
        expect(await cordoned(from), phase).toBe(false);
        cancelled.push(hostId === from ? phase : `${phase} (moved)`);
      } else await cluster.hosts.uncordonHost({ hostId: from });
    }
    console.log(`cancelled in ${cancelled.join(', ')}`);
    // These last long enough to be met on any machine.
    expect(cancelled).toEqual(expect.arrayContaining(['order', 'STOP']));
    expect(doubles(await observation.report())).toEqual([]);
  });
});
