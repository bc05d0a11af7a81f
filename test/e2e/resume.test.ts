import { afterEach, expect, test } from 'vitest';
import { MigrationState, MigrationStrategy } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { TestCluster } from '../harness/cluster.ts';
import { LedgerLoad } from '../harness/ledger.ts';

const fillMib = 384;
const mib = 1024 ** 2;
/** The receiver records what is durable each 64 MiB: at most that much, and what was on its way, travels twice. */
const repeatedMibMax = 64 + 32;

let cluster: TestCluster;
afterEach(async () => cluster?.[Symbol.asyncDispose]());

async function copyHalfDone(): Promise<{ load: LedgerLoad; migrationId: string; doneMib: number }> {
  cluster = await TestCluster.start();
  const load = await LedgerLoad.start(cluster, 'host-a', { fillMib });
  // The copy of a stopped volume; that of a running Machine: precopy.test.ts.
  const migrationId = await cluster.migrate(load.machine.id, 'host-b', MigrationStrategy.COLD);
  let doneMib = 0;
  await cluster.until('a third of the data is copied', async () => {
    const { handover } = await cluster.handover('host-b').getHandover({ migrationId });
    doneMib = Number(handover?.progress?.bytesTransferred ?? 0n) / mib;
    return doneMib > fillMib / 3;
  });
  return { load, migrationId, doneMib };
}

test('a destination killed in mid-copy goes on where it was', async () => {
  const { load, migrationId, doneMib } = await copyHalfDone();
  await cluster.kill('host-b');
  cluster.spawn('host-b');
  const migration = await cluster.ended(migrationId);
  expect(migration).toMatchObject({ state: MigrationState.MOVED, reason: '' });
  const resumedMib = Number(migration.progress!.bytesResumed) / mib;
  const transferredMib = Number(migration.progress!.bytesTransferred) / mib;
  expect(resumedMib).toBeGreaterThan(doneMib - repeatedMibMax);
  // What the second run sent and what the first had recorded make up the data: nothing recorded was sent again.
  expect(transferredMib).toBeLessThan(fillMib + 64 - (doneMib - repeatedMibMax));
  expect(await load.verdict()).toMatchObject({ lost: 0, problems: [] });
});

test('a source killed in mid-copy: the destination waits, and sends nothing twice', async () => {
  const { load, migrationId, doneMib } = await copyHalfDone();
  await cluster.kill('host-a');
  cluster.spawn('host-a');
  const migration = await cluster.ended(migrationId);
  expect(migration).toMatchObject({ state: MigrationState.MOVED, reason: '' });
  expect(doneMib).toBeGreaterThan(0);
  const transferredMib = Number(migration.progress!.bytesTransferred) / mib;
  expect(transferredMib).toBeLessThan(fillMib + 64 + repeatedMibMax);
  expect(await load.verdict()).toMatchObject({ lost: 0, problems: [] });
});
