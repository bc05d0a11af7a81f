import { beforeAll, expect, test } from 'vitest';
import { DrainMachineState, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { blockedDrain, drainPlan, runningDrain } from '../drain.fixture.ts';
import { renderDrainList, renderDrainOutcome, renderDrainStatus } from './drain.ts';
import { isBlocked, renderDrainPlan } from './drain-plan.ts';

beforeAll(() => {
  process.env.TZ = 'Europe/Amsterdam';
});

const command = 'ferry host drain host-1 --exclude host-4 --wait';

test('dry run: Machines in their order, what stands in the way, refused hosts in short, and the command', () => {
  expect(renderDrainPlan(drainPlan(), command, false)).toBe(`What draining host-1 would do

  Why      = maintenance, ordered by alice
  Machines = 3
  Bytes    = 384.0 MiB
  At once  = 3 Machines
  Not to   = host-4
  Time     = about 1 min 05 s, waits for locks included

#  MACHINE         NAME   NETWORK  TO       BYTES      COPY   WAIT   DOWNTIME  HOW
1  aaaaaaaaaaaaaa  web-1  shop     host-2   128.0 MiB  1.2 s  0 ms   450 ms    precopy: snapshots
2  bbbbbbbbbbbbbb  web-2  shop     host-3   128.0 MiB  1.2 s  6.0 s  450 ms    precopy: snapshots
3  cccccccccccccc  db     data     NO HOST  128.0 MiB

What may stand in the way of single Machines
  - db cccccccccccccc: no host has 64 GiB of memory left

Hosts that were refused
  - host-2 for 1 Machine: it has 3 bytes left; and 1 other reason (--verbose)
  - host-3 for 1 Machine: it is cordoned
  - host-4 for 3 Machines: it is excluded

What stands in the way of the whole drain
  - host host-1 reports late
  - 1 of 3 Machines has no place (with --partial: parked, and the rest is moved)

Nothing was changed. As it is now it would not go through; once that is solved:
  ${command}
`);
});

test('dry run, verbose: every refusal of every Machine', () => {
  const text = renderDrainPlan(drainPlan(), command, true);
  expect(text.match(/^ {2}- host-.*$/gm)).toEqual([
    '  - host-4 for web-1 aaaaaaaaaaaaaa: it is excluded',
    '  - host-2 for web-2 bbbbbbbbbbbbbb: it has 3 bytes left',
    '  - host-4 for web-2 bbbbbbbbbbbbbb: it is excluded',
    '  - host-2 for db cccccccccccccc: it has 2 GiB of memory left',
    '  - host-3 for db cccccccccccccc: it is cordoned',
    '  - host-4 for db cccccccccccccc: it is excluded',
  ]);
});

test('dry run of a host without Machines', () => {
  const text = renderDrainPlan(drainPlan({ machines: [], blockers: [], bytesTotal: 0n }), command, false);
  expect(text).toContain('No Machines: there is nothing to move.\n');
});

test('a plan is blocked by a blocker, and by a Machine without a place unless told otherwise', () => {
  expect(isBlocked(drainPlan())).toBe(true);
  expect(isBlocked(drainPlan({ blockers: [] }))).toBe(true);
  const partial = drainPlan({ blockers: [] });
  partial.options!.partial = true;
  expect(isBlocked(partial)).toBe(false);
  expect(renderDrainPlan(partial, command, false)).toContain(
    `  - 1 of 3 Machines has no place: parked from the start\n\nNothing was changed. To do it:\n  ${command}\n`,
  );
  expect(isBlocked(drainPlan({ blockers: [], machines: drainPlan().machines.slice(0, 2) }))).toBe(false);
});

test('drain status: predicted beside measured, what is waited for, and what to do about the parked', () => {
  expect(renderDrainStatus(runningDrain())).toBe(`Drain ID: drn_01J08P60K8NK33K9P5MQ5M4QN8
State: running

  Host             = host-1
  Why              = maintenance, ordered by alice
  Ordered          = 2026-11-22T11:00:00.000+01:00
  Machines         = 1 of 3 moved, 1 parked, 1 moving
  Bytes            = 192.0 MiB of 384.0 MiB (50 %), 64.0 MiB/s
  Time             = 0:45 left, predicted 1 min 05 s in all
  Cordon           = put on by this drain
  Blocked networks = data

Machines (copy, wait for the lock, downtime: predicted -> measured)
#  MACHINE         NAME   NETWORK  STATE             TO      BYTES                  COPY            WAIT           DOWNTIME          INFO
1  aaaaaaaaaaaaaa  web-1  shop     moved             host-2  128.0 MiB              1.2 s -> 1.3 s  0 ms -> 12 ms  450 ms -> 470 ms
2  bbbbbbbbbbbbbb  web-2  shop     moving (precopy)  host-3  64.0 MiB of 128.0 MiB  1.2 s -> ...    6.0 s -> ...   450 ms -> ...     waits for network shop, which web-1 holds (lock, since 2026-11-22T11:00:02.000+01:00)
3  cccccccccccccc  db     data     parked            host-3  128.0 MiB              0 ms -> -       0 ms -> -      0 ms -> -         it is healthy nowhere

Parked
  db cccccccccccccc, on host-1, network data stays locked, 3 tries
    why:  it is healthy nowhere
    next: Look at its logs, then resume the drain.
    look: ferry migration status mig_01J08P60K8NK33K9P5MQ5M4QN8
`);
});

test('drain status of one that has ended', () => {
  const text = renderDrainStatus(blockedDrain());
  expect(text).toContain('State: blocked\n');
  expect(text).toContain('  Ended            = 2026-11-22T11:01:10.000+01:00, in 70.000 s (predicted 1 min 05 s)\n');
  expect(text).toContain('  Result           = 1 Machine is parked\n');
  expect(text).toContain('  Next             = Look at the parked Machines, then: ferry drain resume host-1\n');
});

test('outcome: done says so without a why', () => {
  const machines = blockedDrain().machines.slice(0, 2);
  const counts = { machines, machinesTotal: 2, machinesParked: 0, blockedNetworks: [], nextAction: '' };
  const done = blockedDrain({ ...counts, state: DrainState.DONE, message: 'host-1 is empty and stays cordoned' });
  expect(renderDrainOutcome(done)).toBe(
    'Drain of host-1 is done: 2 of 2 moved in 70.000 s (predicted 1 min 05 s); longest downtime 470 ms.\n' +
      '  result: host-1 is empty and stays cordoned\n',
  );
});

test('outcome: what a cancelled drain left alone has not moved', () => {
  const cancelled = blockedDrain({ state: DrainState.CANCELLED, machinesMoved: 1, machinesParked: 0 });
  cancelled.machines[1]!.state = DrainMachineState.WAITING;
  expect(renderDrainOutcome(cancelled)).toContain('is cancelled: 1 of 3 moved, 1 not moved in 70.000 s');
});

test('drain list', () => {
  expect(
    renderDrainList([runningDrain(), blockedDrain()]),
  ).toBe(`ID                              HOST    STATE    MOVED  PARKED  BYTES  LEFT  ORDERED                        INFO
drn_01J08P60K8NK33K9P5MQ5M4QN8  host-1  running  1/3    1       50 %   0:45  2026-11-22T11:00:00.000+01:00  maintenance, ordered by alice
drn_01J08P60K8NK33K9P5MQ5M4QN8  host-1  blocked  2/3    1       66 %         2026-11-22T11:00:00.000+01:00  1 Machine is parked
`);
  expect(renderDrainList([])).toBe('No drains.\n');
});
