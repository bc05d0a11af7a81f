import { afterEach, expect, test } from 'vitest';
import type { CancelDrainRequest, DrainHostRequest } from '../proto/gen/ferry/v1/coordinator_pb.ts';
import { DrainState } from '../proto/gen/ferry/v1/drain_pb.ts';
import { MoveReason } from '../proto/gen/ferry/v1/migration_pb.ts';
import { FerryError } from '../shared/error.ts';
import type { RpcServer } from '../shared/rpc/server.ts';
import { blockedDrain, drainId, drainPlan, runningDrain } from './drain.fixture.ts';
import { type FakeCoordinator, FakeTerminal, fakeCoordinator } from './fake-coordinator.fixture.ts';

const servers: RpcServer[] = [];

afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.close()));
});

async function terminalFor(drains: NonNullable<FakeCoordinator['drains']>): Promise<FakeTerminal> {
  const server = fakeCoordinator({ drains });
  servers.push(server);
  const terminal = new FakeTerminal();
  terminal.env.FERRY_COORDINATOR = await server.listen();
  terminal.env.USER = 'alice';
  return terminal;
}

test('host drain --dry-run: nothing is ordered, blockers end with 3, and the command that would do it is printed', async () => {
  const requests: DrainHostRequest[] = [];
  const terminal = await terminalFor({
    drainHost: (asked) => {
      requests.push(asked);
      return { drain: drainPlan({ blockers: requests.length === 1 ? ['no room'] : [], machines: [] }) };
    },
  });
  const options = ['--exclude', 'host-4', '--reason', 'maintenance', '--by', "o'hara", '--concurrency', '3'];
  expect(await terminal.run('host', 'drain', 'host-1', '--dry-run', ...options)).toBe(3);
  expect(requests[0]).toMatchObject({ hostId: 'host-1', dryRun: true, reason: MoveReason.MAINTENANCE });
  expect(terminal.stdout).toContain(
    `once that is solved:\n  ferry host drain host-1 --exclude host-4 --concurrency 3 --reason maintenance --by 'o'\\''hara' --wait\n`,
  );
  terminal.stdout = '';
  expect(await terminal.run('host', 'drain', 'host-1', '--dry-run', '--json')).toBe(0);
  expect(JSON.parse(terminal.stdout).drain).toMatchObject({ hostId: 'host-1', id: '', bytesTotal: '402653184' });
});

test('host drain orders with everything that was said, and tells how to follow it', async () => {
  let request: DrainHostRequest | undefined;
  const terminal = await terminalFor({
    drainHost: (asked) => {
      request = asked;
      return { drain: runningDrain() };
    },
  });
  const options = ['--to', 'host-2,host-3', '--exclude', 'host-4', '--concurrency', '8', '--attempts', '5'];
  const how = ['--downtime-budget', '1s', '--strategy', 'cold', '--partial', '--priority', '-7', '--reason', 'failing'];
  expect(await terminal.run('host', 'drain', 'host-1', ...options, ...how)).toBe(0);
  expect(request).toMatchObject({ hostId: 'host-1', dryRun: false, reason: MoveReason.FAILING, orderedBy: 'alice' });
  expect(request?.options).toMatchObject({
    to: ['host-2', 'host-3'],
    exclude: ['host-4'],
    concurrency: 8,
    attemptsMax: 5,
    downtimeBudgetMs: 1000n,
    strategy: 1,
    partial: true,
    priority: -7,
  });
  expect(terminal.stdout).toBe(
    `Drain ${drainId} empties host-1: 3 Machines, 384.0 MiB, about 1 min 05 s (maintenance, ordered by alice).\n` +
      `  host-1 takes no new Machines from now on\n  follow it: ferry drain watch ${drainId}\n  end it:    ferry drain cancel ${drainId}\n`,
  );
});

test.each([
  [['--concurrency', '0'], '--concurrency: is "0"; expected a whole number from 1 to 64'],
  [['--attempts', 'all'], '--attempts: is "all"; expected a whole number from 1 to 20'],
  [['--to', 'Host_2'], '--to: is "Host_2"'],
  [['--to', 'host-2', '--exclude', 'host-2'], '--exclude: has host-2, which --to has too'],
  [['--dry-run', '--wait'], '--wait: is given with --dry-run'],
  [['--verbose'], '--verbose: is given without --dry-run'],
])('host drain refuses %j', async (options, message) => {
  const terminal = new FakeTerminal();
  expect(await terminal.run('host', 'drain', 'host-1', ...options)).toBe(2);
  expect(terminal.stderr).toContain(message);
});

test.each([
  [DrainState.DONE, 0],
  [DrainState.CANCELLED, 1],
  [DrainState.BLOCKED, 3],
])(
  'host drain --wait follows it to the end: state %i ends with %i, though the stream stays open',
  async (state, code) => {
    const terminal = await terminalFor({
      drainHost: () => ({ drain: runningDrain() }),
      async *watchDrain({ drainId: asked }, { signal }) {
        expect(asked).toBe(drainId);
        yield { drain: runningDrain() };
        yield { drain: blockedDrain({ state }) };
        await new Promise((resolve) => signal.addEventListener('abort', resolve));
      },
    });
    expect(await terminal.run('host', 'drain', 'host-1', '--wait')).toBe(code);
    expect(terminal.stdout).toContain('[ 2/3] web-2 bbbbbbbbbbbbbb: moved to host-3');
  },
);

test('drain watch --json prints one document a line', async () => {
  const terminal = await terminalFor({
    async *watchDrain() {
      yield { drain: runningDrain() };
      yield { drain: blockedDrain() };
    },
  });
  expect(await terminal.run('drain', 'watch', 'host-1', '--json')).toBe(3);
  const states = terminal.stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line).drain.state);
  expect(states).toEqual(['DRAIN_STATE_RUNNING', 'DRAIN_STATE_BLOCKED']);
});

test("a watch of a host's newest drain stays with that drain when its stream is begun again", async () => {
  const asked: string[] = [];
  const terminal = await terminalFor({
    async *watchDrain(request) {
      asked.push(request.drainId);
      yield { drain: asked.length === 1 ? runningDrain() : blockedDrain() };
    },
  });
  const watching = terminal.run('drain', 'watch', 'host-1');
  await terminal.clock.untilSleeping();
  terminal.clock.advance(500);
  expect(await watching).toBe(3);
  expect(asked).toEqual(['host-1', drainId]);
});

test('ctrl-C while watching leaves the drain running, and says so', async () => {
  const terminal = await terminalFor({
    async *watchDrain(_request, { signal }) {
      yield { drain: runningDrain() };
      await new Promise((resolve) => signal.addEventListener('abort', resolve));
    },
  });
  const watching = terminal.run('drain', 'watch', 'host-1');
  await terminal.until('moving to host-3');
  terminal.ctrlC.abort();
  expect(await watching).toBe(130);
  expect(terminal.stderr).toContain('The drain goes on by itself.');
  for (const verb of ['watch', 'pause', 'cancel']) expect(terminal.stderr).toContain(`ferry drain ${verb} ${drainId}`);
});

test('drain status of a blocked drain ends with 3, also as JSON', async () => {
  const terminal = await terminalFor({ getDrain: () => ({ drain: blockedDrain() }) });
  expect(await terminal.run('drain', 'status', drainId)).toBe(3);
  expect(terminal.stdout).toContain('State: blocked\n');
  terminal.stdout = '';
  expect(await terminal.run('drain', 'status', 'host-1', '--json')).toBe(3);
  expect(JSON.parse(terminal.stdout).drain.machines[2]).toMatchObject({ networkBlocked: true, attempts: 3 });
});

test('pause, resume and cancel say how the drain stands, and what comes next', async () => {
  let cancelled: CancelDrainRequest | undefined;
  const terminal = await terminalFor({
    pauseDrain: () => ({ drain: runningDrain({ state: DrainState.PAUSED }) }),
    resumeDrain: () => ({ drain: runningDrain() }),
    cancelDrain: (asked) => {
      cancelled = asked;
      return { drain: runningDrain({ state: DrainState.CANCELLING }) };
    },
  });
  for (const verb of ['pause', 'resume', 'cancel']) expect(await terminal.run('drain', verb, 'host-1')).toBe(0);
  expect(cancelled).toMatchObject({ drainId: 'host-1', uncordon: false });
  expect(terminal.stdout).toBe(
    `Drain ${drainId} of host-1 is paused: moves under way go on to their end.\n  go on with it: ferry drain resume host-1\n` +
      `Drain ${drainId} of host-1 is running: Machines that were parked are tried again.\n  follow it: ferry drain watch host-1\n` +
      `Drain ${drainId} of host-1 is cancelling: moves under way are taken back, or end.\n  follow it: ferry drain watch ${drainId}\n  host-1 stays cordoned; to end that: ferry host uncordon host-1\n`,
  );
});

test.each([
  [true, /^(?!.*stays cordoned).*$/s],
  [false, /host-1 stays cordoned, because it was before the drain; to end that: ferry host uncordon host-1\n/],
])('a cancel with --uncordon takes off the cordon of its drain alone: %s', async (cordonedByDrain, text) => {
  const terminal = await terminalFor({
    cancelDrain: () => ({ drain: runningDrain({ state: DrainState.CANCELLING, cordonedByDrain }) }),
  });
  expect(await terminal.run('drain', 'cancel', 'host-1', '--uncordon')).toBe(0);
  expect(terminal.stdout).toMatch(text);
});

test('a refusal ends with its reason and code', async () => {
  const terminal = await terminalFor({
    getDrain: () => {
      throw new FerryError('unknown_drain', 'host-1 was never drained');
    },
  });
  expect(await terminal.run('drain', 'status', 'host-1')).toBe(1);
  expect(terminal.stderr).toBe(
    'ferry: host-1 was never drained [unknown_drain]\n  next: Look the ID up with "ferry drain list".\n',
  );
});
