import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { durationFromMs } from '../../shared/duration.ts';
import { TestCluster } from '../harness/cluster.ts';
import { owners } from '../harness/crash.ts';
import { untilFree } from '../harness/drive.ts';
import { ledgerConfig } from '../harness/ledger.ts';
import { loadOn } from '../harness/load.ts';
import { doubles, observe } from '../harness/observe.ts';

const program = join(import.meta.dirname, '../harness/fussy-ledger.ts');
const hosts = ['host-a', 'host-b', 'host-c'];

let cluster: TestCluster;
beforeEach(async () => {
  cluster = await TestCluster.start({ hosts, coordinatorFlags: { 'start-deadline': '15s' } });
});
afterEach(async () => cluster?.[Symbol.asyncDispose]());

/** A ledger that misbehaves where it is told to; a second check looks at its second port. */
function fussy() {
  const config = ledgerConfig(0);
  const { ledger } = config.checks;
  return {
    ...config,
    init: { cmd: [program] },
    env: { PORT: '8080', FUSSY_DIR: cluster.dir },
    checks: {
      ledger,
      second: { type: 'tcp', port: 8081, interval: durationFromMs(200), timeout: durationFromMs(1000) },
    },
    restart: { policy: 'on-failure', maxRetries: 1 },
  };
}

const tell = (what: 'refuse' | 'unhealthy', host: string) => writeFileSync(join(cluster.dir, `${what}.${host}`), '');
const allow = (what: 'refuse' | 'unhealthy', host: string) => rmSync(join(cluster.dir, `${what}.${host}`));

describe('a Machine that is not well at its destination', () => {
  test('cannot start there: comes back by itself with its data', async () => {
    const machine = await cluster.run(fussy(), { host: 'host-a' });
    const { id } = machine;
    const load = await loadOn(cluster, machine, 8080);
    const observation = observe();
    tell('refuse', 'host-b');
    const migrationId = await cluster.migrate(id, 'host-b');
    const migration = await cluster.ended(migrationId);
    expect(migration).toMatchObject({ state: MigrationState.MOVED_BACK, holdsLock: false });
    expect(migration.reason).toContain('moved back to host-a');
    expect(migration.reason).toContain('could not be started at host-b');
    expect(migration.reason).toContain('exit code 1');
    const child = await cluster.ended(migration.returnedBy);
    expect(child).toMatchObject({ state: MigrationState.MOVED, returns: migrationId, settled: true });
    // It is down meanwhile: only what changed travels, although its destination never had it up.
    expect(child.precopy?.baseRoot).toBe(migration.sourceRoot);
    const { rounds, finalBytes = 0n } = migration.precopy!;
    const copied = rounds.reduce((bytes, round) => bytes + round.bytesTransferred, finalBytes);
    expect(child.precopy?.finalBytes).toBeLessThan(copied / 3n + 2_097_152n);
    expect(await cluster.machine(id)).toMatchObject({ hostId: 'host-a', epoch: 3n });
    await load.more(20);
    expect(await load.verdict()).toMatchObject({ lost: 0, problems: [] });
    expect(await owners(cluster, id, hosts)).toEqual(['host-a']);
    expect(doubles(await observation.report())).toEqual([]);
    await untilFree(cluster, hosts);
  });

  test('runs there but stays unhealthy: comes back with what it wrote there meanwhile', async () => {
    const machine = await cluster.run(fussy(), { host: 'host-a' });
    const { id } = machine;
    const load = await loadOn(cluster, machine, 8080);
    const observation = observe();
    tell('unhealthy', 'host-b');
    const { migration: begun } = await cluster.migrations.migrateMachine({
      machineId: id,
      destination: 'host-b',
      startDeadline: durationFromMs(3000),
    });
    const migrationId = begun!.id;
    await cluster.until('it runs at the destination', async () => {
      const now = await cluster.machine(id);
      return now.hostId === 'host-b' && now.state === MachineState.STARTED;
    });
    await load.more(20);
    const migration = await cluster.ended(migrationId);
    expect(migration).toMatchObject({ state: MigrationState.MOVED_BACK, failure: 'unhealthy' });
    expect(migration.reason).toContain('not healthy at host-b within 3 s: check second: connect ECONNREFUSED');
    await load.more(20);
    expect(await cluster.machine(id)).toMatchObject({ hostId: 'host-a', state: MachineState.STARTED });
    expect(await load.verdict()).toMatchObject({ lost: 0, problems: [] });
    expect(doubles(await observation.report())).toEqual([]);
    await untilFree(cluster, hosts);
  });

  test('runs on neither host any more: parked under its lock, until the cause is repaired and it is retried', async () => {
    const machine = await cluster.run(fussy(), { host: 'host-a' });
    const { id } = machine;
    const load = await loadOn(cluster, machine, 8080);
    const observation = observe();
    tell('refuse', 'host-b');
    const migrationId = await cluster.migrate(id, 'host-b');
    await cluster.until('it is on its way back', async () => (await cluster.migration(migrationId)).returnedBy !== '');
    tell('refuse', 'host-a');
    const migration = await cluster.ended(migrationId);
    expect(migration).toMatchObject({ state: MigrationState.PARKED, holdsLock: true, failure: 'unhealthy' });
    expect(migration.reason).toContain('exit code 1');
    expect(migration.nextAction).toContain(`ferry migration retry ${migrationId}`);
    const { explanation, lock } = await cluster.locks.explainLock({ network: 'net' });
    expect(lock).toMatchObject({ migrationId, machineId: id });
    expect(explanation).toContain(migrationId);
    expect(explanation).toContain('the Machine is well again, or an operator accepts that it is down');
    expect(await owners(cluster, id, hosts)).toEqual(['host-a']);

    allow('refuse', 'host-a');
    allow('refuse', 'host-b');
    const retried = await cluster.migrations.retryMigration({ migrationId });
    const second = await cluster.ended(retried.migration!.id);
    expect(second).toMatchObject({ reason: '', state: MigrationState.MOVED, holdsLock: false });
    await load.more(20);
    expect(await cluster.machine(id)).toMatchObject({ hostId: 'host-b', state: MachineState.STARTED });
    expect(await load.verdict()).toMatchObject({ lost: 0, problems: [] });
    expect(doubles(await observation.report())).toEqual([]);
    expect((await cluster.migration(migrationId)).holdsLock).toBe(false);
    await untilFree(cluster, hosts);
  });

  test('parked: an operator accepts that it is down, and the network goes on without it', async () => {
    const { id } = await cluster.run(fussy(), { host: 'host-a' });
    const { ledger } = fussy().checks;
    const other = await cluster.run(
      { ...fussy(), env: { PORT: '8080', FUSSY_DIR: '/nowhere' }, checks: { ledger } },
      { host: 'host-a' },
    );
    tell('refuse', 'host-b');
    const migrationId = await cluster.migrate(id, 'host-b');
    await cluster.until('it is on its way back', async () => (await cluster.migration(migrationId)).returnedBy !== '');
    tell('refuse', 'host-a');
    await cluster.ended(migrationId);
    const waiting = await cluster.migrate(other.id, 'host-c');
    await cluster.until('the other waits for the lock', async () =>
      (await cluster.migration(waiting)).waitingFor.includes(migrationId),
    );
    const { lock, explanation } = await cluster.locks.explainLock({ network: 'net' });
    expect(lock?.waiters).toMatchObject([{ migrationId: waiting, machineId: other.id }]);
    expect(explanation).toContain(`In line: ${waiting}`);
    const accepted = await cluster.migrations.acceptDown({ migrationId });
    expect(accepted.migration).toMatchObject({ state: MigrationState.PARKED, holdsLock: false });
    expect(await cluster.ended(waiting)).toMatchObject({ state: MigrationState.MOVED });
    await untilFree(cluster, hosts);
  });
});
