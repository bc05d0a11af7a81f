// Past 300 lines because it is one table: every RPC of both daemons with the wrong input that it is given.
import { randomBytes } from 'node:crypto';
import { appendFileSync } from 'node:fs';
import { create, type DescMethod, type DescService } from '@bufbuild/protobuf';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { signDecline, signSettlement, signTicket } from '../../agent/handover/signed.ts';
import { AgentService } from '../../proto/gen/ferry/v1/agent_pb.ts';
import {
  ClusterService,
  DrainService,
  HostService,
  LockService,
  MachineService,
  MigrationService,
  VolumeService,
} from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import { type Handover, HandoverService, PeerService } from '../../proto/gen/ferry/v1/handover_pb.ts';
import { HostStatus, type Machine, MachineConfigSchema } from '../../proto/gen/ferry/v1/machine_pb.ts';
import type { MigrationStrategy, MoveReason } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { durationFromMs } from '../../shared/duration.ts';
import { toFerryError } from '../../shared/error.ts';
import { newDrainId, newMigrationId, newVolumeId } from '../../shared/ids.ts';
import { systemRandom } from '../../shared/random.ts';
import { reasons } from '../../shared/reasons.ts';
import { SigningKey } from '../../shared/signing.ts';
import { Attacker, attacksOn, idFieldsOf, type Target, unattacked } from '../harness/attack.ts';
import { TestCluster } from '../harness/cluster.ts';
import { Drive } from '../harness/drive.ts';
import { LedgerLoad } from '../harness/ledger.ts';

const sleeper = { init: { exec: ['/bin/sh', '-c', 'trap "exit 0" INT; while :; do sleep 0.1; done'] } };
const keeper = { ...sleeper, mounts: [{ path: '/data', sizeGb: 1, name: 'data' }] };
const nobody = '00000000000000';
const noVolume = 'vol_0000000000000000';
const hugeNumber = 2n ** 64n - 1n;
const seconds = (count: number) => durationFromMs(count * 1000);
const newMigration = () => newMigrationId(Date.now(), systemRandom);

/** An agent that shows no sign of life for a long time must not end what the tests stopped half-way. */
const agentFlags = { 'driver-silence': '1h', 'prepared-expiry': '1h' };

let cluster: TestCluster;
let plain: Machine;
let withVolume: Machine;
let looseVolume: string;
let movedId: string;

/** All that a refused call must not change, as text. */
async function world(hosts: readonly string[], withCoordinator: boolean): Promise<string> {
  const seen: unknown[] = [];
  for (const host of hosts) {
    const agent = cluster.agent(host);
    seen.push((await agent.agentListMachines({})).machines);
    seen.push((await agent.agentListVolumes({})).volumes.map((volume) => ({ ...volume, allocatedBytes: 0 })));
    seen.push((await cluster.handover(host).listHandovers({})).handovers);
    seen.push((await cluster.handover(host).listPermits({})).permits);
    const { host: self } = await agent.getHost({});
    seen.push({ number: self?.number, cordoned: self?.cordoned, reason: self?.reason });
  }
  if (withCoordinator) {
    const { hosts: roster } = await cluster.hosts.listHosts({});
    seen.push(roster.map(({ id, number, region, address, cordoned }) => ({ id, number, region, address, cordoned })));
    seen.push(
      (await cluster.machines.listMachines({})).machines.map(({ id, hostId, epoch }) => ({ id, hostId, epoch })),
    );
    seen.push((await cluster.migrations.listMigrations({})).migrations);
    seen.push((await cluster.locks.listLocks({})).locks);
    seen.push((await cluster.drains.listDrains({})).drains);
  }
  return JSON.stringify(seen, (_, value) => (typeof value === 'bigint' ? String(value) : value), 1);
}

/** Attacks each method of a service; answers what was not refused as it should be. */
async function attack(
  service: DescService,
  targets: Readonly<Record<string, Target>>,
  address: (host: string | undefined) => string,
  look: () => Promise<string>,
): Promise<void> {
  expect(unattacked(service, targets)).toEqual([]);
  const before = await look();
  const failures: string[] = [];
  for (const method of service.methods) {
    const target = targets[method.localName]!;
    const named = [...(target.ids ?? []), ...(target.optionalIds ?? []), ...(target.opaqueIds ?? [])];
    expect(
      idFieldsOf(method.input).filter((path) => !named.includes(path)),
      `${method.name}: IDs not attacked`,
    ).toEqual([]);
    const wrong = await Promise.all([
      ...attacksOn(target).map(({ what, request, reason, field, host }) =>
        refused(method, what, reason, field, new Attacker(address(host)).send(method, request)),
      ),
      refused(
        method,
        '5 MiB',
        'too_large',
        '',
        new Attacker(address(undefined)).sendBytes(method, randomBytes(5 << 20)),
      ),
    ]);
    failures.push(...wrong.flat());
    if ((await look()) !== before) {
      expect(failures).toEqual([]);
      expect(await look(), `${method.name} changed something`).toBe(before);
    }
  }
  expect(failures).toEqual([]);
}

async function refused(
  method: DescMethod,
  what: string,
  reason: string,
  field: string | undefined,
  answered: ReturnType<Attacker['send']>,
): Promise<string[]> {
  const { error, typed } = await answered;
  const at = `${method.name} (${what})`;
  if (process.env.FERRY_TEST_SHOW) appendFileSync(process.env.FERRY_TEST_SHOW, `${at}: ${show(error)}\n`);
  if (error === null) return [`${at}: was not refused`];
  if (error.reason !== reason) return [`${at}: ${error.reason} instead of ${reason}: ${error.message}`];
  // The transport refuses what is too large before any of our code sees it; the code alone tells.
  if (!typed && reason !== 'too_large') return [`${at}: carries no typed detail: ${error.message}`];
  if (field !== undefined && error.field !== field) return [`${at}: names "${error.field}", not "${field}"`];
  if (error.nextAction === '' || error.message === '') return [`${at}: says nothing to do: ${show(error)}`];
  return [];
}

function show(error: ReturnType<typeof toFerryError> | null): string {
  if (error === null) return 'DONE';
  return `[${error.reason}] ${error.message} | field ${error.field} | expected ${error.expected} | next ${error.nextAction}`;
}

beforeAll(async () => {
  cluster = await TestCluster.start({ hosts: ['host-a', 'host-b', 'host-c', 'host-d'], agentFlags });
  plain = await cluster.run(sleeper, { host: 'host-a', network: 'plain', app: 'plain', name: 'one' });
  withVolume = await cluster.run(keeper, { host: 'host-a', network: 'kept', app: 'kept' });
  const moved = await cluster.run(sleeper, { host: 'host-b', network: 'moved', app: 'moved' });
  movedId = await cluster.migrate(moved.id, 'host-a');
  await cluster.ended(movedId);
  const { volume } = await cluster.volumes.createVolume({ name: 'loose', sizeBytes: 1n << 24n, hostId: 'host-a' });
  looseVolume = volume!.id;
  await cluster.hosts.cordonHost({ hostId: 'host-d' });
  await cluster.kill('host-c');
  await cluster.until('host-c is unreachable', async () => {
    const { host } = await cluster.hosts.getHostStatus({ hostId: 'host-c' });
    return host?.status === HostStatus.UNREACHABLE;
  });
});
afterAll(async () => cluster?.[Symbol.asyncDispose]());

describe('the coordinator refuses', () => {
  const atCoordinator = () => cluster.coordinator;
  const look = () => world(['host-a', 'host-b', 'host-d'], true);
  const unknown = (reason: string, request: object, field: string) => ({ what: 'unknown', request, reason, field });

  test('Machines', async () => {
    const machineId = plain.id;
    const unknownMachine = unknown('unknown_machine', { machineId: nobody }, 'machine_id');
    const run = { app: 'app', network: 'net', config: sleeper };
    const config = (what: string, change: object, field: string, reason = 'invalid_argument') => ({
      what,
      request: { ...run, config: { ...sleeper, ...change } },
      reason,
      ...(field === '' ? {} : { field: `config.${field}` }),
    });
    const check = { type: 'tcp', port: 80 };
    await attack(
      MachineService,
      {
        runMachine: {
          good: run,
          ids: ['app'],
          optionalIds: ['name', 'network', 'hostId', 'region'],
          attacks: [
            { what: 'nothing', request: {}, reason: 'invalid_argument', field: 'app' },
            { what: 'no config', request: { app: 'app' }, reason: 'invalid_argument', field: 'config.image' },
            { what: 'unknown host', request: { ...run, hostId: 'host-9' }, reason: 'unknown_host', field: 'host_id' },
            { what: 'cordoned', request: { ...run, hostId: 'host-d' }, reason: 'host_cordoned', field: 'host_id' },
            { what: 'down', request: { ...run, hostId: 'host-c' }, reason: 'host_unreachable', field: 'host_id' },
            { what: 'no such region', request: { ...run, region: 'mars' }, reason: 'no_host' },
            {
              what: 'name taken',
              request: { app: 'plain', name: 'one', config: sleeper },
              reason: 'machine_exists',
              field: 'name',
            },
            {
              what: 'another network',
              request: { ...run, app: 'plain', network: 'kept' },
              reason: 'invalid_argument',
              field: 'network',
            },
            config('unknown program', { init: { exec: ['/no/such/program'] } }, '', 'cannot_run'),
            config(
              'unknown program with a volume',
              { init: { exec: ['/no/such/program'] }, mounts: keeper.mounts },
              '',
              'cannot_run',
            ),
            config('signal', { stopConfig: { signal: 'SIGSTOP' } }, 'stop_config.signal'),
            config('timeout 301 s', { stopConfig: { timeout: seconds(301) } }, 'stop_config.timeout'),
            config('timeout -1 s', { stopConfig: { timeout: seconds(-1) } }, 'stop_config.timeout'),
            config('policy', { restart: { policy: 'sometimes' } }, 'restart.policy'),
            config('environment', { env: { 'a b': 'c' } }, 'env'),
            config('our environment', { env: { FERRY_MACHINE_ID: 'x' } }, 'env.FERRY_MACHINE_ID'),
            config('much environment', { env: { A: 'x'.repeat(1 << 20) } }, 'env'),
            config('terminal', { init: { ...sleeper.init, tty: true } }, 'init.tty'),
            config('check type', { checks: { up: { ...check, type: 'ping' } } }, 'checks.up.type'),
            config('check port', { checks: { up: { ...check, port: 65_536 } } }, 'checks.up.port'),
            config('check time', { checks: { up: { ...check, interval: seconds(-5) } } }, 'checks.up.interval'),
            config('two mounts', { mounts: [...keeper.mounts, ...keeper.mounts] }, 'mounts'),
            config('mount path', { mounts: [{ path: '../x', sizeGb: 1, name: 'data' }] }, 'mounts[0].path'),
            config('mount of nothing', { mounts: [{ path: '/data' }] }, 'mounts[0].size_gb'),
            config('volume path', { mounts: [{ path: '/data', volume: '../x' }] }, 'mounts[0].volume'),
            config('size', { mounts: [{ path: '/data', sizeGb: 4_294_967_295 }] }, 'mounts[0].size_gb'),
            config('memory', { guest: { memoryMb: 4_294_967_295 } }, 'guest.memory_mb'),
            config(
              'unknown volume',
              { mounts: [{ path: '/data', volume: noVolume }] },
              'mounts[0].volume',
              'unknown_volume',
            ),
            config(
              'volume in use',
              { mounts: [{ path: '/data', volume: withVolume.volumeId }] },
              'mounts[0].volume',
              'volume_in_use',
            ),
          ],
        },
        listMachines: {
          good: {},
          optionalIds: ['app', 'hostId'],
          attacks: [unknown('unknown_host', { hostId: 'host-9' }, 'host_id')],
        },
        getMachine: { good: { machineId }, ids: ['machineId'], attacks: [unknownMachine] },
        startMachine: { good: { machineId }, ids: ['machineId'], attacks: [unknownMachine] },
        stopMachine: {
          good: { machineId },
          ids: ['machineId'],
          attacks: [
            unknownMachine,
            { what: 'signal', request: { machineId, signal: 'KILL' }, reason: 'invalid_argument', field: 'signal' },
            {
              what: 'timeout -1 s',
              request: { machineId, timeout: seconds(-1) },
              reason: 'invalid_argument',
              field: 'timeout',
            },
            {
              what: 'timeout 301 s',
              request: { machineId, timeout: seconds(301) },
              reason: 'invalid_argument',
              field: 'timeout',
            },
          ],
        },
        restartMachine: { good: { machineId }, ids: ['machineId'], attacks: [unknownMachine] },
        destroyMachine: {
          good: { machineId },
          ids: ['machineId'],
          attacks: [
            unknownMachine,
            { what: 'it runs', request: { machineId }, reason: 'machine_running', field: 'machine_id' },
          ],
        },
        machineLogs: {
          good: { machineId },
          ids: ['machineId'],
          attacks: [
            unknownMachine,
            {
              what: 'lines',
              request: { machineId, tailLines: 10_001 },
              reason: 'invalid_argument',
              field: 'tail_lines',
            },
          ],
        },
      },
      atCoordinator,
      look,
    );
  });

  test('volumes', async () => {
    const wish = { name: 'v', sizeBytes: 1n << 20n, hostId: 'host-a' };
    const size = (sizeBytes: bigint) => ({
      what: `size ${sizeBytes}`,
      request: { ...wish, sizeBytes },
      reason: 'invalid_argument',
      field: 'size_bytes',
    });
    const volumeId = looseVolume;
    const ttl = (count: number) => ({
      what: `${count} s`,
      request: { volumeId, ttl: seconds(count) },
      reason: 'invalid_argument',
      field: 'ttl',
    });
    const unknownVolume = unknown('unknown_volume', { volumeId: noVolume }, 'volume_id');
    const inUse = {
      what: 'in use',
      request: { volumeId: withVolume.volumeId },
      reason: 'volume_in_use',
      field: 'volume_id',
    };
    await attack(
      VolumeService,
      {
        createVolume: {
          good: wish,
          ids: ['name', 'hostId'],
          attacks: [
            ...[0n, 1n, 4095n, (1n << 20n) + 1n, 1n << 63n, hugeNumber, 1n << 46n].map(size),
            { what: 'down', request: { ...wish, hostId: 'host-c' }, reason: 'host_unreachable' },
            unknown('unknown_host', { ...wish, hostId: 'host-9' }, 'host_id'),
          ],
        },
        listVolumes: {
          good: {},
          optionalIds: ['hostId'],
          attacks: [unknown('unknown_host', { hostId: 'host-9' }, 'host_id')],
        },
        getVolume: { good: { volumeId }, ids: ['volumeId'], attacks: [unknownVolume] },
        exportVolume: {
          good: { volumeId },
          ids: ['volumeId'],
          attacks: [unknownVolume, inUse, ttl(-1), ttl(0.5), ttl(86_401), ttl(1e11)],
        },
        destroyVolume: {
          good: { volumeId },
          ids: ['volumeId'],
          attacks: [
            unknownVolume,
            inUse,
            { ...inUse, request: { ...inUse.request, force: true } },
            {
              what: 'who orders',
              request: { volumeId, orderedBy: 'x'.repeat(201) },
              reason: 'invalid_argument',
              field: 'ordered_by',
            },
          ],
        },
      },
      atCoordinator,
      look,
    );
  });

  test('hosts', async () => {
    const beat = {
      hostId: 'host-a',
      region: 'local',
      address: cluster.address('host-a'),
      agentVersion: '1',
      journalId: 'another',
      journalCounter: 1n,
    };
    const unknownHost = unknown('unknown_host', { hostId: 'host-9' }, 'host_id');
    await attack(
      HostService,
      {
        heartbeat: {
          good: { ...beat, hostId: 'host-9' },
          ids: ['hostId', 'region'],
          opaqueIds: ['journalId', 'directoryId'],
          attacks: [
            {
              what: 'a long directory ID',
              request: { ...beat, hostId: 'host-9', address: '127.0.0.1:1', directoryId: 'x'.repeat(65) },
              reason: 'invalid_argument',
              field: 'directory_id',
            },
            {
              what: 'a long generation',
              request: { ...beat, hostId: 'host-9', address: '127.0.0.1:1', storeGeneration: 'x'.repeat(65) },
              reason: 'invalid_argument',
              field: 'store_generation',
            },
            { what: 'another agent of this name', request: beat, reason: 'host_taken', field: 'host_id' },
            {
              what: 'another agent of this name elsewhere',
              request: { ...beat, address: '127.0.0.1:1', journalCounter: 1n << 40n },
              reason: 'host_taken',
              field: 'host_id',
            },
            {
              what: 'address of another',
              request: { ...beat, hostId: 'host-9' },
              reason: 'host_taken',
              field: 'address',
            },
            {
              what: 'no address',
              request: { ...beat, hostId: 'host-9', address: 'file:///etc' },
              reason: 'invalid_argument',
              field: 'address',
            },
            {
              what: 'port',
              request: { ...beat, hostId: 'host-9', address: '127.0.0.1:99999' },
              reason: 'invalid_argument',
              field: 'address',
            },
            {
              what: 'no journal',
              request: { ...beat, hostId: 'host-9', address: '127.0.0.1:1', journalId: '' },
              reason: 'invalid_argument',
              field: 'journal_id',
            },
            {
              what: 'Machine without ID',
              request: { ...beat, hostId: 'host-9', address: '127.0.0.1:1', placements: [{}] },
              reason: 'invalid_argument',
              field: 'placements[0].machine.id',
            },
          ],
        },
        listHosts: { good: {} },
        getHostStatus: { good: {}, ids: ['hostId'], attacks: [unknownHost] },
        cordonHost: { good: {}, ids: ['hostId'], attacks: [unknownHost] },
        uncordonHost: { good: {}, ids: ['hostId'], attacks: [unknownHost] },
        setCopyLimitsOfHost: {
          good: { limits: {} },
          ids: ['hostId'],
          attacks: [
            unknown('unknown_host', { hostId: 'host-9', limits: {} }, 'host_id'),
            { what: 'none', request: { hostId: 'host-a' }, reason: 'invalid_argument', field: 'limits' },
            {
              what: '1 byte a second',
              request: { hostId: 'host-a', limits: { sendBytesPerSecond: 1n } },
              reason: 'invalid_argument',
              field: 'limits.send_bytes_per_second',
            },
            {
              what: '2^64 - 1 bytes a second',
              request: { hostId: 'host-a', limits: { receiveBytesPerSecond: hugeNumber } },
              reason: 'invalid_argument',
              field: 'limits.receive_bytes_per_second',
            },
            { what: 'down', request: { hostId: 'host-c', limits: {} }, reason: 'host_unreachable' },
          ],
        },
        removeHost: {
          good: {},
          ids: ['hostId'],
          attacks: [
            unknownHost,
            { what: 'in use', request: { hostId: 'host-a' }, reason: 'invalid_argument', field: 'host_id' },
            { what: 'alive', request: { hostId: 'host-b' }, reason: 'invalid_argument', field: 'host_id' },
          ],
        },
      },
      atCoordinator,
      look,
    );
  });

  test('drains', async () => {
    const { drain } = await cluster.drains.drainHost({ hostId: 'host-d' });
    const over = drain!.id;
    await cluster.until('host-d is empty', async () => {
      const now = (await cluster.drains.getDrain({ drainId: over })).drain;
      return now?.endedAt !== undefined;
    });
    const order = (what: string, options: object, field: string, reason = 'invalid_argument') => ({
      what,
      request: { hostId: 'host-a', options },
      reason,
      field,
    });
    const strangers = Array.from({ length: 1001 }, () => 'host-b');
    const unknownDrain = unknown('unknown_drain', { drainId: 'drn_01ARZ3NDEKTSV4RRFFQ69G5FAV' }, 'drain_id');
    const neverDrained = { ...unknownDrain, what: 'never drained', request: { drainId: 'host-b' } };
    const byId = { good: { drainId: over }, ids: ['drainId'], attacks: [unknownDrain, neverDrained] };
    const ended = { what: 'it has ended', request: { drainId: over }, reason: 'drain_ended', field: 'drain_id' };
    const steer = { ...byId, attacks: [...byId.attacks, ended] };
    await attack(
      DrainService,
      {
        drainHost: {
          good: { hostId: 'host-a' },
          ids: ['hostId'],
          attacks: [
            unknown('unknown_host', { hostId: 'host-9' }, 'host_id'),
            { what: 'down', request: { hostId: 'host-c' }, reason: 'host_unreachable', field: 'host_id' },
            order('to a stranger', { to: ['host-b', 'host-9'] }, 'options.to[1]', 'unknown_host'),
            order('to ../x', { to: ['../x'] }, 'options.to[0]'),
            order('to itself', { to: ['host-a'] }, 'options.to[0]'),
            order('to too many', { to: strangers }, 'options.to'),
            order('not to a stranger', { exclude: ['host-9'] }, 'options.exclude[0]', 'unknown_host'),
            order('to one that is excluded', { to: ['host-b'], exclude: ['host-b'] }, 'options.to[0]'),
            order('to a cordoned host only', { to: ['host-d'] }, 'host_id', 'no_host'),
            order('to no host', { exclude: ['host-b'] }, 'host_id', 'no_host'),
            order('65 at once', { concurrency: 65 }, 'options.concurrency'),
            order('21 tries', { attemptsMax: 21 }, 'options.attempts_max'),
            order('strategy', { strategy: 99 }, 'options.strategy'),
            ...[1n, hugeNumber].map((downtimeBudgetMs) =>
              order(`budget ${downtimeBudgetMs} ms`, { downtimeBudgetMs }, 'options.downtime_budget_ms'),
            ),
            ...[-101, 101, -(2 ** 31)].map((priority) =>
              order(`priority ${priority}`, { priority }, 'options.priority'),
            ),
            {
              what: 'reason',
              request: { hostId: 'host-a', reason: 99 as MoveReason },
              reason: 'invalid_argument',
              field: 'reason',
            },
            ...['x'.repeat(201), 'a\nb'].map((orderedBy) => ({
              what: `ordered by ${JSON.stringify(orderedBy.slice(0, 9))}`,
              request: { hostId: 'host-a', orderedBy },
              reason: 'invalid_argument',
              field: 'ordered_by',
            })),
          ],
        },
        listDrains: {
          good: {},
          attacks: [{ what: 'limit', request: { limit: 1001 }, reason: 'invalid_argument', field: 'limit' }],
        },
        getDrain: byId,
        watchDrain: byId,
        pauseDrain: steer,
        resumeDrain: steer,
        cancelDrain: steer,
      },
      atCoordinator,
      look,
    );
  });

  test('migrations and locks', async () => {
    const machineId = plain.id;
    const migrate = { machineId, destination: 'host-b' };
    const to = (destination: string, reason: string) => ({
      what: `to ${destination}`,
      request: { machineId, destination },
      reason,
      field: 'destination',
    });
    const deadline = (count: number) => ({
      what: `${count} s`,
      request: { ...migrate, startDeadline: seconds(count) },
      reason: 'invalid_argument',
      field: 'start_deadline',
    });
    const migrationId = newMigration();
    const unknownMigration = unknown('unknown_migration', { migrationId }, 'migration_id');
    const ended = {
      what: 'it has moved',
      request: { migrationId: movedId, hostId: 'host-d' },
      reason: 'invalid_argument',
      field: 'migration_id',
    };
    const ids = { good: { migrationId }, ids: ['migrationId'] };
    await attack(
      MigrationService,
      {
        migrateMachine: {
          good: migrate,
          ids: ['machineId'],
          optionalIds: ['destination'],
          attacks: [
            unknown('unknown_machine', { ...migrate, machineId: nobody }, 'machine_id'),
            to('host-9', 'unknown_host'),
            to('host-a', 'same_host'),
            to('host-c', 'host_unreachable'),
            to('host-d', 'host_cordoned'),
            ...[-1, 0, 1e11].map(deadline),
            {
              what: 'override of a stranger',
              request: { ...migrate, overrideHosts: ['host-9'] },
              reason: 'unknown_host',
              field: 'override_hosts',
            },
            {
              what: 'override of ../x',
              request: { ...migrate, overrideHosts: ['host-d', '../x'] },
              reason: 'invalid_argument',
              field: 'override_hosts[1]',
            },
            {
              what: 'strategy',
              request: { ...migrate, strategy: 99 as MigrationStrategy },
              reason: 'invalid_argument',
              field: 'strategy',
            },
            {
              what: 'reason',
              request: { ...migrate, reason: 99 as MoveReason },
              reason: 'invalid_argument',
              field: 'reason',
            },
            ...[-101, 101, 2 ** 31 - 1].map((priority) => ({
              what: `priority ${priority}`,
              request: { ...migrate, priority },
              reason: 'invalid_argument',
              field: 'priority',
            })),
            ...[-1, 0, 601, 1e11].map((count) => ({
              what: `budget ${count} s`,
              request: { ...migrate, downtimeBudget: seconds(count) },
              reason: 'invalid_argument',
              field: 'downtime_budget',
            })),
            {
              what: 'a long name of who orders it',
              request: { ...migrate, orderedBy: 'x'.repeat(201) },
              reason: 'invalid_argument',
              field: 'ordered_by',
            },
          ],
        },
        listMigrations: {
          good: {},
          attacks: [{ what: 'limit', request: { limit: 1001 }, reason: 'invalid_argument', field: 'limit' }],
        },
        getMigration: { ...ids, attacks: [unknownMigration] },
        watchMigration: { ...ids, attacks: [unknownMigration] },
        cancelMigration: { ...ids, attacks: [unknownMigration] },
        retryMigration: { ...ids, attacks: [unknownMigration, ended] },
        acceptDown: { ...ids, attacks: [unknownMigration, ended] },
        overrideHost: {
          good: { migrationId: movedId, hostId: 'host-d' },
          ids: ['migrationId', 'hostId'],
          attacks: [
            unknown('unknown_migration', { migrationId, hostId: 'host-d' }, 'migration_id'),
            unknown('unknown_host', { migrationId: movedId, hostId: 'host-9' }, 'host_id'),
            ended,
          ],
        },
      },
      atCoordinator,
      look,
    );
    await attack(
      LockService,
      {
        listLocks: { good: {} },
        explainLock: {
          good: { network: 'plain' },
          ids: ['network'],
          attacks: [unknown('unknown_network', { network: 'nowhere' }, 'network')],
        },
      },
      atCoordinator,
      look,
    );
    await attack(ClusterService, { getStatus: { good: {} } }, atCoordinator, look);
  });

  test('of several migrations of one Machine at once all but one', async () => {
    const load = await LedgerLoad.start(cluster, 'host-a', { network: 'contested' });
    const { id } = load.machine;
    const answers = await Promise.allSettled([1, 2, 3, 4].map(() => cluster.migrate(id, 'host-b')));
    const claimed = answers.flatMap((answer) => (answer.status === 'fulfilled' ? [answer.value] : []));
    const errors = answers.flatMap((answer) => (answer.status === 'rejected' ? [toFerryError(answer.reason)] : []));
    expect(claimed).toHaveLength(1);
    for (const { reason, message, facts, field } of errors) {
      expect({ reason, field, facts }).toEqual({
        reason: 'machine_busy',
        field: 'machine_id',
        facts: { migration: claimed[0], machine: id },
      });
      expect(message).toContain(claimed[0]);
    }
    await cluster.ended(claimed[0]!);
    await load.more(5);
    expect(await load.verdict()).toMatchObject({ lost: 0, problems: [] });
    await cluster.machines.destroyMachine({ machineId: id, force: true }, { timeoutMs: 20_000 });
  });
});

describe('an agent refuses', () => {
  const look = () => world(['host-a', 'host-b'], false);
  /** Prepared and no further; stopped and verified. */
  let prepared: Drive;
  let verified: Drive;
  let verifiedHandover: Handover;
  let preparedHandover: Handover;
  /** Burnt at the source. */
  let ended: Drive;

  const at = (host = 'host-a') => cluster.address(host);
  const invalid = (what: string, request: object, field: string) => ({
    what,
    request,
    reason: 'invalid_argument',
    field,
  });

  beforeAll(async () => {
    await cluster.kill('coordinator');
    prepared = new Drive(cluster, plain);
    for (let term = 1; term < 5; term += 1) prepared.raiseTerm();
    preparedHandover = await prepared.prepare();
    verified = new Drive(cluster, withVolume);
    await verified.untilStopped();
    verifiedHandover = await verified.copy();
    const { machines } = await cluster.agent('host-a').agentListMachines({});
    ended = new Drive(cluster, machines.find((machine) => machine.network === 'moved')!);
    await ended.prepare();
    await ended.from.abort({ header: ended.header, machineId: machines.find((each) => each.network === 'moved')!.id });
    await cluster.until('the end is known at both', async () => (await ended.at('host-b'))?.step === 'prepared');
  });

  test('Machines and volumes', async () => {
    const machineId = plain.id;
    const unknownMachine = {
      what: 'unknown',
      request: { machineId: nobody },
      reason: 'unknown_machine',
      field: 'machine_id',
    };
    const wish = { machineId: nobody, name: 'n', app: 'app', network: 'net', networkNumber: 7, config: sleeper };
    const set = { machineId, action: 'start' };
    const volumeId = looseVolume;
    const unknownVolume = {
      what: 'unknown',
      request: { volumeId: noVolume },
      reason: 'unknown_volume',
      field: 'volume_id',
    };
    const inUse = {
      what: 'in use',
      request: { volumeId: withVolume.volumeId },
      reason: 'volume_in_use',
      field: 'volume_id',
    };
    const newVolume = { volumeId: newVolumeId(systemRandom), name: 'v', sizeBytes: 1n << 20n };
    const noted = { machineId, event: { type: 'accept', migration: { migrationId: newMigration() } } };
    await attack(
      AgentService,
      {
        createMachine: {
          good: wish,
          ids: ['machineId', 'app', 'network', 'name'],
          attacks: [
            invalid('no config', { ...wish, config: undefined }, 'config'),
            invalid('empty config', { ...wish, config: {} }, 'config.image'),
            invalid('network number', { ...wish, networkNumber: 0 }, 'network_number'),
            invalid(
              'mount path',
              { ...wish, config: { ...sleeper, mounts: [{ path: '../x', sizeGb: 1 }] } },
              'config.mounts[0].path',
            ),
            invalid(
              'volume',
              { ...wish, config: { ...sleeper, mounts: [{ path: '/d', volume: '../x' }] } },
              'config.mounts[0].volume',
            ),
            invalid(
              'size',
              { ...wish, config: { ...sleeper, mounts: [{ path: '/d', sizeGb: 4_294_967_295 }] } },
              'config.mounts[0].size_gb',
            ),
            {
              what: 'unknown program with a volume',
              request: { ...wish, config: { init: { exec: ['/no/such/program'] }, mounts: keeper.mounts } },
              reason: 'cannot_run',
            },
          ],
        },
        agentGetMachine: { good: { machineId }, ids: ['machineId'], attacks: [unknownMachine] },
        agentListMachines: { good: {} },
        agentSetMachine: {
          good: set,
          ids: ['machineId'],
          attacks: [
            { ...unknownMachine, request: { ...set, machineId: nobody } },
            invalid('action', { ...set, action: 'explode' }, 'action'),
            invalid('no action', { machineId }, 'action'),
            invalid('signal', { ...set, action: 'stop', signal: 'SIGSTOP' }, 'signal'),
            invalid('timeout', { ...set, action: 'stop', timeout: seconds(301) }, 'timeout'),
            invalid('timeout -1 s', { ...set, action: 'stop', timeout: seconds(-1) }, 'timeout'),
            { what: 'runs', request: { ...set, action: 'destroy' }, reason: 'machine_running', field: 'machine_id' },
          ],
        },
        agentMachineLogs: {
          good: { machineId },
          ids: ['machineId'],
          attacks: [unknownMachine, invalid('lines', { machineId, tailLines: 10_001 }, 'tail_lines')],
        },
        agentCreateVolume: {
          good: newVolume,
          ids: ['volumeId', 'name'],
          attacks: [
            ...[0n, 4095n, hugeNumber, 1n << 50n].map((sizeBytes) =>
              invalid(`size ${sizeBytes}`, { ...newVolume, sizeBytes }, 'size_bytes'),
            ),
            {
              what: 'exists',
              request: { ...newVolume, volumeId, sizeBytes: 1n << 25n },
              reason: 'volume_exists',
              field: 'volume_id',
            },
            ...['/etc/passwd', '../journal.db', '.', 'a\0b', 'no-such-file', '/proc/self/environ'].map((fromPath) =>
              invalid(`from ${fromPath}`, { ...newVolume, fromPath }, 'from_path'),
            ),
          ],
        },
        agentListVolumes: { good: {} },
        agentDestroyVolume: {
          good: { volumeId },
          ids: ['volumeId'],
          attacks: [unknownVolume, inUse, { ...inUse, request: { ...inUse.request, force: true } }],
        },
        agentNoteEvent: {
          good: noted,
          ids: ['machineId', 'event.migration.migrationId'],
          attacks: [
            { ...unknownMachine, request: { ...noted, machineId: nobody } },
            invalid('no event', { machineId }, 'event.type'),
            invalid('another event', { machineId, event: { ...noted.event, type: 'launch' } }, 'event.type'),
            invalid('no migration', { machineId, event: { type: 'accept' } }, 'event.migration.migration_id'),
          ],
        },
        agentExportVolume: {
          good: { volumeId },
          ids: ['volumeId'],
          attacks: [
            unknownVolume,
            ...[-1, 0, 86_401, 1e11].map((count) => invalid(`${count} s`, { volumeId, ttl: seconds(count) }, 'ttl')),
          ],
        },
        setCordon: { good: {} },
        setCopyLimits: {
          good: { limits: {} },
          attacks: [
            invalid('nothing', {}, 'limits'),
            ...[1n, 1_048_575n, hugeNumber].flatMap((rate) => [
              invalid(`send ${rate}`, { limits: { sendBytesPerSecond: rate } }, 'limits.send_bytes_per_second'),
              invalid(
                `receive ${rate}`,
                { limits: { receiveBytesPerSecond: rate } },
                'limits.receive_bytes_per_second',
              ),
            ]),
          ],
        },
        setDrain: {
          good: { drainId: newDrainId(Date.now(), systemRandom), drain: Buffer.from('x') },
          ids: ['drainId'],
          attacks: [
            invalid('no ID', { drain: Buffer.from('x') }, 'drain_id'),
            invalid('1 MiB and more', { drain: Buffer.alloc(1_048_577) }, 'drain'),
          ],
        },
        getDrainRecord: { good: {} },
        getHost: { good: {} },
        forgetHost: { good: { hostId: 'host-9' }, ids: ['hostId'] },
      },
      at,
      look,
    );
  });

  test('orders', async () => {
    const header = prepared.header;
    const machineId = plain.id;
    const ids = ['header.migrationId'];
    const stale = (request: object) => ({
      what: 'an earlier driver',
      request: { ...request, header: prepared.staleHeader },
      reason: 'stale_term',
    });
    const strangers = { ...header, migrationId: newMigration() };
    const numbers = (request: object) => [
      invalid('no header', { ...request, header: undefined }, 'header'),
      invalid('huge term', { ...request, header: { ...header, term: hugeNumber } }, 'header.term'),
      invalid('huge fence', { ...request, header: { ...header, fence: hugeNumber } }, 'header.fence'),
      invalid('holder', { ...request, header: { ...header, lockHolder: '../x' } }, 'header.lock_holder'),
    ];
    const wait = (request: object) => invalid('wait -1 s', { ...request, wait: seconds(-1) }, 'wait');
    const { record } = await prepared.offer();
    const other = new SigningKey(SigningKey.generatePem());
    const subject = {
      migrationId: verified.migrationId,
      machineId: withVolume.id,
      epoch: 2,
      source: 'host-a',
      destination: 'host-b',
      volumeId: verifiedHandover.volumeId,
    };
    const ticket = { ...subject, root: verified.root, recordDigest: '0'.repeat(64) };
    const garbled = { kind: 'Ticket', statement: new Uint8Array([255, 255]), signature: new Uint8Array(64) };
    const offer = {
      header,
      machineId,
      destination: { hostId: 'host-b', address: cluster.address('host-b') },
    };
    const fresh = { ...header, migrationId: newMigration(), lockHolder: '' };
    const prepare = {
      header: fresh,
      record: { ...record!, machineId: '11111111111111' },
      source: { hostId: 'host-b', address: cluster.address('host-b') },
      epoch: 2n,
    };
    const permit = { network: 'other', migrationId: header.migrationId, fence: 1n };
    const onB = <T extends object>(attack: T) => ({ ...attack, host: 'host-b' });
    const decline = { header, machineId, source: 'host-a', epoch: 2n, volumeId: preparedHandover.volumeId };
    await attack(
      HandoverService,
      {
        offer: {
          good: { ...offer, order: {} },
          ids: [...ids, 'machineId', 'destination.hostId'],
          optionalIds: ['order.drainId'],
          attacks: [
            invalid('reason', { ...offer, order: { reason: 'boredom' } }, 'order.reason'),
            ...numbers(offer),
            stale(offer),
            invalid('no destination', { ...offer, destination: undefined }, 'destination.host_id'),
            invalid(
              'address',
              { ...offer, header: fresh, destination: { hostId: 'host-b', address: '/etc' } },
              'destination.address',
            ),
            {
              what: 'itself',
              request: { ...offer, header: fresh, destination: { hostId: 'host-a', address: at() } },
              reason: 'same_host',
              field: 'destination.host_id',
            },
            {
              what: 'unknown Machine',
              request: { ...offer, header: fresh, machineId: nobody },
              reason: 'unknown_machine',
              field: 'machine_id',
            },
            { what: 'ended', request: { ...offer, header: ended.header }, reason: 'burnt' },
            onB({
              what: 'at the destination',
              request: { ...offer, header: fresh, destination: { hostId: 'host-a', address: at() } },
              reason: 'unknown_machine',
            }),
          ],
        },
        prepare: {
          good: prepare,
          ids: [...ids, 'record.machineId', 'source.hostId'],
          optionalIds: ['record.instanceId', 'record.sourceVolumeId'],
          attacks: [
            ...numbers(prepare),
            invalid('no record', { ...prepare, record: undefined }, 'record'),
            invalid('no config', { ...prepare, record: { ...prepare.record, config: undefined } }, 'record.config'),
            invalid('no source', { ...prepare, source: undefined }, 'source.host_id'),
            invalid('address', { ...prepare, source: { hostId: 'host-b', address: 'x' } }, 'source.address'),
            ...[0n, hugeNumber].map((epoch) => invalid(`epoch ${epoch}`, { ...prepare, epoch }, 'epoch')),
            ...[-1, 1e11].map((count) =>
              invalid(`deadline ${count} s`, { ...prepare, startDeadline: seconds(count) }, 'start_deadline'),
            ),
            ...[1n, hugeNumber].map((volumeSizeBytes) =>
              invalid(
                `size ${volumeSizeBytes}`,
                { ...prepare, record: { ...prepare.record, volumeSizeBytes } },
                'record.volume_size_bytes',
              ),
            ),
            invalid('network', { ...prepare, record: { ...prepare.record, network: '../x' } }, 'record.network'),
            {
              what: 'no room',
              request: {
                ...prepare,
                record: { ...prepare.record, volumeSizeBytes: 1n << 43n, volumeAllocatedBytes: 1n << 43n },
              },
              reason: 'no_space',
            },
            {
              what: 'from itself',
              request: {
                ...prepare,
                source: { hostId: 'host-a', address: at() },
                record: { ...prepare.record, volumeSizeBytes: 1n << 20n },
              },
              reason: 'same_host',
              field: 'source.host_id',
            },
            {
              what: 'cannot run',
              request: {
                ...prepare,
                record: {
                  ...prepare.record,
                  config: create(MachineConfigSchema, { init: { exec: ['/no/such/program'] } }),
                },
              },
              reason: 'cannot_run',
            },
            {
              what: 'it owns the Machine',
              request: {
                ...prepare,
                source: { hostId: 'host-b', address: at('host-b') },
                record: { ...prepare.record, machineId, volumeSizeBytes: 1n << 20n },
              },
              reason: 'owner_here',
            },
            onB({
              what: 'with other particulars',
              request: { ...prepare, header, epoch: 9n, source: { hostId: 'host-a', address: at() } },
              reason: 'other_role',
            }),
            {
              what: 'at the source',
              request: { ...prepare, header, source: { hostId: 'host-b', address: at('host-b') } },
              reason: 'other_role',
            },
          ],
        },
        grantPermit: {
          good: { permit, term: 1n },
          ids: ['permit.network', 'permit.migrationId'],
          attacks: [
            invalid('nothing', {}, 'permit'),
            ...[0n, hugeNumber].map((fence) =>
              invalid(`fence ${fence}`, { permit: { ...permit, fence } }, 'permit.fence'),
            ),
            { what: 'held', request: { permit: { ...permit, network: 'kept', fence: 9n } }, reason: 'permit_refused' },
            {
              what: 'lower fence',
              request: { permit: { network: 'moved', migrationId: header.migrationId, fence: 1n } },
              reason: 'stale_fence',
            },
          ],
        },
        releasePermit: {
          good: { permit },
          ids: ['permit.network', 'permit.migrationId'],
          // A row that cannot be right is left aside: it must not keep a permit.
          opaqueIds: ['directory.machineId', 'directory.hostId'],
          attacks: [
            invalid('nothing', {}, 'permit'),
            invalid('fence', { permit: { ...permit, fence: hugeNumber } }, 'permit.fence'),
            {
              what: 'in use',
              request: { permit: { network: 'kept', migrationId: verified.migrationId, fence: 1n } },
              reason: 'permit_in_use',
            },
          ],
        },
        listPermits: { good: {} },
        stopForMigration: {
          good: { header },
          ids,
          attacks: [
            ...numbers({}),
            wait({ header }),
            stale({}),
            { what: 'unknown', request: { header: strangers }, reason: 'unknown_migration' },
            { what: 'without a permit', request: { header: { ...header, fence: 1n } }, reason: 'no_permit' },
            onB({ what: 'at the destination', request: { header }, reason: 'other_role' }),
          ],
        },
        precopy: {
          good: { header },
          ids,
          attacks: [
            ...numbers({}),
            wait({ header }),
            onB(stale({})),
            onB(invalid('huge budget', { header, downtimeBudgetMs: hugeNumber }, 'downtime_budget_ms')),
            { what: 'at the source', request: { header }, reason: 'other_role' },
            onB({ what: 'unknown', request: { header: strangers }, reason: 'unknown_migration' }),
          ],
        },
        copy: {
          good: { header },
          ids,
          attacks: [
            ...numbers({}),
            wait({ header }),
            onB(stale({})),
            { what: 'at the source', request: { header }, reason: 'other_role' },
            onB({ what: 'unknown', request: { header: strangers }, reason: 'unknown_migration' }),
          ],
        },
        relinquish: {
          good: { header },
          ids,
          attacks: [
            ...numbers({}),
            stale({}),
            { what: 'not stopped', request: { header, destinationRoot: verified.root }, reason: 'not_yet' },
            {
              what: 'another root',
              request: { header: verified.header, destinationRoot: 'f'.repeat(64) },
              reason: 'root_mismatch',
            },
            { what: 'no root', request: { header: verified.header }, reason: 'root_mismatch' },
            onB({ what: 'at the destination', request: { header }, reason: 'other_role' }),
          ],
        },
        accept: {
          good: { header, ticket: signTicket(other, ticket) },
          ids,
          attacks: [
            ...numbers({}),
            onB(stale({ ticket: signTicket(other, ticket) })),
            onB(invalid('no ticket', { header: verified.header }, 'ticket')),
            onB(invalid('garbled', { header: verified.header, ticket: garbled }, 'statement')),
            onB(invalid('kind', { header: verified.header, ticket: { ...garbled, kind: 'Cheque' } }, 'statement.kind')),
            onB({
              what: 'forged',
              request: { header: verified.header, ticket: signTicket(other, ticket) },
              reason: 'bad_signature',
            }),
            onB({
              what: 'of another migration',
              request: {
                header: verified.header,
                ticket: signTicket(other, { ...ticket, migrationId: newMigration() }),
              },
              reason: 'wrong_statement',
            }),
            onB({
              what: 'a settlement',
              request: { header: verified.header, ticket: signSettlement(other, ticket) },
              reason: 'wrong_statement',
            }),
            {
              what: 'at the source',
              request: { header: verified.header, ticket: signTicket(other, ticket) },
              reason: 'other_role',
            },
          ],
        },
        settle: {
          good: { header },
          ids,
          attacks: [
            ...numbers({}),
            wait({ header: verified.header, settlement: signSettlement(other, ticket) }),
            stale({}),
            invalid('nothing', { header: verified.header }, 'settlement'),
            {
              what: 'forged',
              request: { header: verified.header, settlement: signSettlement(other, ticket) },
              reason: 'not_yet',
            },
            {
              what: 'a ticket',
              request: { header: verified.header, settlement: signTicket(other, ticket) },
              reason: 'wrong_statement',
            },
            onB({
              what: 'at the destination',
              request: { header: verified.header, settlement: signSettlement(other, ticket) },
              reason: 'other_role',
            }),
          ],
        },
        abort: {
          good: { header: fresh, machineId },
          ids: [...ids, 'machineId'],
          attacks: [
            ...numbers({ machineId }),
            stale({ machineId }),
            onB({ what: 'at the destination', request: { header, machineId }, reason: 'other_role' }),
          ],
        },
        decline: {
          good: { ...decline, header: fresh },
          ids: [...ids, 'machineId', 'source'],
          optionalIds: ['volumeId'],
          attacks: [
            ...numbers(decline),
            onB(stale(decline)),
            onB(invalid('epoch', { ...decline, header: fresh, epoch: hugeNumber }, 'epoch')),
            { what: 'at the source', request: decline, reason: 'other_role' },
          ],
        },
        takeBack: {
          good: { header },
          ids,
          attacks: [
            ...numbers({}),
            stale({}),
            invalid('nothing', { header: verified.header }, 'decline'),
            {
              what: 'forged',
              request: { header: verified.header, decline: signDecline(other, subject) },
              reason: 'bad_signature',
            },
            onB({
              what: 'at the destination',
              request: { header: verified.header, decline: signDecline(other, subject) },
              reason: 'other_role',
            }),
          ],
        },
        acceptMachineDown: {
          good: { header },
          ids,
          attacks: [
            ...numbers({}),
            stale({}),
            { what: 'unknown', request: { header: strangers }, reason: 'unknown_migration' },
          ],
        },
        getHandover: { good: { migrationId: header.migrationId }, ids: ['migrationId'] },
        listHandovers: { good: {} },
      },
      at,
      look,
    );
  });

  test('other agents', async () => {
    const { migrationId } = prepared;
    const other = new SigningKey(SigningKey.generatePem());
    const pair = { migrationId, hostId: 'host-b', publicKey: other.publicKey, volumeId: preparedHandover.volumeId };
    const nonce = randomBytes(32);
    const open = {
      migrationId: verified.migrationId,
      nonce,
      signature: other.sign('ferry.v1.OpenExport', nonce),
      fingerprint: '',
    };
    const subject = {
      migrationId: verified.migrationId,
      machineId: withVolume.id,
      epoch: 2,
      source: 'host-a',
      destination: 'host-b',
      volumeId: verifiedHandover.volumeId,
    };
    const settlement = signSettlement(other, { ...subject, root: verified.root });
    const deliver = { migrationId: verified.migrationId, statement: settlement };
    await attack(
      PeerService,
      {
        pair: {
          good: pair,
          ids: ['migrationId', 'hostId', 'volumeId'],
          attacks: [
            { what: 'another key', request: pair, reason: 'other_role' },
            { what: 'a third host', request: { ...pair, hostId: 'host-d' }, reason: 'other_role' },
            { what: 'never offered', request: { ...pair, migrationId: newMigration() }, reason: 'unknown_migration' },
            invalid('key', { ...pair, publicKey: randomBytes(31) }, 'public_key'),
          ],
        },
        openExport: {
          good: open,
          ids: ['migrationId'],
          attacks: [
            { what: 'forged', request: open, reason: 'bad_signature' },
            { what: 'unsigned', request: { ...open, signature: new Uint8Array() }, reason: 'bad_signature' },
            { what: 'never offered', request: { ...open, migrationId: newMigration() }, reason: 'unknown_migration' },
            invalid('nonce', { ...open, nonce: randomBytes(8) }, 'nonce'),
            { what: 'forged, live', request: { ...open, live: true, round: 1 }, reason: 'bad_signature' },
            { what: 'at the destination', request: open, reason: 'other_role', host: 'host-b' },
          ],
        },
        deliver: {
          good: deliver,
          ids: ['migrationId'],
          opaqueIds: ['directory.machineId', 'directory.hostId'],
          attacks: [
            invalid('nothing', { migrationId }, 'statement'),
            invalid('kind', { migrationId, statement: { ...settlement, kind: '' } }, 'statement.kind'),
            { what: 'forged settlement', request: deliver, reason: 'not_yet' },
            {
              what: 'forged decline',
              request: { ...deliver, statement: signDecline(other, subject) },
              reason: 'bad_signature',
            },
            {
              what: 'never offered',
              request: { ...deliver, migrationId: newMigration() },
              reason: 'unknown_migration',
            },
          ],
        },
      },
      at,
      look,
    );
  });

  test('and goes on: what was half-way before all this ends well', async () => {
    const given = await verified.relinquish();
    expect(await verified.accept(given.statement!, given.record)).toMatchObject({ step: 'owner', epoch: 2n });
    expect(Object.keys(reasons)).toContain('host_taken');
  });
});
