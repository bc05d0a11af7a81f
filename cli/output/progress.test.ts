import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { expect, test } from 'vitest';
import {
  MigrationState,
  MigrationStep,
  MoveReason,
  PrecopyReportSchema,
  StepReportSchema,
  WaitSchema,
} from '../../proto/gen/ferry/v1/migration_pb.ts';
import { at, copyingMigration, FakeTerminal, movedMigration } from '../fake-coordinator.fixture.ts';
import { renderMigrationStatus, renderOutcome } from './migration.ts';
import { bar, MigrationView } from './progress.ts';

const steps = `Migration mig_01J08P60K8NK33K9P5MQ5M4QN8: Machine d8dd625fed5568 from host-1 to host-2
[ 0/10] plan            3 ms  claimed
[ 1/10] prepare        47 ms  host-2 is ready
[ 3/10] lock           20 ms  network default, fence 1
[ 4/10] stop         1.100 s  stopped
`;
const waits = '        waiting for the copy at host-2\n';
const copy = 'copying: 512.0 MiB of 1.0 GiB (50 %), 100.0 MiB sent, 256.0 MiB/s, 0:02 left';
const outcome = `Moved: Machine d8dd625fed5568 is on host-2 (from host-1, epoch 2) in 2.500 s.
Downtime
  signal -> exit      = 0.100s
  exit -> copied      = 0.800s
  copied -> verified  = 0.200s
  verified -> started = 0.034s
  started -> healthy  = 0.100s
  total               = 1.234s
Roots (equal)
  source      = aa11
  destination = aa11
`;

test('plain lines: each step once, each tenth of the copy once, the outcome once', () => {
  const terminal = new FakeTerminal();
  const view = new MigrationView(terminal);
  view.show(copyingMigration());
  view.show(copyingMigration());
  view.show(movedMigration({ settled: false }));
  view.show(movedMigration());
  expect(terminal.stdout).toBe(
    `${steps}${waits}        ${copy}\n[ 5/10] fork         1.000 s  roots equal\n${outcome}Settling, without downtime: host-1 reads its kept copy again.\n`,
  );
});

test('plain lines: what is waited for, once', () => {
  const terminal = new FakeTerminal();
  const view = new MigrationView(terminal);
  const waiting = copyingMigration({ step: MigrationStep.LOCK, steps: [], waitingFor: 'network default' });
  view.show(waiting);
  view.show(waiting);
  view.show({ ...waiting, waitingFor: 'the permit of host-3' });
  expect(terminal.stdout.split('\n').slice(1)).toEqual([
    '        waiting for network default',
    '        waiting for the permit of host-3',
    '',
  ]);
});

const rounds = create(PrecopyReportSchema, {
  mode: 'snapshots',
  modeReason: 'the volumes of host-1 share blocks',
  rounds: [
    { number: 1, changedBytes: 1n << 30n, bytesTransferred: 1n << 30n, durationMs: 10_200n, snapshotMs: 8n },
    { number: 2, changedBytes: 12n << 20n, bytesTransferred: 13n << 20n, durationMs: 110n },
  ],
  predictedFinalMs: 40n,
});

test('copy of the running Machine: its mode once, each round once, why it ended', () => {
  const terminal = new FakeTerminal();
  const view = new MigrationView(terminal);
  const before = copyingMigration().steps.slice(0, 2);
  const precopy = create(StepReportSchema, { step: MigrationStep.PRECOPY, startedAt: at(50) });
  const running = copyingMigration({ step: MigrationStep.PRECOPY, steps: [...before, precopy], waitingFor: '' });
  view.show({ ...running, precopy: { ...rounds, rounds: rounds.rounds.slice(0, 1) } });
  view.show({ ...running, precopy: rounds });
  const ended = { ...precopy, endedAt: at(11_050), message: '2 rounds' };
  const over = { ...rounds, ended: 'fits', endedReason: '3.0 MiB are left' };
  view.show({ ...running, step: MigrationStep.LOCK, steps: [...before, ended], precopy: over });
  expect(terminal.stdout.split('\n').slice(3)).toEqual([
    '        snapshots: the volumes of host-1 share blocks',
    '        round 1: 1.0 GiB of data, 1.0 GiB sent in 10.200 s, snapshot 8 ms',
    `        ${copy}`,
    '        round 2: 12.0 MiB had changed, 13.0 MiB sent in 110 ms',
    `        ${copy}`,
    '        fits: 3.0 MiB are left',
    '[ 2/10] precopy     11.000 s  2 rounds',
    '',
  ]);
});

test('on a terminal a wait shows how long it has lasted', () => {
  const terminal = new FakeTerminal(true);
  const since = timestampFromMs(terminal.clock.nowMs() - 65_000);
  const wait = create(WaitSchema, { kind: 'lock', subject: 'default', message: 'network default', since });
  new MigrationView(terminal).show(copyingMigration({ step: MigrationStep.LOCK, steps: [], waitingFor: '', wait }));
  expect(terminal.stdout).toContain('[ 3/10] lock       waiting for network default (1:05)');
});

test('a step that never ended is shown when the migration has', () => {
  const terminal = new FakeTerminal();
  new MigrationView(terminal).show(copyingMigration({ state: MigrationState.MOVED_BACK }));
  expect(terminal.stdout).toContain('[ 5/10] fork             ...\nMoved back: ');
});

test('on a terminal the current step is one line, written over, and cut at the edge', () => {
  const terminal = new FakeTerminal(true);
  terminal.columns = () => 60;
  const view = new MigrationView(terminal);
  view.show(copyingMigration());
  const line = `[ 5/10] fork       [============>           ] ${copy}`;
  expect(terminal.stdout).toBe(`${steps}\r${line.slice(0, 59)}\x1b[K`);
  view.finish();
  view.finish();
  expect(terminal.stdout.endsWith('\r\x1b[2K')).toBe(true);
});

test('the bar is empty, half and full', () => {
  expect([0, 50, 100].map(bar)).toEqual([
    '[>                       ]',
    '[============>           ]',
    '[========================]',
  ]);
});

test.each([
  [
    {
      state: MigrationState.PARKED,
      reason: 'it is unhealthy on both',
      nextAction: 'Look at its logs.',
      sourceRoot: '',
    },
    'Parked: Machine d8dd625fed5568 waits for an operator.\n  why:  it is unhealthy on both\n  next: Look at its logs.\n',
  ],
  [
    { state: MigrationState.MOVED_BACK, reason: 'cancelled', sourceRoot: '' },
    'Moved back: Machine d8dd625fed5568 is on host-1 again in 2.500 s; nothing was lost.\n  why:  cancelled\n',
  ],
])('outcome %#', (changes, text) => {
  expect(renderOutcome(movedMigration({ ...changes, downtime: undefined }))).toBe(text);
});

test('different roots are shouted', () => {
  expect(renderOutcome(movedMigration({ destinationRoot: 'bb22' }))).toContain('Roots (DIFFERENT)');
});

test('migration status: why, for whom, what it waits for since when, and the rounds', () => {
  process.env.TZ = 'UTC';
  const wait = create(WaitSchema, { kind: 'permit', subject: 'host-3', message: 'host-3', since: at(1170) });
  const text = renderMigrationStatus(
    copyingMigration({
      moveReason: MoveReason.FAILING,
      orderedBy: 'alice',
      drainId: 'drn_X',
      priority: 5,
      driver: 'coordinator-1',
      waitingFor: 'the permit of host-3',
      wait,
      downtimeBudgetMs: 300n,
      precopy: { ...rounds, ended: 'not_shrinking', finalBytes: 3n << 20n, baseRoot: 'aa11' },
    }),
  );
  expect(text).toContain('  Strategy    = precopy\n');
  expect(text).toContain('  Why         = failing, ordered by alice\n  Drain       = drn_X\n  Priority    = 5\n');
  expect(text).toContain('  Driven by   = coordinator-1 (term 1)\n');
  expect(text).toContain('= the permit of host-3 (permit, since 2026-11-22T10:00:01.170+00:00)\n');
  expect(text).toContain(`Copy of the running Machine
  Mode       = snapshots: the volumes of host-1 share blocks
  Began with = the copy kept at the destination, root aa11
  Ended      = not_shrinking: the rounds stopped shrinking
  Last copy  = 3.0 MiB, predicted 40 ms, budget 300 ms
ROUND  CHANGED   SENT      TIME      SNAPSHOT
1      1.0 GiB   1.0 GiB   10.200 s  8 ms
2      12.0 MiB  13.0 MiB  110 ms    0 ms
`);
});

test('the downtime names the longest write stall before the stop', () => {
  const migration = movedMigration();
  migration.downtime!.longestWriteStallMs = 12n;
  expect(renderOutcome(migration)).toContain('  longest write stall before = 0.012s\n');
});

test('migration status', () => {
  const text = renderMigrationStatus(copyingMigration({ cancelRequested: true }));
  expect(text).toContain('Migration ID: mig_01J08P60K8NK33K9P5MQ5M4QN8\nState: running\n');
  expect(text).toContain('  Lock        = held (fence 1)\n');
  expect(text).toContain(`  Copy        = ${copy}\n`);
  expect(text).toContain('  Cancel      = asked for\n');
  expect(text).toContain('  [ 5/10] fork             ...\n');
});
