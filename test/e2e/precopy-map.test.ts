import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { VolumeState } from '../../proto/gen/ferry/v1/volume_pb.ts';
import { type FerryError, toFerryError } from '../../shared/error.ts';
import { TestCluster } from '../harness/cluster.ts';
import { xfsMissing } from '../harness/disk.ts';
import { arm, forgetfulPath, forgotten } from '../harness/forgetful.ts';
import { WriterLoad } from '../harness/writer-load.ts';

// Real processes, many of them: on a busy machine they take their time.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

const missing = xfsMissing();

let cluster: TestCluster;
let folder: string;
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ferry-forgetful-'));
  cluster = await TestCluster.start({
    xfsMib: { 'host-a': 2048, 'host-b': 2048 },
    agentEnv: { PATH: forgetfulPath(folder) },
  });
});
afterEach(async () => {
  await cluster?.[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

const writer = { host: 'host-a', pattern: 'random', fill: 'full', spanMib: 64, bytesPerSecond: 2 ** 20 } as const;

describe.skipIf(missing !== null)(`a map that leaves an extent out${missing === null ? '' : ` (${missing})`}`, () => {
  test('is caught before the source is settled: it keeps its copy, which has every byte', async () => {
    const load = await WriterLoad.start(cluster, writer);
    // With its maps as they are the move settles.
    const whole = await cluster.ended(await cluster.migrate(load.machine.id, 'host-b'));
    expect(whole, whole.reason).toMatchObject({ state: MigrationState.MOVED, settled: true, failure: '' });
    expect(whole.precopy).toMatchObject({ mode: 'snapshots' });
    expect(forgotten(folder)).toBeNull();
    expect(await load.missing()).toEqual([]);

    const { volumeId } = await cluster.machine(load.machine.id);
    arm(folder);
    const migrationId = await cluster.migrate(load.machine.id, 'host-a');
    await cluster.until('it is caught', async () => {
      const { failure, state } = await cluster.migration(migrationId);
      return failure === 'root_mismatch' && state !== MigrationState.RUNNING;
    });
    expect(forgotten(folder)).toContain('.img');
    const migration = await cluster.migration(migrationId);
    expect(migration).toMatchObject({ settled: false });
    expect(migration.precopy).toMatchObject({ mode: 'snapshots' });
    expect(migration.reason).not.toBe('');
    expect(migration.nextAction).not.toBe('');
    const keptState = async () =>
      (await cluster.volumes.listVolumes({ hostId: 'host-b' })).volumes.find(({ id }) => id === volumeId);
    const kept = await keptState();
    expect(kept).toMatchObject({ state: VolumeState.RELINQUISHED, migrationId });
    expect(kept?.destroyAt).toBeUndefined();

    // It is an operator's to end: said without force, nothing happens, and it is told what would be lost.
    const destroy = (request: object) => cluster.volumes.destroyVolume({ volumeId, ...request });
    const refused = await destroy({}).catch(toFerryError);
    expect(refused).toMatchObject({ reason: 'root_mismatch', facts: { migration: migrationId, volume: volumeId } });
    expect((refused as FerryError).message).toContain('would be lost');
    expect((refused as FerryError).nextAction).toContain('--force');
    expect(await keptState()).toMatchObject({ state: VolumeState.RELINQUISHED });
    expect((await cluster.status.getStatus({})).migrationsParked).toContain(migrationId);
    // What cannot be written where everybody sees it is not done.
    await cluster.kill('host-a');
    await expect(destroy({ force: true, orderedBy: 'alice' }).catch(toFerryError)).resolves.toMatchObject({
      reason: 'host_unreachable',
    });
    expect(await keptState()).toMatchObject({ state: VolumeState.RELINQUISHED });
    cluster.spawn('host-a');
    await cluster.until('host-a answers', async () => (await cluster.agent('host-a').getHost({})).host !== undefined);
    const done = await destroy({ force: true, orderedBy: 'alice' });
    expect(done.volume).toMatchObject({ id: volumeId, state: VolumeState.PENDING_DESTROY, hostId: 'host-b' });
    // It is journalled: the next agent knows it.
    await cluster.kill('host-b');
    cluster.spawn('host-b');
    await cluster.until('host-b answers', async () => (await keptState()) !== undefined);
    expect(await keptState()).toMatchObject({ state: VolumeState.PENDING_DESTROY, differs: '' });
    expect((await keptState())?.destroyAt).toBeDefined();
    expect((await cluster.migration(migrationId)).answered).toContain('alice');
    expect((await cluster.status.getStatus({})).migrationsParked).not.toContain(migrationId);
    const accepted = (await cluster.machine(load.machine.id)).events.filter(({ type }) => type === 'accept');
    expect(accepted).toMatchObject([{ source: 'user', migration: { migrationId, orderedBy: 'alice' } }]);
    expect(accepted[0]!.message).toContain(volumeId);
    // Its time is not over, and no force shortens that.
    await expect(destroy({ force: true }).catch(toFerryError)).resolves.toMatchObject({ reason: 'volume_in_use' });
  });
});
