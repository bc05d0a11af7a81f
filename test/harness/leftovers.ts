import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { VolumeState } from '../../proto/gen/ferry/v1/volume_pb.ts';
import type { TestCluster } from './cluster.ts';

/** What moves left behind, in words: running migrations, locks, permits, hand-overs, prepared copies, snapshots. */
async function leftovers(cluster: TestCluster, hosts: readonly string[]): Promise<string[]> {
  const { locks } = await cluster.locks.listLocks({});
  const { migrations } = await cluster.migrations.listMigrations({ openOnly: true });
  const running = migrations.filter(({ state }) => state === MigrationState.RUNNING);
  return [
    ...locks.map(({ network, migrationId }) => `lock of ${network}, by ${migrationId}`),
    ...running.map(({ id }) => `${id} runs`),
    ...(await Promise.all(hosts.map((host) => leftoversAt(cluster, host)))).flat(),
  ];
}

async function leftoversAt(cluster: TestCluster, host: string): Promise<string[]> {
  const [{ permits }, { handovers }, { volumes }] = await Promise.all([
    cluster.handover(host).listPermits({}),
    cluster.handover(host).listHandovers({ openOnly: true }),
    cluster.agent(host).agentListVolumes({}),
  ]);
  const prepared = volumes.filter(({ state }) => state === VolumeState.RECEIVING);
  const folder = join(cluster.dataDir(host), 'volumes');
  const snapshots = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => name.includes('.snap'));
  return [
    ...permits.map(({ network, migrationId }) => `permit of ${host} for ${network}, by ${migrationId}`),
    ...handovers.map(({ migrationId, role, step }) => `hand-over at ${host}: ${migrationId}, ${role}, ${step}`),
    ...prepared.map(({ id }) => `prepared copy at ${host}: ${id}`),
    ...snapshots.map((name) => `snapshot at ${host}: ${name}`),
  ];
}

/** Waits until no move has left anything behind. */
export async function untilClean(cluster: TestCluster, hosts: readonly string[]): Promise<void> {
  let left: string[] = [];
  const clean = cluster.until('nothing is left behind', async () => {
    left = await leftovers(cluster, hosts);
    return left.length === 0;
  });
  await clean.catch((error: Error) => {
    throw new Error(`left behind: ${left.join('; ') || 'unknown'}\n${error.message}`);
  });
}
