import { afterEach, describe, expect, test } from 'vitest';
import { MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { VolumeState } from '../../proto/gen/ferry/v1/volume_pb.ts';
import { toFerryError } from '../../shared/error.ts';
import { TestCluster } from '../harness/cluster.ts';
import { owners } from '../harness/crash.ts';
import { Drive, untilFree, untilRuns } from '../harness/drive.ts';
import { LedgerLoad } from '../harness/ledger.ts';
import { doubles, observe } from '../harness/observe.ts';

const sleeper = { init: { exec: ['/bin/sh', '-c', 'trap "exit 0" INT; while :; do sleep 0.1; done'] } };
const keeper = { ...sleeper, mounts: [{ path: '/data', sizeGb: 1, name: 'data' }] };
/** Short, so that a test does not take minutes; the order of what happens does not depend on them. */
const agentFlags = { 'driver-silence': '3s', 'prepared-expiry': '6s' };

const reasonOf = (promise: Promise<unknown>) =>
  promise.then(
    () => 'done',
    (error) => toFerryError(error).reason,
  );

let cluster: TestCluster;
afterEach(async () => cluster?.[Symbol.asyncDispose]());

describe('a coordinator that never comes back', () => {
  test('after STOPPED: the source aborts by itself, and the Machine runs there again with its data', async () => {
    cluster = await TestCluster.start({ agentFlags });
    const load = await LedgerLoad.start(cluster, 'host-a');
    const { id } = load.machine;
    await cluster.kill('coordinator');
    const observation = observe();
    const drive = new Drive(cluster, load.machine);
    await drive.untilStopped();
    await drive.copy();
    expect(await drive.at('host-a')).toMatchObject({ step: 'stopped', standing: 'active' });
    await untilRuns(cluster, 'host-a', id);
    expect(await drive.at('host-a')).toMatchObject({
      step: 'aborted',
      epoch: 3n,
      reason: 'no driver was heard while the Machine was stopped',
    });
    // Nobody tells the destination: its copy ends by itself too, and its ID is burnt.
    await cluster.until('the copy expires', async () => (await drive.at('host-b'))?.step === 'declined');
    await cluster.until(
      'its room is free',
      async () => (await cluster.agent('host-b').agentListVolumes({})).volumes.length === 0,
    );
    expect(await owners(cluster, id)).toEqual(['host-a']);
    expect(doubles(await observation.report())).toEqual([]);
    // One that comes back after all finds the permits of the migration that it never knew, and returns them.
    cluster.spawn('coordinator');
    await cluster.untilHostsAnswer();
    await load.more(20);
    expect(await load.verdict()).toMatchObject({ lost: 0, problems: [] });
    await untilFree(cluster);
  });

  test('after RELINQUISHED: the destination gets the ticket from the source, owns and starts it', async () => {
    cluster = await TestCluster.start({ agentFlags });
    const load = await LedgerLoad.start(cluster, 'host-a');
    const { id } = load.machine;
    await cluster.kill('coordinator');
    const observation = observe();
    const drive = new Drive(cluster, load.machine);
    await drive.untilStopped();
    await drive.copy();
    await drive.relinquish();
    await untilRuns(cluster, 'host-b', id);
    await cluster.until('the source has settled', async () => (await drive.at('host-a'))?.step === 'tombstoned');
    expect(await drive.at('host-b')).toMatchObject({ step: 'owner', epoch: 2n, root: drive.root });
    expect(await owners(cluster, id)).toEqual(['host-b']);
    const { volumes } = await cluster.agent('host-a').agentListVolumes({});
    expect(volumes).toMatchObject([{ id: load.machine.volumeId, state: VolumeState.PENDING_DESTROY }]);
    expect(doubles(await observation.report())).toEqual([]);
    cluster.spawn('coordinator');
    await cluster.untilHostsAnswer();
    await load.more(20);
    expect(await load.verdict()).toMatchObject({ lost: 0, problems: [] });
    await untilFree(cluster);
  });

  test('after PREPARED: the copy expires, its room is free, and the Machine never stopped', async () => {
    cluster = await TestCluster.start({ agentFlags });
    const machine = await cluster.run(keeper, { host: 'host-a' });
    await cluster.kill('coordinator');
    const drive = new Drive(cluster, machine);
    const { volumeId } = await drive.prepare();
    const { volumes } = await cluster.agent('host-b').agentListVolumes({});
    expect(volumes).toMatchObject([{ id: volumeId, state: VolumeState.RECEIVING }]);
    await cluster.until('both sides have ended it', async () => {
      const [a, b] = await Promise.all(['host-a', 'host-b'].map((host) => drive.at(host)));
      return a?.step === 'aborted' && b?.step === 'declined';
    });
    await cluster.until(
      'its room is free',
      async () => (await cluster.agent('host-b').agentListVolumes({})).volumes.length === 0,
    );
    const { machine: now } = await cluster.agent('host-a').agentGetMachine({ machineId: machine.id });
    expect(now).toMatchObject({ instanceId: machine.instanceId, state: MachineState.STARTED, epoch: 1n });
    expect(await reasonOf(drive.prepare())).toBe('burnt');
  });
});

describe('orders', () => {
  test('of an earlier driver are refused, repeated ones answer the same, and an ended ID is never used again', async () => {
    cluster = await TestCluster.start();
    const machine = await cluster.run(sleeper, { host: 'host-a' });
    await cluster.kill('coordinator');

    const first = new Drive(cluster, machine);
    await first.prepare();
    first.raiseTerm();
    await first.prepare();
    await first.permits();
    const { staleHeader: header } = first;
    const { id: machineId } = machine;
    expect(await reasonOf(first.from.stopForMigration({ header }))).toBe('stale_term');
    expect(await reasonOf(first.from.abort({ header, machineId, reason: 'stale' }))).toBe('stale_term');
    const wrongFence = { ...first.header, fence: 0n };
    expect(await reasonOf(first.from.stopForMigration({ header: wrongFence }))).toBe('stale_fence');
    await first.stop();
    await first.stop();
    expect(await reasonOf(first.to.copy({ header }))).toBe('stale_term');
    await first.copy();
    expect(await reasonOf(first.from.relinquish({ header, destinationRoot: first.root }))).toBe('stale_term');
    expect(await reasonOf(first.from.relinquish({ header: first.header, destinationRoot: '0'.repeat(64) }))).toBe(
      'root_mismatch',
    );
    const given = await first.relinquish();
    const again = await first.relinquish();
    expect(again.statement).toEqual(given.statement);
    expect(again.record).toEqual(given.record);
    expect(await first.accept(given.statement!, given.record)).toMatchObject({ step: 'owner', epoch: 2n });
    expect(await first.accept(given.statement!, given.record)).toMatchObject({ step: 'owner', epoch: 2n });
    await untilRuns(cluster, 'host-b', machineId);
    expect(await reasonOf(first.from.abort({ header: first.header, machineId, reason: 'late' }))).toBe('too_late');
    expect(await reasonOf(first.decline())).toBe('too_late');

    const second = new Drive(cluster, machine, { source: 'host-b', destination: 'host-a' });
    await second.prepare();
    await second.from.abort({ header: second.header, machineId, reason: 'changed my mind' });
    expect(await reasonOf(second.offer())).toBe('burnt');
    expect(await second.decline(3n, (await second.at('host-a'))!.volumeId)).toMatchObject({ step: 'declined' });
    expect(await reasonOf(second.to.copy({ header: second.header }))).toBe('burnt');
    // An ID is also burnt where nobody ever heard of it.
    const third = new Drive(cluster, machine, { source: 'host-b', destination: 'host-a' });
    await third.from.abort({ header: third.header, machineId, reason: 'never began' });
    expect(await reasonOf(third.prepare())).toBe('burnt');
    expect(await owners(cluster, machineId)).toEqual(['host-b']);
  });

  test('between RELINQUISHED and OWNER a durable decline brings the Machine back, at epoch e + 2', async () => {
    cluster = await TestCluster.start();
    const load = await LedgerLoad.start(cluster, 'host-a');
    const { id } = load.machine;
    await cluster.kill('coordinator');
    const observation = observe();
    const drive = new Drive(cluster, load.machine);
    const { volumeId } = await drive.prepare();
    await drive.permits();
    await drive.stop();
    await drive.copy();
    // The ticket cannot arrive: first the destination is away, then the source is frozen.
    await cluster.kill('host-b');
    const given = await drive.relinquish();
    process.kill(cluster.pid('host-a'), 'SIGSTOP');
    cluster.spawn('host-b');
    await cluster.until('host-b answers', async () => (await drive.at('host-b'))?.step === 'verified');
    expect(await drive.decline(2n, volumeId)).toMatchObject({ step: 'declined', standing: 'over' });
    await cluster.kill('host-b');
    cluster.spawn('host-b');
    process.kill(cluster.pid('host-a'), 'SIGCONT');
    await untilRuns(cluster, 'host-a', id);
    expect(await drive.at('host-a')).toMatchObject({ step: 'returned', epoch: 3n });
    // The ticket is worth nothing now, whoever carries it.
    await cluster.until('host-b answers', async () => (await drive.at('host-b'))?.step === 'declined');
    expect(await drive.accept(given.statement!, given.record)).toMatchObject({ step: 'declined' });
    expect(await owners(cluster, id)).toEqual(['host-a']);
    expect(doubles(await observation.report())).toEqual([]);
    cluster.spawn('coordinator');
    await cluster.untilHostsAnswer();
    await load.more(20);
    expect(await load.verdict()).toMatchObject({ lost: 0, problems: [] });
    await untilFree(cluster);
  });
});
