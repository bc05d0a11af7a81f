import { expect, test } from 'vitest';
import { MigrationState, MigrationStep } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { copyingMigration, FakeTerminal, movedMigration } from '../fake-coordinator.fixture.ts';
import { renderMigrationStatus, renderOutcome } from './migration.ts';
import { bar, MigrationView } from './progress.ts';

const steps = `Migration mig_01J08P60K8NK33K9P5MQ5M4QN8: Machine d8dd625fed5568 from host-1 to host-2
[ 1/10] plan            3 ms  claimed
[ 2/10] prepare        47 ms  host-2 is ready
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
  expect(terminal.stdout).toBe(`${steps}\r\x1b[2K${line.slice(0, 59)}`);
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

test('migration status', () => {
  const text = renderMigrationStatus(copyingMigration({ cancelRequested: true }));
  expect(text).toContain('Migration ID: mig_01J08P60K8NK33K9P5MQ5M4QN8\nState: running\n');
  expect(text).toContain('  Lock        = held (fence 1)\n');
  expect(text).toContain(`  Copy        = ${copy}\n`);
  expect(text).toContain('  Cancel      = asked for\n');
  expect(text).toContain('  [ 5/10] fork             ...\n');
});
