import { create } from '@bufbuild/protobuf';
import { beforeAll, expect, test } from 'vitest';
import { GetStatusResponseSchema } from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import { HostSchema } from '../../proto/gen/ferry/v1/host_pb.ts';
import { NetworkLockSchema } from '../../proto/gen/ferry/v1/lock_pb.ts';
import { HostStatus } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { at, migrationId, movedMachine } from '../fake-coordinator.fixture.ts';
import { renderHostList, renderHostStatus } from './host.ts';
import { renderLockExplanation, renderLockList } from './lock.ts';
import { renderStatus } from './status.ts';

beforeAll(() => {
  process.env.TZ = 'UTC';
});

const host = create(HostSchema, {
  id: 'host-1',
  number: 1,
  region: 'ams',
  address: '127.0.0.1:7401',
  status: HostStatus.OK,
  cordoned: true,
  drainId: 'drn_X',
  agentVersion: '0.2.0',
  machineCount: 2,
  lastHeartbeatAt: at(0),
  dnsAddress: '127.0.0.1:5301',
  copyLimits: { sendBytesPerSecond: 50n << 20n },
  notes: ['no reflinks here', 'no cgroups here'],
  capacity: {
    cpus: 4,
    cpusUsed: 2,
    memoryMb: 8192n,
    memoryUsedMb: 512n,
    volumeFreeBytes: 1n << 30n,
    volumeTotalBytes: 1n << 31n,
  },
});

test('status: what needs attention first, then the numbers, then only the lists that have something', () => {
  const status = create(GetStatusResponseSchema, {
    coordinators: [
      { id: 'c-1', address: '127.0.0.1:7400', alive: true, driving: 1, version: '0.2.0', self: true },
      { id: 'c-2', address: '127.0.0.1:7401', version: '0.2.0' },
    ],
    store: 'redis at 127.0.0.1:6379',
    hostsOk: 2,
    hostsUnreachable: ['host-3'],
    hostsCordoned: ['host-1'],
    machines: 3,
    machinesTroubled: ['d8dd625fed5568 is failed'],
    migrationsRunning: 1,
    migrationsParked: [migrationId],
    locksHeld: 1,
    drainsOpen: ['drn_X'],
    attention: [
      'Nothing is locked: host-3 has not reported',
      `Migration ${migrationId} is parked: ferry migration status ${migrationId}`,
    ],
    rebuilding: 'host-3 has not reported',
  });
  const parts = {
    asked: '127.0.0.1:7400',
    status,
    machines: [movedMachine()],
    migrations: [],
    locks: [],
    drains: undefined,
  };
  expect(renderStatus({ ...parts, hosts: undefined, missing: [] })).toBe(`Attention
  - Nothing is locked: host-3 has not reported
  - Migration ${migrationId} is parked: ferry migration status ${migrationId}

  Coordinator = c-1 at 127.0.0.1:7400, drives 1 migration, version 0.2.0, answers this
  Coordinator = c-2 at 127.0.0.1:7401, NOT ALIVE: its lease has run out, version 0.2.0
  Store       = redis at 127.0.0.1:6379
  Hosts       = 2 ok, 1 unreachable (host-3), 1 cordoned (host-1)
  Machines    = 1 started
  In trouble  = d8dd625fed5568 is failed
  Migrations  = 1 running, 1 parked (${migrationId})
  Drains      = drn_X
  Locks       = 1 held
`);
});

test('host list and status: drain, limits, resolver, notes', () => {
  expect(
    renderHostList([host]),
  ).toBe(`HOST    STATUS        REGION  MACHINES  FREE     COPY LIMITS                   ADDRESS         DNS             VERSION  LAST HEARTBEAT                 INFO
host-1  ok, draining  ams     2         1.0 GiB  out 50.0 MiB/s, in unlimited  127.0.0.1:7401  127.0.0.1:5301  0.2.0    2026-11-22T10:00:00.000+00:00  2 notes: ferry host status host-1
`);
  const text = renderHostStatus(host, []);
  expect(text).toContain('  Drain          = drn_X (ferry drain status drn_X)\n');
  expect(text).toContain('  vCPUs          = 2 of 4 promised\n');
  expect(text).toContain('  Free           = 1.0 GiB of 2.0 GiB for volumes\n');
  expect(text).toContain('\nNotes\n  - no reflinks here\n  - no cgroups here\n');
});

test('locks: who waits, in which order, with which priority', () => {
  const lock = create(NetworkLockSchema, {
    network: 'shop',
    migrationId: 'mig_A',
    machineId: 'aaaaaaaaaaaaaa',
    source: 'host-1',
    destination: 'host-2',
    since: at(0),
    step: 'fork',
    fence: 7n,
    waiters: [
      { migrationId: 'mig_B', machineId: 'bbbbbbbbbbbbbb', since: at(1000), priority: 5 },
      { migrationId: 'mig_C', machineId: 'cccccccccccccc', since: at(500) },
    ],
  });
  expect(renderLockList([lock])).toContain('2 (next: mig_B, priority 5)');
  const response = { $typeName: 'ferry.v1.ExplainLockResponse' as const, lock, permits: [], explanation: 'Held.' };
  expect(renderLockExplanation('shop', response)).toContain(`Waiting in line
#  MIGRATION  MACHINE         PRIORITY  SINCE
1  mig_B      bbbbbbbbbbbbbb  5         2026-11-22T10:00:01.000+00:00
2  mig_C      cccccccccccccc  0         2026-11-22T10:00:00.500+00:00
`);
});
