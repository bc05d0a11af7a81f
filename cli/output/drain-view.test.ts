import { create } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { DrainMachineState, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { WaitSchema } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { blockedDrain, runningDrain } from '../drain.fixture.ts';
import { FakeTerminal } from '../fake-coordinator.fixture.ts';
import { DrainView } from './drain-view.ts';

const outcome = `Drain of host-1 is blocked: 2 of 3 moved, 1 parked in 70.000 s (predicted 1 min 05 s); longest downtime 470 ms.
  why:  1 Machine is parked
  blocked networks: data
  next: Look at the parked Machines, then: ferry drain resume host-1

Parked
  db cccccccccccccc, on host-1, network data stays locked, 3 tries
    why:  it is healthy nowhere
    next: Look at its logs, then resume the drain.
    look: ferry migration status mig_01J08P60K8NK33K9P5MQ5M4QN8
`;

test('plain lines: each change of each Machine once, each wait once, each tenth once, the outcome', () => {
  const terminal = new FakeTerminal();
  const view = new DrainView(terminal);
  view.show(runningDrain());
  view.show(runningDrain());
  view.show(blockedDrain());
  view.finish();
  expect(
    terminal.stdout,
  ).toBe(`Drain drn_01J08P60K8NK33K9P5MQ5M4QN8: host-1 (maintenance, ordered by alice), 3 Machines, 384.0 MiB
[ 1/3] web-1 aaaaaaaaaaaaaa: moved to host-2: copied in 1.300 s, waited 12 ms for the lock, down 470 ms (450 ms predicted)
[ 2/3] web-2 bbbbbbbbbbbbbb: moving to host-3
[ 2/3] web-2 bbbbbbbbbbbbbb: waits for network shop, which web-1 holds
[ 3/3] db cccccccccccccc: parked (network data stays locked): it is healthy nowhere; next: Look at its logs, then resume the drain.
  192.0 MiB of 384.0 MiB (50 %), 64.0 MiB/s, 0:45 left, predicted 1 min 05 s in all; 1 of 3 moved, 1 parked, 1 moving
[ 2/3] web-2 bbbbbbbbbbbbbb: moved to host-3: copied in 1.100 s, waited 5.900 s for the lock, down 470 ms (450 ms predicted)
${outcome}`);
});

test('another try says why; a pause is told; a wait of the whole drain, too', () => {
  const terminal = new FakeTerminal();
  const view = new DrainView(terminal);
  view.show(runningDrain());
  terminal.stdout = '';
  const again = runningDrain({ state: DrainState.PAUSED });
  Object.assign(again.machines[1]!, { attempts: 2, reason: 'the copy broke' });
  again.wait = create(WaitSchema, { kind: 'operator', subject: again.id, message: 'the drain to go on' });
  view.show(again);
  expect(terminal.stdout).toBe(
    '[ 2/3] web-2 bbbbbbbbbbbbbb: try 2, because the one before failed: the copy broke\n' +
      '  waits for the drain to go on\nThe drain is paused now.\n',
  );
});

/** What stands on a screen after `text` was written to it: the few control sequences that a view uses. */
function screen(text: string): string[] {
  const lines: string[] = [''];
  let [row, column] = [0, 0];
  // biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences are what is read
  for (const [token] of text.matchAll(/\x1b\[\d*[A-Z]|./gs)) {
    if (token === '\n') {
      row += 1;
      column = 0;
      lines[row] ??= '';
    } else if (token === '\r') column = 0;
    else if (token.endsWith('A') && token.length > 1) row -= Number(token.slice(2, -1));
    else if (token === '\x1b[K') lines[row] = lines[row]!.slice(0, column);
    else if (token === '\x1b[J') {
      lines[row] = lines[row]!.slice(0, column);
      lines.length = row + 1;
    } else {
      lines[row] = lines[row]!.padEnd(column).slice(0, column) + token + lines[row]!.slice(column + 1);
      column += 1;
    }
  }
  return lines;
}

test('on a terminal the block is drawn in place, with one write each, and nothing of it stays', () => {
  const terminal = new FakeTerminal(true);
  const writes: string[] = [];
  const out = terminal.out;
  const view = new DrainView({
    ...terminal,
    out: (text) => {
      writes.push(text);
      out(text);
    },
  });
  view.show(runningDrain());
  const lasting = [
    'Drain drn_01J08P60K8NK33K9P5MQ5M4QN8: host-1 (maintenance, ordered by alice), 3 Machines, 384.0 MiB',
    '[ 1/3] web-1 aaaaaaaaaaaaaa: moved to host-2: copied in 1.300 s, waited 12 ms for the lock, down 470 ms (450 ms predicted)',
    '[ 3/3] db cccccccccccccc: parked (network data stays locked): it is healthy nowhere; next: Look at its logs, then resume the drain.',
  ];
  const block = (bytes: string) => [
    `[============>           ] ${bytes} of 384.0 MiB (50 %), 64.0 MiB/s`,
    '0:45 left, predicted 1 min 05 s in all; 1 of 3 moved, 1 parked, 1 moving',
    'blocked networks: data',
    '  web-2 bbbbbbbbbbbbbb -> host-3 precopy    [============>           ] 50 % of 128.0 MiB waits for network shop, which web-1 holds (0:00)',
    '',
  ];
  expect(screen(terminal.stdout)).toEqual([...lasting, ...block('192.0 MiB')]);
  view.show(runningDrain({ bytesDone: 193n * 1024n ** 2n }));
  expect(screen(terminal.stdout)).toEqual([...lasting, ...block('193.0 MiB')]);
  expect(writes.length).toBe(2);
  // Nothing is cleared before it is written over.
  expect(writes[1]!.indexOf('\x1b[J')).toBe(writes[1]!.length - 3);
  view.show(blockedDrain());
  view.finish();
  const moved =
    '[ 2/3] web-2 bbbbbbbbbbbbbb: moved to host-3: copied in 1.100 s, waited 5.900 s for the lock, down 470 ms (450 ms predicted)';
  expect(screen(terminal.stdout)).toEqual([...lasting, moved, ...outcome.split('\n')]);
});

test('a narrow and low window: lines are cut, Machines that do not fit are counted', () => {
  const terminal = new FakeTerminal(true);
  terminal.columns = () => 40;
  terminal.rows = () => 7;
  const drain = runningDrain();
  for (let order = 4; order <= 30; order += 1) {
    const machineId = String(order).padStart(14, '0');
    drain.machines.push({
      ...drain.machines[1]!,
      order,
      machineId,
      name: `m-${order}`,
      state: DrainMachineState.WAITING,
    });
  }
  const view = new DrainView(terminal);
  view.show(drain);
  view.show(drain);
  const lines = screen(terminal.stdout).slice(3);
  expect(lines).toEqual(
    [
      '[============>           ] 192.0 MiB of',
      '0:45 left, predicted 1 min 05 s in all;',
      'blocked networks: data',
      '  web-2 bbbbbbbbbbbbbb -> host-3 precopy',
      '  m-4 00000000000004   -> host-3 waits for',
      '  and 26 more: ferry drain status drn_0',
      '',
    ].map((line) => expect.stringContaining(line.trimEnd().slice(0, 36))),
  );
  expect(Math.max(...lines.map((line) => line.length))).toBeLessThan(40);
});
