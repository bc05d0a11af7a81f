import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationState, MigrationStep } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { toFerryError } from '../../shared/error.ts';
import { TestCluster } from '../harness/cluster.ts';
import { untilStep } from '../harness/crash.ts';
import { clearDisk, fillDisk, freeBytes, mountSmallDisk, smallDisksMissing } from '../harness/disk.ts';
import { Drive, untilFree } from '../harness/drive.ts';
import { LedgerLoad } from '../harness/ledger.ts';
import { listenerConfig } from '../harness/listener.ts';

const missing = smallDisksMissing();
const diskMib = 2048;

const failureOf = (promise: Promise<unknown>) =>
  promise.then(
    () => Promise.reject(new Error('was not refused')),
    (error: unknown) => toFerryError(error),
  );

let cluster: TestCluster;
let disk: string;
const startWithSmall = async (host: string) => {
  cluster = await TestCluster.start({ prepare: (dir) => mountSmallDisk(join(dir, host), diskMib) });
  disk = cluster.dataDir(host);
};
afterEach(async () => cluster?.[Symbol.asyncDispose]());

describe.skipIf(missing !== null)(`the destination's disk${missing === null ? '' : ` (${missing})`}`, () => {
  beforeEach(() => startWithSmall('host-b'));

  test('too small from the start: refused with the numbers, and the Machine never stops', async () => {
    const load = await LedgerLoad.start(cluster, 'host-a', { fillMib: 192 });
    const { id, instanceId } = load.machine;
    fillDisk(disk, 100);
    await cluster.until('the coordinator knows', async () => {
      const { host } = await cluster.hosts.getHostStatus({ hostId: 'host-b' });
      return Number(host!.capacity!.volumeFreeBytes) < 200 * 2 ** 20;
    });
    const early = await failureOf(cluster.migrate(id, 'host-b'));
    expect(early).toMatchObject({ reason: 'no_space', field: 'destination', facts: { host: 'host-b' } });
    expect(early.message).toMatch(/\d+ MiB left for volumes, \d+ MiB and 64 MiB to spare are needed/);

    // A coordinator that does not know yet is told by the host itself.
    const drive = new Drive(cluster, load.machine);
    const late = await failureOf(drive.prepare());
    expect(late).toMatchObject({ reason: 'no_space', facts: { host: 'host-b' } });
    expect(Number(late.facts.needed)).toBeGreaterThan(Number(late.facts.free));
    expect(Number(late.facts.needed)).toBeGreaterThan(192 * 2 ** 20);
    expect((await cluster.agent('host-b').agentListVolumes({})).volumes).toEqual([]);
    expect((await cluster.handover('host-b').listHandovers({})).handovers).toEqual([]);
    await load.more(20);
    expect(await cluster.machine(id)).toMatchObject({ instanceId, state: MachineState.STARTED, hostId: 'host-a' });
    expect(await load.verdict()).toMatchObject({ lost: 0, problems: [] });
  });

  test('filled up in mid-copy: the Machine is back at its source with all its data, and the copy is freed', async () => {
    const load = await LedgerLoad.start(cluster, 'host-a', { fillMib: 192 });
    const { id } = load.machine;
    // Slow enough that there is a middle.
    const limits = { sendBytesPerSecond: 32n * 2n ** 20n, receiveBytesPerSecond: 0n };
    await cluster.hosts.setCopyLimitsOfHost({ hostId: 'host-a', limits });
    const migrationId = await cluster.migrate(id, 'host-b');
    await untilStep(cluster, migrationId, MigrationStep.PRECOPY);
    fillDisk(disk, 60);
    const migration = await cluster.ended(migrationId);
    expect(migration).toMatchObject({ state: MigrationState.MOVED_BACK, failure: 'no_space' });
    expect(migration.reason).toContain('host-b');
    expect(migration.nextAction).not.toBe('');
    await load.more(20);
    expect(await cluster.machine(id)).toMatchObject({ state: MachineState.STARTED, hostId: 'host-a' });
    expect(await load.verdict()).toMatchObject({ lost: 0, problems: [] });
    await untilFree(cluster);
    await cluster.until(
      'its room is free',
      async () => (await cluster.agent('host-b').agentListVolumes({})).volumes.length === 0,
    );
    expect(freeBytes(disk)).toBeGreaterThan(40 * 2 ** 20);
    // With room the same move succeeds.
    clearDisk(disk);
    await cluster.until('the coordinator knows', async () => {
      const { host } = await cluster.hosts.getHostStatus({ hostId: 'host-b' });
      return Number(host!.capacity!.volumeFreeBytes) > 2 ** 30;
    });
    const { migration: again } = await cluster.migrations.retryMigration({ migrationId });
    expect(await cluster.ended(again!.id)).toMatchObject({ state: MigrationState.MOVED });
  });
});

describe.skipIf(missing !== null)(`the source's disk${missing === null ? '' : ` (${missing})`}`, () => {
  beforeEach(() => startWithSmall('host-a'));

  test('full: its agent starts, and the Machine can be moved off', async () => {
    const write =
      "require('fs').writeFileSync(process.env.FERRY_VOLUME_PATH + '/file', 'precious\\n', { flush: true });";
    const machine = await cluster.run(
      {
        ...listenerConfig({ first: write }),
        mounts: [{ path: '/data', sizeGb: 1, name: 'data' }],
      },
      { host: 'host-a' },
    );
    const [pid] = cluster.processes();
    await cluster.kill('host-a');
    fillDisk(disk, 0);
    expect(freeBytes(disk)).toBe(0);
    cluster.spawn('host-a');
    await cluster.untilHostsAnswer();
    expect(cluster.processes()).toContain(pid);
    await cluster.until(
      'the Machine is adopted',
      async () => (await cluster.machine(machine.id)).state === MachineState.STARTED,
      10_000,
    );
    const migration = await cluster.ended(await cluster.migrate(machine.id, 'host-b'));
    expect(migration).toMatchObject({ state: MigrationState.MOVED, settled: true });
    expect(migration.sourceRoot).toBe(migration.destinationRoot);
    const { machine: moved } = await cluster.agent('host-b').agentGetMachine({ machineId: machine.id });
    expect(moved).toMatchObject({ state: MachineState.STARTED, epoch: 2n });
    expect(readFileSync(join(cluster.dataDir('host-b'), 'mnt', moved!.volumeId, 'file'), 'utf8')).toBe('precious\n');
  });
});
