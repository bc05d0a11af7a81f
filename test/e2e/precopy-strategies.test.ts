import { execFileSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest';
import { type Migration, MigrationState, MigrationStep } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { TestCluster } from '../harness/cluster.ts';
import { fillDisk, xfsMissing } from '../harness/disk.ts';
import { untilClean } from '../harness/leftovers.ts';
import { doubles, observe } from '../harness/observe.ts';
import { WriterLoad, type WriterOptions } from '../harness/writer-load.ts';

// Real processes, many of them: on a busy machine they take their time.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

const missing = xfsMissing();
const hosts = ['host-a', 'host-b'];
const mib = 2 ** 20;
const long = process.env.FERRY_TEST_LONG === '1';
/** Above 20,000 no snapshot is taken. */
const pieces = long ? 50_000 : 22_000;

let cluster: TestCluster;
let diskMib = 0;
let machineId = '';
afterEach(async () => {
  await limitCopies(0);
  await cluster.machines.destroyMachine({ machineId, force: true }, { timeoutMs: 30_000 });
});
afterAll(async () => cluster?.[Symbol.asyncDispose]());

/** Runs a writer on host-a, in the cluster of the test before if its disk is as large. */
const start = async (writer: Omit<WriterOptions, 'host'>, sizeMib = 3072) => {
  if (sizeMib !== diskMib) {
    await cluster?.[Symbol.asyncDispose]();
    cluster = await TestCluster.start({ xfsMib: { 'host-a': sizeMib, 'host-b': 3072 } });
    diskMib = sizeMib;
  }
  const load = await WriterLoad.start(cluster, { host: 'host-a', ...writer });
  machineId = load.machine.id;
  return load;
};
const limitCopies = (bytesPerSecond: number) =>
  cluster.hosts.setCopyLimitsOfHost({
    hostId: 'host-a',
    limits: { sendBytesPerSecond: BigInt(bytesPerSecond), receiveBytesPerSecond: 0n },
  });

/** Waits for the end of a move, and that nothing is lost by it. */
async function endsWell(load: WriterLoad, migrationId: string): Promise<Migration> {
  const observation = observe();
  const migration = await cluster.ended(migrationId);
  expect(migration, migration.reason).toMatchObject({ state: MigrationState.MOVED, settled: true });
  expect(migration.destinationRoot).toBe(migration.sourceRoot);
  await load.more(20);
  expect(await load.missing()).toEqual([]);
  expect(doubles(await observation.report())).toEqual([]);
  await untilClean(cluster, hosts);
  return migration;
}

/** Something done again and again while a migration copies the running Machine. */
async function whilePrecopying(migrationId: string, action: () => void): Promise<number> {
  let times = 0;
  await cluster.until('it is past the copy of the running Machine', async () => {
    const { step, state } = await cluster.migration(migrationId);
    if (step === MigrationStep.PRECOPY) {
      action();
      times += 1;
    }
    const before: readonly MigrationStep[] = [MigrationStep.PLAN, MigrationStep.PREPARE, MigrationStep.PRECOPY];
    return state !== MigrationState.RUNNING || !before.includes(step);
  });
  return times;
}

describe.skipIf(missing !== null)(`a running Machine is copied${missing === null ? '' : ` (${missing})`}`, () => {
  test('that writes as fast as it is copied: rounds end with not_shrinking', async () => {
    const load = await start({ pattern: 'random', fill: 'full', spanMib: 96, blockKib: 64, bytesPerSecond: 24 * mib });
    await limitCopies(24 * mib);
    const migration = await endsWell(load, await cluster.migrate(load.machine.id, 'host-b'));
    expect(migration.precopy).toMatchObject({ mode: 'snapshots', ended: 'not_shrinking' });
    expect(migration.precopy?.rounds.length).toBeGreaterThan(1);
    expect(migration.precopy?.endedReason).not.toBe('');
  });

  test('while blocks are punched out of its files, and fstrim gives them back', async () => {
    const load = await start({ pattern: 'punch', fill: 'full', spanMib: 96, bytesPerSecond: mib / 16 });
    await limitCopies(24 * mib);
    const { volumeId } = load.machine;
    const folder = join(cluster.dataDir('host-a'), 'mnt', volumeId);
    const extra = join(folder, 'extra');
    const migrationId = await cluster.migrate(load.machine.id, 'host-b');
    let round = 0;
    const times = await whilePrecopying(migrationId, () => {
      // Blocks are freed, trimmed and used again between two snapshots.
      if (round % 2 === 0) writeFileSync(extra, Buffer.alloc(4 * mib, 0x30 + (round % 40)), { flush: true });
      else rmSync(extra);
      execFileSync('fstrim', [folder]);
      round += 1;
    });
    expect(times).toBeGreaterThan(2);
    const migration = await endsWell(load, migrationId);
    expect(migration.precopy).toMatchObject({ mode: 'snapshots' });
  });

  test(`whose volume is in ${pieces} pieces: too_many_extents, and no snapshot is taken`, async () => {
    const load = await start({
      pattern: 'random',
      fill: 'sparse',
      spanMib: long ? 900 : 400,
      sizeGb: 2,
      bytesPerSecond: mib / 8,
    });
    // First what the program wrote, then the file that it is in.
    for (const folder of [join('mnt', load.machine.volumeId), '']) {
      execFileSync('sync', ['-f', join(cluster.dataDir('host-a'), folder)]);
    }
    const folder = join(cluster.dataDir('host-a'), 'volumes', load.machine.volumeId);
    const image = execFileSync('sh', ['-c', `filefrag '${folder}'/*.img`]).toString();
    expect(Number(/(\d+) extents found/.exec(image)?.[1])).toBeGreaterThan(pieces);
    const migration = await endsWell(load, await cluster.migrate(load.machine.id, 'host-b'));
    expect(migration.precopy).toMatchObject({ ended: 'too_many_extents' });
    expect(migration.precopy?.endedReason).toMatch(/\d{5}/);
  });

  test('whose disk has no room for what it overwrites: no_room, and goes on cold', async () => {
    const load = await start({ pattern: 'random', fill: 'full', spanMib: 256, bytesPerSecond: mib }, 1400);
    fillDisk(cluster.dataDir('host-a'), 300);
    const migration = await endsWell(load, await cluster.migrate(load.machine.id, 'host-b'));
    expect(migration.precopy).toMatchObject({ ended: 'no_room' });
    expect(migration.precopy?.endedReason).not.toBe('');
  });

  test('whose disk fills up while snapshots are held: they are given up, and the Machine never sees ENOSPC', async () => {
    const load = await start({ pattern: 'random', fill: 'full', spanMib: 256, bytesPerSecond: 4 * mib }, 1536);
    await limitCopies(16 * mib);
    const migrationId = await cluster.migrate(load.machine.id, 'host-b');
    await cluster.until('the copy is under way', async () => {
      const { step, progress } = await cluster.migration(migrationId);
      return step === MigrationStep.PRECOPY && Number(progress?.bytesTransferred ?? 0n) > 16 * mib;
    });
    fillDisk(cluster.dataDir('host-a'), 200);
    await cluster.until(
      'its snapshots are gone',
      async () => (await cluster.migration(migrationId)).precopy?.ended !== '',
    );
    await limitCopies(0);
    const migration = await endsWell(load, migrationId);
    expect(migration.precopy).toMatchObject({ ended: 'no_room' });
    const { events } = await cluster.machine(load.machine.id);
    // It ended once, because it was asked to.
    expect(events.filter(({ exitEvent }) => exitEvent?.requestedStop === false)).toEqual([]);
  });
});
