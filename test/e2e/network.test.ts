import { rmSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationState, MigrationStep } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { toFerryError } from '../../shared/error.ts';
import { TestCluster } from '../harness/cluster.ts';
import { handoverAt, untilFree } from '../harness/drive.ts';
import { listenerConfig } from '../harness/listener.ts';
import { allDown, doubles, observe } from '../harness/observe.ts';

const hosts = ['host-a', 'host-b', 'host-c'];
/** Runs until its signal comes, and takes a second to end: time in which another could be stopped too. */
const slow = listenerConfig({ stopMs: 1000 });
const withVolume = { ...slow, mounts: [{ path: '/data', sizeGb: 1, name: 'data' }] };

let cluster: TestCluster;
afterEach(async () => cluster?.[Symbol.asyncDispose]());

describe('two Machines of one network', () => {
  test('migrated at once from two hosts are never down at the same time', async () => {
    cluster = await TestCluster.start({ hosts });
    const one = await cluster.run(withVolume, { host: 'host-a' });
    const two = await cluster.run(slow, { host: 'host-b' });
    const observation = observe();
    const ids = await Promise.all([cluster.migrate(one.id, 'host-b'), cluster.migrate(two.id, 'host-a')]);
    const ended = await Promise.all(ids.map((id) => cluster.ended(id)));
    for (const migration of ended) expect(migration).toMatchObject({ state: MigrationState.MOVED, failure: '' });
    expect(await cluster.machine(one.id)).toMatchObject({ hostId: 'host-b', state: MachineState.STARTED });
    expect(await cluster.machine(two.id)).toMatchObject({ hostId: 'host-a', state: MachineState.STARTED });
    const report = await observation.report();
    expect(allDown(report, [one.id, two.id])).toEqual([]);
    expect(doubles(report)).toEqual([]);
    await untilFree(cluster, hosts);
  });

  test('are not both down either when the store is wiped in between: the permits of the hosts hold', async () => {
    cluster = await TestCluster.start({ hosts, agentFlags: { 'driver-silence': '5s' } });
    const one = await cluster.run(withVolume, { host: 'host-a' });
    const two = await cluster.run(slow, { host: 'host-b' });
    const observation = observe();
    const first = await cluster.migrate(one.id, 'host-c');
    await cluster.until('the first is being stopped', async () => {
      const { step } = (await handoverAt(cluster, 'host-a', first))!;
      return step === 'stopping' || step === 'stopped';
    });
    await cluster.kill('coordinator');
    rmSync(cluster.dataDir('coordinator'), { recursive: true });
    cluster.spawn('coordinator');
    await cluster.untilHostsAnswer();
    // Heartbeats have rebuilt the directory; the migration under way is unknown to the new store.
    expect((await cluster.machine(two.id)).hostId).toBe('host-b');
    // Nothing new is claimed until all that the agents know is known again: the migration under way, too.
    let second = '';
    await cluster.until('the store is rebuilt', async () => {
      second = await cluster.migrate(two.id, 'host-c').catch((error: unknown) => {
        expect(toFerryError(error).reason).toBe('rebuilding');
        return '';
      });
      return second !== '';
    });
    expect(await cluster.migration(first)).toMatchObject({ id: first, machineId: one.id });
    const ended = await cluster.ended(second);
    expect(ended).toMatchObject({ state: MigrationState.MOVED });
    await cluster.until('the first Machine runs where it is owned', async () => {
      const { hostId, state } = await cluster.machine(one.id);
      const owner = (await handoverAt(cluster, 'host-a', first))?.step === 'aborted' ? 'host-a' : 'host-c';
      return hostId === owner && state === MachineState.STARTED;
    });
    const report = await observation.report();
    expect(allDown(report, [one.id, two.id])).toEqual([]);
    expect(doubles(report)).toEqual([]);
    await untilFree(cluster, hosts);
  });

  test('wait for a host of the network that does not answer, say so, and go on when an operator overrides it', async () => {
    cluster = await TestCluster.start({ hosts });
    const one = await cluster.run(slow, { host: 'host-a' });
    const two = await cluster.run(slow, { host: 'host-c' });
    const observation = observe();
    const frozen = cluster.pid('host-c');
    process.kill(frozen, 'SIGSTOP');
    try {
      const migrationId = await cluster.migrate(one.id, 'host-b');
      await cluster.until('it waits for host-c', async () => {
        const { waitingFor, step } = await cluster.migration(migrationId);
        return step === MigrationStep.LOCK && waitingFor.includes('host host-c has not answered since');
      });
      expect((await cluster.migration(migrationId)).waitingFor).toContain('override the host for this migration');
      const { machine } = await cluster.agent('host-a').agentGetMachine({ machineId: one.id });
      expect(machine).toMatchObject({ state: MachineState.STARTED, instanceId: one.instanceId });
      await cluster.migrations.overrideHost({ migrationId, hostId: 'host-c' });
      expect(await cluster.ended(migrationId)).toMatchObject({ state: MigrationState.MOVED });
    } finally {
      process.kill(frozen, 'SIGCONT');
    }
    await cluster.untilHostsAnswer();
    expect(await cluster.machine(one.id)).toMatchObject({ hostId: 'host-b', state: MachineState.STARTED });
    expect(await cluster.machine(two.id)).toMatchObject({ hostId: 'host-c', instanceId: two.instanceId });
    const report = await observation.report();
    expect(allDown(report, [one.id, two.id])).toEqual([]);
    await untilFree(cluster, hosts);
  });
});
