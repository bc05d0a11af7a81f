import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { describe, expect, test } from 'vitest';
import { MachineSchema } from '../../proto/gen/ferry/v1/machine_pb.ts';
import {
  MigrationSchema,
  MigrationState,
  MigrationStep,
  MigrationStrategy,
} from '../../proto/gen/ferry/v1/migration_pb.ts';
import { copyFixedMsDefault, historyOf, lockOverheadMs, type Prospect, predict } from './estimate.ts';

const nothing = { stopStartMs: new Map<string, number>(), copyFixedMs: 50 };
const prospect = (changes: Partial<Prospect> = {}): Prospect => ({
  machine: create(MachineSchema, { id: 'm1', config: { checks: { up: { type: 'tcp' } } } }),
  runs: true,
  volume: { allocatedBytes: 1e9, sizeBytes: 4e9 },
  sourceReflinks: true,
  strategy: MigrationStrategy.UNSPECIFIED,
  budgetMs: 300,
  bytesPerSecond: 1e8,
  ...changes,
});
const known = { stopStartMs: new Map([['m1', 700]]), copyFixedMs: 50 };

const moved = (bytes: bigint, copyMs: number) =>
  create(MigrationSchema, {
    machineId: 'm1',
    state: MigrationState.MOVED,
    progress: { bytesTransferred: bytes },
    steps: [{ step: MigrationStep.FORK, startedAt: timestampFromMs(0), endedAt: timestampFromMs(copyMs) }],
    downtime: { signalToExitMs: 100n, exitToCopiedMs: 9000n, verifiedToStartedMs: 50n, startedToHealthyMs: 200n },
  });

describe('the downtime', () => {
  test.each([
    ['with reflinks: stop, start and the budget', {}, 700 + 300, 'reflink snapshots'],
    [
      'a small volume does not use up the budget',
      { volume: { allocatedBytes: 1e7, sizeBytes: 1e9 } },
      700 + 100,
      'MiB on the disk',
    ],
    ['without reflinks: one read of all bytes besides', { sourceReflinks: false }, 700 + 300 + 2000, 'no reflinks'],
    ['cold: the whole copy', { strategy: MigrationStrategy.COLD }, 700 + 50 + 10_000, 'cold, as ordered'],
    ['without a volume: stop and start', { volume: undefined }, 700, 'no volume'],
    ['a stopped Machine has none', { runs: false }, 0, 'stays stopped'],
  ] as [string, Partial<Prospect>, number, string][])('%s', (_name, changes, downtimeMs, note) => {
    const predicted = predict(prospect(changes), known);
    expect(predicted.downtimeMs).toBe(downtimeMs);
    expect(predicted.note).toContain(note);
  });

  test('a Machine that never moved is guessed: longer without checks', () => {
    const unchecked = create(MachineSchema, { id: 'm2' });
    const guess = predict(prospect(), nothing).downtimeMs;
    expect(predict(prospect({ machine: unchecked }), nothing).downtimeMs).toBe(guess + 4000);
  });
});

test('history tells the rate of a copy that had the line to itself, and stop and start without the copy', () => {
  const history = historyOf([moved(100_000_000n, 1000), moved(100_000_000n, 550), moved(1000n, 50)]);
  expect(history.copyBytesPerSecond).toBeCloseTo(2e8, -4);
  expect(history.stopStartMs.get('m1')).toBe(350);
  expect(historyOf([])).toEqual({
    copyBytesPerSecond: undefined,
    copyFixedMs: copyFixedMsDefault,
    lockMs: lockOverheadMs,
    stopStartMs: new Map(),
  });
});

test('small copies tell what each takes besides its bytes: a Machine of a few bytes is not predicted to take none', () => {
  const { copyFixedMs } = historyOf([moved(1000n, 300), moved(1000n, 700), moved(1000n, 500)]);
  expect(Math.round(copyFixedMs)).toBe(500);
  const volume = { allocatedBytes: 800_000, sizeBytes: 1e9 };
  expect(predict(prospect({ volume }), { ...known, copyFixedMs })).toMatchObject({ fixedMs: copyFixedMs });
  expect(Math.round(predict(prospect({ volume }), { ...known, copyFixedMs }).copyMs)).toBe(508);
  expect(predict(prospect({ volume: undefined }), { ...known, copyFixedMs }).copyMs).toBe(0);
});

test('moves tell how long the lock is held besides their downtime; the wait in line does not count', () => {
  const course = (lockMs: number) =>
    create(MigrationSchema, {
      machineId: 'm1',
      state: MigrationState.MOVED,
      steps: [
        { step: MigrationStep.LOCK, startedAt: timestampFromMs(0), endedAt: timestampFromMs(lockMs) },
        { step: MigrationStep.STOP, startedAt: timestampFromMs(lockMs), endedAt: timestampFromMs(lockMs + 100) },
        { step: MigrationStep.RELEASE, startedAt: timestampFromMs(lockMs), endedAt: timestampFromMs(lockMs + 1000) },
      ],
      downtime: { totalMs: 800n },
    });
  expect(historyOf([course(9000), course(5000), course(120)]).lockMs).toBe(120 + 200);
});
