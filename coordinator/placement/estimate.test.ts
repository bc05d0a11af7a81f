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
import { historyOf, type Prospect, predict } from './estimate.ts';

const nothing = { stopStartMs: new Map<string, number>() };
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
const known = { stopStartMs: new Map([['m1', 700]]) };

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
    ['cold: the whole copy', { strategy: MigrationStrategy.COLD }, 700 + 10_000, 'cold, as ordered'],
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
  const history = historyOf([moved(100_000_000n, 1000), moved(100_000_000n, 500), moved(1000n, 1)]);
  expect(history.copyBytesPerSecond).toBe(2e8);
  expect(history.stopStartMs.get('m1')).toBe(350);
  expect(historyOf([])).toEqual({ copyBytesPerSecond: undefined, stopStartMs: new Map() });
});
