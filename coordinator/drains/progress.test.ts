import { create } from '@bufbuild/protobuf';
import { describe, expect, test } from 'vitest';
import { DrainMachineState, DrainOptionsSchema, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { type Migration, MigrationStep, MigrationStrategy } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { lockOverheadMs } from '../placement/estimate.ts';
import { account } from './progress.ts';
import { draftLike, migrationLike } from './testing.ts';

const { MOVING, MOVED, PARKED, GONE } = DrainMachineState;
const limits = { perSource: 4, perDestination: 4, total: 16 };
const planned = { bytes: 1000n, predictedCopyMs: 1000n, predictedDowntimeMs: 700n };
const stopMs = 700 + lockOverheadMs;

const copying = (bytesDone: bigint, bytesPerSecond = 0n): Migration =>
  migrationLike({ progress: { bytesTotal: 4000n, bytesDone, bytesPerSecond } });

describe('bytes', () => {
  test('of what has moved count whole, of what moves by its share of the volume; what has gone does not count', () => {
    const { drain } = draftLike([
      { machineId: 'm1', state: MOVING, ...planned },
      { machineId: 'm2', state: MOVED, ...planned },
      { machineId: 'm3', state: GONE, ...planned },
      { machineId: 'm4', state: PARKED, ...planned },
      { machineId: 'm5', ...planned },
    ]);
    account(drain, new Map([['m1', copying(1000n, 500n)]]), limits);
    expect(drain).toMatchObject({
      bytesTotal: 4000n,
      bytesDone: 1250n,
      bytesPerSecond: 500n,
      machinesTotal: 5,
      machinesMoved: 2,
      machinesParked: 1,
    });
  });
});

describe('the time left', () => {
  const left = (drain: ReturnType<typeof draftLike>['drain'], migrations: Map<string, Migration> = new Map()) => {
    account(drain, migrations, limits);
    return drain.remainingMs;
  };

  test('is that of the plan before anything was measured, waits for the lock included', () => {
    const one = draftLike([{ machineId: 'm1', ...planned }]);
    expect(left(one.drain)).toBe(BigInt(1000 + stopMs));
    const two = draftLike([
      { machineId: 'm1', ...planned },
      { machineId: 'm2', ...planned },
    ]);
    expect(left(two.drain)).toBe(BigInt(2000 + 2 * stopMs));
    two.drain.machines[1]!.network = 'y';
    expect(left(two.drain)).toBe(BigInt(2000 + stopMs));
  });

  test('counts what each copy and each lock takes besides, however small the volume is', () => {
    const fixed = { ...planned, predictedCopyMs: 1400n, predictedFixedMs: 400n, predictedLockMs: 200n };
    const one = draftLike([{ machineId: 'm1', ...fixed }]);
    expect(left(one.drain)).toBe(BigInt(1400 + 900));
    one.drain.options = create(DrainOptionsSchema, { strategy: MigrationStrategy.COLD });
    one.drain.machines[0]!.predictedDowntimeMs = 2100n;
    expect(left(one.drain)).toBe(BigInt(2100 + 200));
    const tiny = draftLike([{ machineId: 'm1', ...fixed, bytes: 1n, predictedCopyMs: 400n }]);
    expect(left(tiny.drain)).toBe(BigInt(400 + 900));
  });

  test('follows the measured rate', () => {
    const { drain } = draftLike([{ machineId: 'm1', state: MOVING, ...planned }]);
    expect(left(drain, new Map([['m1', copying(2000n, 100n)]]))).toBe(BigInt(5000 + stopMs));
  });

  test('of one that has its lock is its stop alone', () => {
    const { drain } = draftLike([{ machineId: 'm1', state: MOVING, ...planned }]);
    expect(left(drain, new Map([['m1', migrationLike({ step: MigrationStep.STOP })]]))).toBe(BigInt(stopMs));
  });

  test('is not told when nothing is left, or the drain is being cancelled', () => {
    expect(left(draftLike([{ machineId: 'm1', state: MOVED, ...planned }]).drain)).toBeUndefined();
    const cancelling = draftLike([{ machineId: 'm1', ...planned }], { state: DrainState.CANCELLING });
    expect(left(cancelling.drain)).toBeUndefined();
  });
});
