import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { describe, expect, test } from 'vitest';
import { DrainMachineState, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { MigrationState, MigrationStep } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { begun, observe } from './observe.ts';
import { patienceMs, pauseAfterMs } from './rules.ts';
import { blockedBy, draftLike, factsLike, lockWaitSince, migrationLike } from './testing.ts';

const { WAITING, MOVING, MOVED, PARKED, GONE } = DrainMachineState;
const moving = { machineId: 'm1', state: MOVING, migrationId: 'mig_1', attempts: 1 };
const nowMs = 1_000_000;

describe('a move that ended', () => {
  test('well: what happened stands beside what was predicted', () => {
    const draft = draftLike([{ ...moving, predictedCopyMs: 900n }]);
    const report = (step: MigrationStep, fromMs: number, toMs: number) => ({
      step,
      startedAt: timestampFromMs(fromMs),
      endedAt: timestampFromMs(toMs),
    });
    const steps = [
      report(MigrationStep.PRECOPY, 0, 1000),
      report(MigrationStep.LOCK, 1000, 1500),
      report(MigrationStep.FORK, 1600, 1700),
    ];
    const migration = migrationLike({ state: MigrationState.MOVED, steps, downtime: { totalMs: 42n } });
    observe(draft, factsLike([], { migrations: [migration] }));
    expect(draft.drain.machines[0]).toMatchObject({
      state: MOVED,
      host: 'h2',
      copyMs: 1100n,
      waitMs: 500n,
      downtime: { totalMs: 42n },
      predictedCopyMs: 900n,
    });
  });

  test('back at the source: tried again after a pause, with the reason, elsewhere first', () => {
    const draft = draftLike([moving]);
    const failed = migrationLike({ state: MigrationState.MOVED_BACK, failure: 'no_space', reason: 'stayed: no room' });
    observe(draft, factsLike(['m1'], { migrations: [failed] }));
    expect(draft.drain.machines[0]).toMatchObject({ state: WAITING, attempts: 1, reason: 'stayed: no room' });
    expect(draft.plan.retryAtMs.m1).toBe(nowMs + pauseAfterMs(1));
    expect(draft.plan.failedAt?.m1?.h2).toContain('no room');
    expect(pauseAfterMs(2)).toBeGreaterThan(pauseAfterMs(1));
  });

  test('back at the source for the last time: parked, with the evidence', () => {
    const draft = draftLike([{ ...moving, attempts: 3 }]);
    const failed = migrationLike({
      state: MigrationState.MOVED_BACK,
      failure: 'unhealthy',
      reason: 'not healthy',
      nextAction: 'Look at its checks.',
    });
    observe(draft, factsLike(['m1'], { migrations: [failed] }));
    const [machine] = draft.drain.machines;
    expect(machine).toMatchObject({ state: PARKED, reason: '3 tries have failed; the last one, mig_1: not healthy' });
    expect(machine?.nextAction).toContain('ferry drain resume h1');
  });

  test('parked: the Machine is parked at once, and its network told as blocked', () => {
    const draft = draftLike([moving]);
    const parked = migrationLike({ state: MigrationState.PARKED, holdsLock: true, reason: 'unhealthy everywhere' });
    observe(draft, factsLike(['m1'], { migrations: [parked], blocked: blockedBy({ id: 'mig_1', machineId: 'm1' }) }));
    expect(draft.drain.machines[0]).toMatchObject({ state: PARKED, networkBlocked: true });
    expect(draft.drain.blockedNetworks).toEqual(['x']);
  });

  test('parked in its settlement: the Machine has moved, and the reason stays to be read', () => {
    const draft = draftLike([moving]);
    const parked = migrationLike({ state: MigrationState.PARKED, step: MigrationStep.SETTLE, reason: 'roots differ' });
    observe(draft, factsLike([], { migrations: [parked] }));
    expect(draft.drain.machines[0]).toMatchObject({ state: MOVED, reason: expect.stringContaining('roots differ') });
  });

  test('parked on its last step back: the Machine is still here, so it has not moved', () => {
    const draft = draftLike([moving]);
    const parked = migrationLike({ state: MigrationState.PARKED, step: MigrationStep.RELEASE, reason: 'a full disk' });
    observe(draft, factsLike(['m1'], { migrations: [parked] }));
    expect(draft.drain.machines[0]).toMatchObject({ state: PARKED, reason: 'mig_1 is parked: a full disk' });
  });

  test('cancelled by an operator: parked, not tried again', () => {
    const draft = draftLike([moving]);
    const cancelled = migrationLike({ state: MigrationState.MOVED_BACK, failure: 'cancelled' });
    observe(draft, factsLike(['m1'], { migrations: [cancelled] }));
    expect(draft.drain.machines[0]).toMatchObject({ state: PARKED, reason: 'an operator cancelled mig_1' });
  });

  test('cancelled with its drain: it stays, unmoved', () => {
    const draft = draftLike([moving], { state: DrainState.CANCELLING });
    const cancelled = migrationLike({ state: MigrationState.MOVED_BACK, failure: 'cancelled' });
    observe(draft, factsLike(['m1'], { migrations: [cancelled] }));
    expect(draft.drain.machines[0]).toMatchObject({ state: WAITING, attempts: 0 });
  });

  test('before it was claimed: it counts as no try', () => {
    const draft = draftLike([moving]);
    observe(draft, factsLike(['m1']));
    expect(draft.drain.machines[0]).toMatchObject({ state: WAITING, attempts: 0 });
  });
});

describe('a Machine that waits', () => {
  test('and left by itself, or was destroyed, is gone', () => {
    const draft = draftLike([{ machineId: 'm1' }, { machineId: 'm2' }]);
    observe(draft, factsLike([], { elsewhere: new Map([['m1', 'h3']]) }));
    expect(draft.drain.machines.map(({ state, reason }) => [state, reason])).toEqual([
      [GONE, 'it left for host h3 without this drain'],
      [GONE, 'it was destroyed'],
    ]);
  });

  test('and was left at its destination by its own migration is gone: that is said', () => {
    const parked = migrationLike({ state: MigrationState.PARKED });
    const draft = draftLike([{ machineId: 'm1', migrationId: 'mig_1' }]);
    observe(draft, factsLike([], { elsewhere: new Map([['m1', 'h2']]), migrations: [parked] }));
    expect(draft.drain.machines[0]).toMatchObject({
      state: GONE,
      host: 'h2',
      reason: 'it is on host h2 since mig_1, which was parked there',
    });
  });

  test('remembers its last tries, not all', () => {
    const draft = draftLike([{ machineId: 'm1' }]);
    for (let number = 1; number <= 30; number += 1) begun(draft.drain.machines[0]!, `mig_${number}`);
    const { earlierMigrations, migrationId } = draft.drain.machines[0]!;
    expect(earlierMigrations).toHaveLength(20);
    expect([earlierMigrations.at(-1), migrationId]).toEqual(['mig_29', 'mig_30']);
  });

  test('is not gone because its host is silent', () => {
    const draft = draftLike([{ machineId: 'm1' }]);
    observe(draft, factsLike([], { standing: 'unreachable' }));
    expect(draft.drain.machines[0]?.state).toBe(WAITING);
  });

  test.each([MOVED, GONE])('comes back from state %i when it is on the host again', (state) => {
    const draft = draftLike([{ machineId: 'm1', state, attempts: 3 }]);
    observe(draft, factsLike(['m1']));
    expect(draft.drain.machines[0]).toMatchObject({ state: WAITING, attempts: 0 });
  });

  test.each([WAITING, PARKED])(
    'from state %i: a migration of this drain that it does not know is taken up',
    (state) => {
      const draft = draftLike([{ machineId: 'm1', state, migrationId: 'mig_0' }]);
      observe(draft, factsLike(['m1'], { migrations: [migrationLike({ destination: 'h3' })] }));
      expect(draft.drain.machines[0]).toMatchObject({
        state: MOVING,
        migrationId: 'mig_1',
        destination: 'h3',
        earlierMigrations: ['mig_0'],
      });
    },
  );

  test('for a network that stays locked is parked, but only after its time', () => {
    const blocked = blockedBy({ id: 'mig_9' });
    for (const [waitedMs, state] of [
      [patienceMs - 1, WAITING],
      [patienceMs, PARKED],
    ] as const) {
      const draft = draftLike([{ machineId: 'm1', wait: lockWaitSince(nowMs - waitedMs, 'mig_9') }]);
      observe(draft, factsLike(['m1'], { blocked }));
      expect(draft.drain.machines[0]?.state).toBe(state);
    }
  });

  test('goes on although its own parked migration holds the lock', () => {
    const wait = lockWaitSince(0, 'mig_9');
    for (const migrationId of ['mig_9', '']) {
      const draft = draftLike([{ machineId: 'm1', migrationId, wait }]);
      observe(draft, factsLike(['m1'], { blocked: blockedBy({ id: 'mig_9', machineId: 'm1' }) }));
      expect(draft.drain.machines[0]?.state).toBe(WAITING);
    }
  });
});

describe('what is called off', () => {
  test('everything that runs, of a drain that is cancelled', () => {
    const draft = draftLike([moving], { state: DrainState.CANCELLING });
    expect(observe(draft, factsLike(['m1'], { migrations: [migrationLike({})] }))).toEqual([
      { migrationId: 'mig_1', why: 'drain drn_1 was cancelled' },
    ]);
  });

  test('nothing while it runs', () => {
    expect(observe(draftLike([moving]), factsLike(['m1'], { migrations: [migrationLike({})] }))).toEqual([]);
  });

  test('a move in line for a network that stays locked, after its time; then it is parked as blocked', () => {
    const inLine = migrationLike({ step: MigrationStep.LOCK });
    const blocked = blockedBy({ id: 'mig_9' });
    const draft = draftLike([{ ...moving, wait: lockWaitSince(nowMs - patienceMs, 'mig_9') }]);
    const why =
      'network x is blocked: the parked migration mig_9 of Machine m9 keeps it locked (not healthy at h2 and h1)';
    expect(observe(draft, factsLike(['m1'], { migrations: [inLine], blocked }))).toEqual([
      { migrationId: 'mig_1', why },
    ]);
    const cancelled = migrationLike({ state: MigrationState.MOVED_BACK, failure: 'cancelled' });
    observe(draft, factsLike(['m1'], { migrations: [cancelled], blocked }));
    expect(draft.drain.machines[0]).toMatchObject({ state: PARKED, reason: why });
    const { nextAction } = draft.drain.machines[0]!;
    for (const command of ['migration retry mig_9', 'migration accept-down mig_9', 'drain resume h1']) {
      expect(nextAction).toContain(`"ferry ${command}"`);
    }
    expect(draft.plan.calledOff).toEqual([]);
  });

  test('a move that waits for a silent host, if another network wants its slot: it is tried again later', () => {
    const inLine = migrationLike({ step: MigrationStep.LOCK });
    const facts = factsLike(['m1', 'm2'], { migrations: [inLine] });
    const silent = { ...lockWaitSince(nowMs - patienceMs, 'h9'), kind: 'host' };
    const next = { machineId: 'm2', network: 'y', wait: { kind: 'slot' } };
    expect(observe(draftLike([{ ...moving, wait: silent }]), facts)).toEqual([]);
    expect(
      observe(
        draftLike([
          { ...moving, wait: silent },
          { ...next, network: 'x' },
        ]),
        facts,
      ),
    ).toEqual([]);
    const draft = draftLike([{ ...moving, wait: silent }, next]);
    const why = 'it made room for others, because host h9 did not answer';
    expect(observe(draft, facts)).toEqual([{ migrationId: 'mig_1', why }]);
    const cancelled = migrationLike({ state: MigrationState.MOVED_BACK, failure: 'cancelled' });
    observe(draft, factsLike(['m1', 'm2'], { migrations: [cancelled] }));
    expect(draft.drain.machines[0]).toMatchObject({ state: WAITING, attempts: 0, reason: why });
    expect(draft.plan.retryAtMs.m1).toBe(nowMs + patienceMs);
  });

  test('not one that has its lock already', () => {
    const stopped = migrationLike({ step: MigrationStep.LOCK, holdsLock: true });
    const draft = draftLike([{ ...moving, wait: lockWaitSince(0, 'mig_9') }]);
    expect(observe(draft, factsLike(['m1'], { migrations: [stopped], blocked: blockedBy({ id: 'mig_9' }) }))).toEqual(
      [],
    );
  });
});
