import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Machine } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { type Migration, MigrationState, MigrationStep } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { TestCluster } from '../harness/cluster.ts';
import { untilStep } from '../harness/crash.ts';
import { untilFree } from '../harness/drive.ts';
import { LedgerLoad } from '../harness/ledger.ts';
import { doubles, type Observation, observe } from '../harness/observe.ts';

const entry = join(import.meta.dirname, '../../cli/main.ts');
/** What an init system is patient for; longer and it would kill. */
const endMsMax = 8_000;

let cluster: TestCluster;
let load: LedgerLoad;
let observation: Observation;
let bystanders: Machine[];

/** A command as an operator types it, with all that it writes. */
class Typed {
  readonly child: ChildProcess;
  readonly ended: Promise<number | null>;
  out = '';
  err = '';

  constructor(...args: string[]) {
    const env = { ...process.env, FERRY_COORDINATOR: cluster.coordinator };
    this.child = spawn(process.execPath, [entry, ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    this.child.stdout!.on('data', (chunk) => {
      this.out += String(chunk);
    });
    this.child.stderr!.on('data', (chunk) => {
      this.err += String(chunk);
    });
    this.ended = new Promise((resolve) => this.child.once('close', (code) => resolve(code)));
  }
}

async function where(): Promise<{ from: string; to: string }> {
  const { hostId } = await cluster.machine(load.machine.id);
  return hostId === 'host-a' ? { from: 'host-a', to: 'host-b' } : { from: 'host-b', to: 'host-a' };
}

/** The Machines that take no part in the moves: a program that was started again has another instance. */
async function bystanderLines(): Promise<string[]> {
  const machines = await Promise.all(bystanders.map(({ id }) => cluster.machine(id)));
  return machines.map(({ id, instanceId, state }) => `${id} ${instanceId} ${state}`);
}

async function endsWell(migrationId: string): Promise<Migration> {
  const migration = await cluster.ended(migrationId);
  expect([MigrationState.MOVED, MigrationState.MOVED_BACK], migration.reason).toContain(migration.state);
  await untilFree(cluster);
  await load.more(10);
  return migration;
}

beforeAll(async () => {
  cluster = await TestCluster.start();
  observation = observe();
  load = await LedgerLoad.start(cluster, 'host-a', { fillMib: 96 });
  const sleeper = { init: { exec: ['/bin/sh', '-c', 'trap "exit 0" INT; while :; do sleep 0.1; done'] } };
  bystanders = [
    await cluster.run(sleeper, { host: 'host-a', network: 'other', app: 'other' }),
    await cluster.run(sleeper, { host: 'host-b', network: 'other', app: 'other' }),
  ];
});
afterAll(async () => {
  try {
    expect(await load.verdict()).toMatchObject({ lost: 0, problems: [] });
    expect(doubles(await observation.report())).toEqual([]);
  } finally {
    await cluster?.[Symbol.asyncDispose]();
  }
});

describe('ctrl-C of a watch ends the watch, not the migration', () => {
  const moments = [
    ['at its first line', undefined],
    ['while the Machine is stopped', MigrationStep.FORK],
    ['while it starts', MigrationStep.START],
  ] as const;
  for (const [name, step] of moments) {
    test(name, async () => {
      const { to } = await where();
      const { id } = load.machine;
      const typed = new Typed('machine', 'migrate', id, '--to', to);
      await cluster.until('its first line', () => typed.out !== '');
      const migrationId = /mig_[0-9A-Z]{26}/.exec(typed.out)?.[0] ?? (await openMigration(id));
      if (step !== undefined) await untilStep(cluster, migrationId, step);
      typed.child.kill('SIGINT');
      expect(await typed.ended).toBe(130);
      expect(typed.err).toContain(`ferry migration watch ${migrationId}`);
      expect(typed.err).toMatch(/goes on by itself|settles by itself/);
      expect(typed.err).not.toContain('    at ');
      const again = new Typed('migration', 'watch', migrationId);
      expect(await again.ended).toBe(0);
      expect(await endsWell(migrationId)).toMatchObject({ state: MigrationState.MOVED, destination: to });
    });
  }

  test('while it is claimed: nothing is begun, or it is said what was', async () => {
    const { to } = await where();
    const { id } = load.machine;
    const before = (await cluster.migrations.listMigrations({})).migrations.length;
    process.kill(cluster.pid('coordinator'), 'SIGSTOP');
    const typed = new Typed('machine', 'migrate', id, '--to', to);
    await cluster.until('it has called', () => connections(typed.child.pid!) > 2);
    typed.child.kill('SIGINT');
    process.kill(cluster.pid('coordinator'), 'SIGCONT');
    expect(await typed.ended).toBe(130);
    await cluster.untilHostsAnswer();
    const { migrations } = await cluster.migrations.listMigrations({});
    if (migrations.length === before) return;
    expect(typed.err).toContain(migrations[0]!.id);
    await endsWell(migrations[0]!.id);
  });
});

/** Sockets that a process has open; its two pipes to us are such too. */
function connections(pid: number): number {
  const links = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
  return links.filter((link) => link.startsWith('socket:')).length;
}

async function openMigration(machineId: string): Promise<string> {
  const { migrations } = await cluster.migrations.listMigrations({ openOnly: true });
  return migrations.find((each) => each.machineId === machineId)!.id;
}

describe('SIGTERM ends a daemon soon, the Machines run on, and the migration ends well after its return', () => {
  const cells = [
    ['source', MigrationStep.STOP, 'stop'],
    ['source', MigrationStep.FORK, 'fork'],
    ['source', MigrationStep.SETTLE, 'settle'],
    ['destination', MigrationStep.PREPARE, 'prepare'],
    ['destination', MigrationStep.FORK, 'fork'],
    ['destination', MigrationStep.START, 'start'],
    ['coordinator', MigrationStep.LOCK, 'lock'],
    ['coordinator', MigrationStep.FORK, 'fork'],
  ] as const;
  for (const [who, step, name] of cells) {
    test(`${who} in ${name}`, async () => {
      const { from, to } = await where();
      const victim = who === 'coordinator' ? who : who === 'source' ? from : to;
      const before = await bystanderLines();
      const pids = cluster.processes();
      const migrationId = await cluster.migrate(load.machine.id, to);
      await untilStep(cluster, migrationId, step);
      const startedMs = performance.now();
      expect(await cluster.kill(victim, 'SIGTERM')).toBe(0);
      expect(performance.now() - startedMs).toBeLessThan(endMsMax);
      // Those that took no part have not even noticed.
      const alive = cluster.processes();
      expect(pids.filter((pid) => alive.includes(pid)).length).toBeGreaterThanOrEqual(bystanders.length);
      cluster.spawn(victim);
      await cluster.untilHostsAnswer();
      await endsWell(migrationId);
      await cluster.until('the bystanders are as before', async () => {
        const now = await bystanderLines();
        return now.every((line, index) => line === before[index]);
      });
    });
  }
});
