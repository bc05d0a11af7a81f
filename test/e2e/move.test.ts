import { afterEach, describe, expect, test } from 'vitest';
import { DesiredState, MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { VolumeState } from '../../proto/gen/ferry/v1/volume_pb.ts';
import { TestCluster } from '../harness/cluster.ts';
import { listenerConfig } from '../harness/listener.ts';
import { doubles, observe } from '../harness/observe.ts';

const sleeper = { init: { exec: ['/bin/sh', '-c', 'trap "exit 0" INT; echo up; while :; do sleep 0.1; done'] } };
/** Notes each of its starts on its volume, and prints them all. */
const writer = {
  ...listenerConfig({
    first: `
      const { FERRY_VOLUME_KIND, FERRY_VOLUME_PATH, FERRY_INSTANCE_ID } = process.env;
      if (FERRY_VOLUME_KIND === 'ext4') {
        const { appendFileSync, readFileSync } = require('fs');
        appendFileSync(FERRY_VOLUME_PATH + '/starts', FERRY_INSTANCE_ID + '\\n');
        process.stdout.write(readFileSync(FERRY_VOLUME_PATH + '/starts'));
      }`,
  }),
  mounts: [{ path: '/data', sizeGb: 1, name: 'data' }],
};

let cluster: TestCluster;
afterEach(async () => cluster?.[Symbol.asyncDispose]());

describe('a Machine moves', () => {
  test('without a volume, under its ID, and never runs twice', async () => {
    cluster = await TestCluster.start();
    const { id } = await cluster.run(sleeper, { host: 'host-a' });
    const observation = observe();
    const migration = await cluster.ended(await cluster.migrate(id, 'host-b'));
    expect(migration).toMatchObject({ state: MigrationState.MOVED, settled: true, failure: '' });
    const machine = await cluster.machine(id);
    expect(machine).toMatchObject({ id, hostId: 'host-b', state: MachineState.STARTED, epoch: 2n });
    expect(machine.events.filter((event) => event.migration?.migrated)).toHaveLength(1);
    expect(migration.downtime?.totalMs).toBeGreaterThan(0n);
    const report = await observation.report();
    expect(doubles(report)).toEqual([]);
    expect(report.samples).toBeGreaterThan(10);
    expect((await cluster.locks.listLocks({})).locks).toEqual([]);
    for (const host of ['host-a', 'host-b']) expect((await cluster.handover(host).listPermits({})).permits).toEqual([]);
  });

  test('with its volume, there and back, and keeps what it wrote', async () => {
    cluster = await TestCluster.start();
    const first = await cluster.run(writer, { host: 'host-a' });
    const there = await cluster.ended(await cluster.migrate(first.id, 'host-b'));
    expect(there.sourceRoot).toMatch(/^[0-9a-f]{64}$/);
    expect(there.destinationRoot).toBe(there.sourceRoot);
    const moved = await cluster.machine(first.id);
    expect(moved.volumeId).not.toBe(first.volumeId);
    const { volumes } = await cluster.volumes.listVolumes({});
    const kept = volumes.find((volume) => volume.id === first.volumeId);
    expect(kept).toMatchObject({ state: VolumeState.PENDING_DESTROY, hostId: 'host-a', root: there.sourceRoot });
    expect(kept?.destroyAt).toBeDefined();
    const back = await cluster.ended(await cluster.migrate(first.id, 'host-a'));
    expect(back.state).toBe(MigrationState.MOVED);
    const home = await cluster.machine(first.id);
    expect(home).toMatchObject({ hostId: 'host-a', epoch: 3n, state: MachineState.STARTED });
    if (process.getuid?.() === 0) {
      const lines: string[] = [];
      for await (const { line } of cluster.machines.machineLogs({ machineId: first.id, tailLines: 3 }))
        lines.push(line);
      // All three starts are in the file on the volume, the newest last.
      expect(lines).toHaveLength(3);
      expect(lines.at(-1)).toBe(home.instanceId);
      expect(lines[0]).toBe(first.instanceId);
    }
  });

  test('stopped, and stays stopped', async () => {
    cluster = await TestCluster.start();
    const { id } = await cluster.run(writer, { host: 'host-a' });
    await cluster.machines.stopMachine({ machineId: id }, { timeoutMs: 20_000 });
    await cluster.until('it is stopped', async () => (await cluster.machine(id)).state === MachineState.STOPPED);
    const migration = await cluster.ended(await cluster.migrate(id, 'host-b'));
    expect(migration.state).toBe(MigrationState.MOVED);
    const machine = await cluster.machine(id);
    expect(machine).toMatchObject({ hostId: 'host-b', desiredState: DesiredState.STOPPED });
    expect(cluster.processes()).toEqual([]);
    await cluster.machines.startMachine({ machineId: id }, { timeoutMs: 20_000 });
    await cluster.until('it runs', async () => (await cluster.machine(id)).state === MachineState.STARTED);
  });
});
