import { create } from '@bufbuild/protobuf';
import { type Drain, DrainMachineState, DrainSchema, DrainState } from '../proto/gen/ferry/v1/drain_pb.ts';
import { MigrationStep, MoveReason } from '../proto/gen/ferry/v1/migration_pb.ts';
import { at, migrationId } from './fake-coordinator.fixture.ts';

export const drainId = 'drn_01J08P60K8NK33K9P5MQ5M4QN8';
const mebibyte = 1024n ** 2n;

/** What a drain of three Machines would do, of which one has no place. */
export function drainPlan(changes: Partial<Drain> = {}): Drain {
  const drain = create(DrainSchema, {
    hostId: 'host-1',
    state: DrainState.RUNNING,
    reason: MoveReason.MAINTENANCE,
    orderedBy: 'alice',
    options: { concurrency: 3, exclude: ['host-4'] },
    machinesTotal: 3,
    bytesTotal: 384n * mebibyte,
    predictedTotalMs: 65_000n,
    machines: [
      {
        machineId: 'bbbbbbbbbbbbbb',
        name: 'web-2',
        network: 'shop',
        order: 2,
        destination: 'host-3',
        bytes: 128n * mebibyte,
        predictedCopyMs: 1200n,
        predictedDowntimeMs: 450n,
        predictedWaitMs: 6000n,
        strategyNote: 'precopy: snapshots',
        refusedHosts: { 'host-2': 'it has 3 bytes left', 'host-4': 'it is excluded' },
      },
      {
        machineId: 'aaaaaaaaaaaaaa',
        name: 'web-1',
        network: 'shop',
        order: 1,
        destination: 'host-2',
        bytes: 128n * mebibyte,
        predictedCopyMs: 1200n,
        predictedDowntimeMs: 450n,
        strategyNote: 'precopy: snapshots',
        refusedHosts: { 'host-4': 'it is excluded' },
      },
      {
        machineId: 'cccccccccccccc',
        name: 'db',
        network: 'data',
        order: 3,
        bytes: 128n * mebibyte,
        blockers: ['no host has 64 GiB of memory left'],
        refusedHosts: {
          'host-2': 'it has 2 GiB of memory left',
          'host-3': 'it is cordoned',
          'host-4': 'it is excluded',
        },
      },
    ],
    blockers: ['host host-1 reports late'],
  });
  return Object.assign(drain, changes);
}

/** The same drain under way: one has moved, one moves, one is parked. */
export function runningDrain(changes: Partial<Drain> = {}): Drain {
  const drain = create(DrainSchema, {
    id: drainId,
    hostId: 'host-1',
    state: DrainState.RUNNING,
    reason: MoveReason.MAINTENANCE,
    orderedBy: 'alice',
    machinesTotal: 3,
    machinesMoved: 1,
    machinesParked: 1,
    bytesTotal: 384n * mebibyte,
    bytesDone: 192n * mebibyte,
    bytesPerSecond: 64n * mebibyte,
    remainingMs: 45_000n,
    predictedTotalMs: 65_000n,
    blockedNetworks: ['data'],
    createdAt: at(0),
    cordonedByDrain: true,
    machines: [
      {
        machineId: 'aaaaaaaaaaaaaa',
        name: 'web-1',
        network: 'shop',
        order: 1,
        state: DrainMachineState.MOVED,
        destination: 'host-2',
        host: 'host-2',
        bytes: 128n * mebibyte,
        bytesDone: 128n * mebibyte,
        predictedCopyMs: 1200n,
        predictedDowntimeMs: 450n,
        copyMs: 1300n,
        waitMs: 12n,
        downtime: { totalMs: 470n },
        attempts: 1,
      },
      {
        machineId: 'bbbbbbbbbbbbbb',
        name: 'web-2',
        network: 'shop',
        order: 2,
        state: DrainMachineState.MOVING,
        step: MigrationStep.PRECOPY,
        destination: 'host-3',
        host: 'host-1',
        bytes: 128n * mebibyte,
        bytesDone: 64n * mebibyte,
        predictedCopyMs: 1200n,
        predictedDowntimeMs: 450n,
        predictedWaitMs: 6000n,
        wait: { kind: 'lock', subject: 'shop', message: 'network shop, which web-1 holds', since: at(2000) },
        attempts: 1,
      },
      {
        machineId: 'cccccccccccccc',
        name: 'db',
        network: 'data',
        order: 3,
        state: DrainMachineState.PARKED,
        destination: 'host-3',
        host: 'host-1',
        bytes: 128n * mebibyte,
        migrationId,
        attempts: 3,
        networkBlocked: true,
        reason: 'it is healthy nowhere',
        nextAction: 'Look at its logs, then resume the drain.',
      },
    ],
  });
  return Object.assign(drain, changes);
}

/** The same drain, blocked by the parked Machine. */
export function blockedDrain(changes: Partial<Drain> = {}): Drain {
  const drain = runningDrain();
  const moving = drain.machines[1]!;
  Object.assign(moving, {
    state: DrainMachineState.MOVED,
    step: MigrationStep.UNSPECIFIED,
    bytesDone: moving.bytes,
    copyMs: 1100n,
    waitMs: 5900n,
    downtime: drain.machines[0]!.downtime,
    wait: undefined,
  });
  return Object.assign(drain, {
    state: DrainState.BLOCKED,
    machinesMoved: 2,
    bytesDone: 256n * mebibyte,
    bytesPerSecond: 0n,
    remainingMs: undefined,
    endedAt: at(70_000),
    message: '1 Machine is parked',
    nextAction: 'Look at the parked Machines, then: ferry drain resume host-1',
    ...changes,
  });
}
