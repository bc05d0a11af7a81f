import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { freePort } from '../../cli/cluster.ts';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { newMigrationId } from '../../shared/ids.ts';
import { systemRandom } from '../../shared/random.ts';
import { TestCluster } from '../harness/cluster.ts';
import { listenerConfig } from '../harness/listener.ts';
import { doubles, observe } from '../harness/observe.ts';

const entry = join(import.meta.dirname, '../../cli/main.ts');
const sleeper = { ...listenerConfig(), mounts: [{ path: '/data', sizeGb: 1, name: 'data' }] };
const files = ['journal.db', 'journal.db-wal', 'journal.db-shm'];

let cluster: TestCluster;
afterEach(async () => cluster?.[Symbol.asyncDispose]());

/** Copies the journal of a stopped agent. */
function copyJournal(from: string, to: string): void {
  mkdirSync(to, { recursive: true });
  for (const file of files) {
    rmSync(join(to, file), { force: true });
    if (existsSync(join(from, file))) cpSync(join(from, file), join(to, file));
  }
}

/** Moves a Machine to host-b, and puts the journal of one host back to before the move. Its agent is down then. */
async function moveAndRestore(host: string) {
  cluster = await TestCluster.start();
  const machine = await cluster.run(sleeper, { host: 'host-a' });
  const older = join(cluster.dir, 'older-journal');
  await cluster.kill(host, 'SIGTERM');
  copyJournal(cluster.dataDir(host), older);
  cluster.spawn(host);
  await cluster.untilHostsAnswer();
  const observation = observe();
  const migration = await cluster.ended(await cluster.migrate(machine.id, 'host-b'));
  expect(migration.state).toBe(MigrationState.MOVED);
  await cluster.kill(host);
  copyJournal(older, cluster.dataDir(host));
  return { machine, observation, markers: markersOf(host) };
}

/** What lies beside the journal: the markers of Machines and volumes. */
function markersOf(host: string): string[] {
  const dir = cluster.dataDir(host);
  const volumes = readdirSync(join(dir, 'volumes')).flatMap((volume) =>
    readdirSync(join(dir, 'volumes', volume)).map((file) => `${volume}/${file}`),
  );
  return [...readdirSync(join(dir, 'seals')), ...volumes].sort();
}

async function untilItSaysSo(host: string): Promise<void> {
  await cluster.until(`${host} says that its journal went back`, async () => {
    const { host: said } = await cluster.agent(host).getHost({}, { timeoutMs: 2000 });
    return said?.reason.includes('the journal went back to an older copy') === true;
  });
}

describe('a journal that was put back to before the move', () => {
  for (const [host, coordinator] of [
    ['host-a', 'with the coordinator'],
    ['host-a', 'without the coordinator'],
    ['host-b', 'with the coordinator'],
    ['host-b', 'without the coordinator'],
  ] as const) {
    const side = host === 'host-a' ? 'source' : 'destination';
    test(`at the ${side}, ${coordinator}: nothing starts twice, and the agent says so`, async () => {
      const { machine, observation, markers } = await moveAndRestore(host);
      const { id: machineId } = machine;
      const alone = coordinator === 'without the coordinator';
      if (alone) await cluster.kill('coordinator');
      cluster.spawn(host);
      await untilItSaysSo(host);
      expect(cluster.log(host)).toContain('older copy');
      if (host === 'host-a') {
        await cluster.until(`${host} has booted`, () => cluster.log(host).split('"msg":"ready"').length === 4);
        const { machine: claimed } = await cluster.agent(host).agentGetMachine({ machineId });
        expect(claimed?.reason).toContain('older copy');
        await expect(cluster.agent(host).agentSetMachine({ machineId, action: 'start' })).rejects.toThrow('older copy');
      }
      if (!alone) {
        // It believes the second report, because one could have been long on its way.
        await cluster.until('the coordinator says so, too', async () => {
          const told = await cluster.hosts.getHostStatus({ hostId: host });
          return told.host?.reason.includes('its journal went back to an older copy') === true;
        });
        const { machines } = await cluster.machines.listMachines({});
        expect(machines).toMatchObject([{ id: machineId, hostId: 'host-b', epoch: 2n }]);
        if (host === 'host-a') await expect(cluster.migrate(machineId, host)).rejects.toThrow('journal went back');
        else {
          const refused = await cluster.ended(await cluster.migrate(machineId, 'host-a'));
          expect(refused).toMatchObject({
            state: MigrationState.PARKED,
            failure: 'journal_went_back',
            holdsLock: false,
          });
        }
      }
      const permit = { network: 'net', migrationId: newMigrationId(Date.now(), systemRandom), fence: 9n };
      await expect(cluster.handover(host).grantPermit({ permit, term: 1n })).rejects.toThrow('older copy');
      // The Machine's one process goes on, whatever its agent remembers.
      const report = await observation.report();
      expect(doubles(report)).toEqual([]);
      const alive = report.sightings.at(-1)!.alive.filter((each) => each.startsWith(machineId));
      expect(alive).toHaveLength(1);
      expect(markersOf(host)).toEqual(markers);
    });
  }
});

describe('a data directory', () => {
  test('serves one agent: the second is refused in one clear sentence', async () => {
    cluster = await TestCluster.start({ hosts: ['host-a'] });
    const dataDir = cluster.dataDir('host-a');
    const flags = ['--host', 'host-a', '--data-dir', dataDir, '--coordinator', cluster.coordinator];
    const listen = ['--listen', `127.0.0.1:${await freePort()}`];
    const second = spawnSync(process.execPath, [entry, 'agent', ...flags, ...listen], {
      encoding: 'utf8',
      timeout: 20_000,
    });
    expect(second.status).toBe(3);
    const [line, ...rest] = second.stderr.trim().split('\n');
    expect(line).toBe(`ferry: ${join(dataDir, 'journal.db')} is open in another process [store_locked]`);
    expect(rest).toEqual(['  next: Stop the other process or name another --data-dir.']);
    expect((await cluster.agent('host-a').getHost({})).host?.reason).toBe('');
  });
});
