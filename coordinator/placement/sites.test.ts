import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { describe, expect, test } from 'vitest';
import { DrainMachineState, DrainSchema } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { HostCapacitySchema } from '../../proto/gen/ferry/v1/host_pb.ts';
import { HostStatus, MachineSchema } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationSchema, MigrationState, MigrationStep } from '../../proto/gen/ferry/v1/migration_pb.ts';
import type { DrainRecord, HostRow, MigrationRecord, Placement } from '../store/store.ts';
import { sharedPerCpu } from './room.ts';
import { type ClusterView, sitesOf } from './sites.ts';

const gibibyte = 1024 ** 3;

const host = (id: string, changes: Partial<HostRow> = {}): HostRow => ({
  id,
  number: 1,
  region: 'ams',
  address: `${id}:1`,
  agentVersion: '',
  cordoned: false,
  capacity: create(HostCapacitySchema, { cpus: 2, memoryMb: 1000n, volumeFreeBytes: BigInt(10 * gibibyte) }),
  capabilities: ['mount'],
  journalId: '',
  journalCounter: 0n,
  journalWentBack: false,
  lastHeartbeatMs: 1000,
  copyLimits: undefined,
  dnsAddress: '',
  notes: [],
  ...changes,
});

const placed = (machineId: string, hostId: string): Placement => ({
  machineId,
  hostId,
  epoch: 1n,
  network: 'x',
  app: 'shop',
  machine: create(MachineSchema, {
    id: machineId,
    app: 'shop',
    config: { guest: { cpus: 1, memoryMb: 100 }, mounts: [{ path: '/data', sizeGb: 2 }] },
  }),
  seenMs: 0,
});

const moving = (machineId: string, destination: string, preparedMs?: number) =>
  ({
    migration: create(MigrationSchema, {
      id: `mig_${machineId}`,
      machineId,
      source: 'h1',
      destination,
      state: MigrationState.RUNNING,
      steps: preparedMs === undefined ? [] : [{ step: MigrationStep.PREPARE, endedAt: timestampFromMs(preparedMs) }],
    }),
  }) as MigrationRecord;

const drained = (machineId: string, destination: string, bytes: number, id = 'drn_1') =>
  ({
    drain: create(DrainSchema, {
      id,
      hostId: 'h1',
      machines: [{ machineId, destination, state: DrainMachineState.WAITING, bytes: BigInt(bytes) }],
    }),
  }) as DrainRecord;

const view = (changes: Partial<ClusterView> = {}): ClusterView => ({
  hosts: [host('h1'), host('h2')],
  statusOf: () => HostStatus.OK,
  placements: [placed('m1', 'h1')],
  migrations: [],
  drains: [],
  ...changes,
});

const leftOn = (id: string, changes: Partial<ClusterView> = {}) => sitesOf(view(changes)).get(id)!;

test('what is on a host is taken off what it has; its disk is counted by its agent', () => {
  expect(leftOn('h1')).toMatchObject({
    machines: 1,
    left: { cpuShares: 2 * sharedPerCpu - 1, memoryMb: 900, diskBytes: 10 * gibibyte },
  });
  expect(leftOn('h1').machinesOfApp.get('shop')).toBe(1);
});

test("the agent's own count of memory holds when it is higher", () => {
  const capacity = create(HostCapacitySchema, { memoryMb: 1000n, memoryUsedMb: 700n });
  expect(leftOn('h1', { hosts: [host('h1', { capacity })] }).left.memoryMb).toBe(300);
});

describe('a Machine on its way', () => {
  test('counts at its destination, with its full size while nobody knows better', () => {
    const there = leftOn('h2', { migrations: [moving('m1', 'h2')] });
    expect(there).toMatchObject({ machines: 1, left: { memoryMb: 900, diskBytes: 8 * gibibyte } });
  });

  test('does not count its disk twice once the agent has reserved it', () => {
    const before = leftOn('h2', { migrations: [moving('m1', 'h2', 2000)] });
    const after = leftOn('h2', { migrations: [moving('m1', 'h2', 500)] });
    expect(before.left.diskBytes).toBe(8 * gibibyte);
    expect(after.left).toMatchObject({ memoryMb: 900, diskBytes: 10 * gibibyte });
  });

  test('does not count twice once it has arrived', () => {
    const there = leftOn('h2', { placements: [placed('m1', 'h2')], migrations: [moving('m1', 'h2')] });
    expect(there).toMatchObject({ machines: 1, left: { memoryMb: 900 } });
  });
});

describe('a place that a drain has planned', () => {
  const drains = [drained('m1', 'h2', gibibyte)];

  test('counts for everybody else, with the bytes that are on the disk', () => {
    expect(leftOn('h2', { drains })).toMatchObject({ machines: 1, left: { memoryMb: 900, diskBytes: 9 * gibibyte } });
  });

  test('not for the drain itself, nor for the Machine', () => {
    expect(leftOn('h2', { drains, without: { drainId: 'drn_1' } }).left.memoryMb).toBe(1000);
    expect(leftOn('h2', { drains, without: { machineId: 'm1' } }).left.memoryMb).toBe(1000);
  });

  test('counts once when its migration runs', () => {
    const there = leftOn('h2', { drains, migrations: [moving('m1', 'h2')] });
    expect(there).toMatchObject({ machines: 1, left: { memoryMb: 900, diskBytes: 9 * gibibyte } });
  });

  test('and the host that is emptied takes nobody', () => {
    expect(leftOn('h1', { drains }).draining).toBe('drn_1');
  });
});
