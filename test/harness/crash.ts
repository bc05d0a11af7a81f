import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'vitest';
import { type Migration, MigrationState, MigrationStep } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { toFerryError } from '../../shared/error.ts';
import { stepsInOrder } from '../../shared/migration-steps.ts';
import { TestCluster } from './cluster.ts';
import { LedgerLoad } from './ledger.ts';
import { doubles, observe } from './observe.ts';

/** Who is killed. */
export const victims = ['coordinator', 'host-a', 'host-b'] as const;

/** The steps by name. */
export const steps = Object.entries(MigrationStep)
  .filter(([name, value]) => typeof value === 'number' && value > 0 && Number.isNaN(Number(name)))
  .map(([name, value]) => ({ name: name.toLowerCase(), step: value as MigrationStep }));

/**
 * Moves a ledger under load from host-a to host-b, kills the victim as soon as the migration is seen in the step, starts
 * it again after `downMs`, and expects: the migration ends well, one owner, nothing runs twice, nothing acknowledged is
 * lost, no lock or permit is left.
 */
export async function crashDuring(
  victim: (typeof victims)[number],
  step: MigrationStep,
  downMs: number,
): Promise<Migration> {
  await using cluster = await TestCluster.start();
  const load = await LedgerLoad.start(cluster, 'host-a', { fillMib: step === MigrationStep.FORK ? 192 : 16 });
  const { id } = load.machine;
  const observation = observe();
  const migrationId = await cluster.migrate(id, 'host-b');
  await untilStep(cluster, migrationId, step);
  await cluster.kill(victim);
  await sleep(downMs);
  cluster.spawn(victim);
  const migration = await cluster.ended(migrationId);
  expect([MigrationState.MOVED, MigrationState.MOVED_BACK]).toContain(migration.state);
  const owner = migration.state === MigrationState.MOVED ? 'host-b' : 'host-a';
  await cluster.untilHostsAnswer();
  await load.more(20);
  expect(await owners(cluster, id)).toEqual([owner]);
  expect(await load.verdict()).toMatchObject({ lost: 0, problems: [] });
  await cluster.until('locks and permits are gone', async () => {
    const { locks } = await cluster.locks.listLocks({});
    const permits = await Promise.all(['host-a', 'host-b'].map((host) => cluster.handover(host).listPermits({})));
    return locks.length === 0 && permits.every((each) => each.permits.length === 0);
  });
  expect(doubles(await observation.report())).toEqual([]);
  return migration;
}

/** Resolves when a migration is seen in a step, or beyond it. */
export async function untilStep(cluster: TestCluster, migrationId: string, step: MigrationStep): Promise<void> {
  for await (const { migration } of cluster.migrations.watchMigration({ migrationId }, { timeoutMs: 60_000 })) {
    if (migration === undefined) continue;
    const isThere = stepsInOrder.indexOf(migration.step) >= stepsInOrder.indexOf(step);
    if (isThere || migration.state !== MigrationState.RUNNING) return;
  }
}

/** Hosts that say that they own a Machine. */
export async function owners(cluster: TestCluster, machineId: string, hosts = ['host-a', 'host-b']): Promise<string[]> {
  const answers = await Promise.all(
    hosts.map((host) =>
      cluster
        .agent(host)
        .agentGetMachine({ machineId })
        .then(
          () => [host],
          (error) =>
            ['not_owner', 'unknown_machine'].includes(toFerryError(error).reason) ? [] : Promise.reject(error),
        ),
    ),
  );
  return answers.flat();
}
