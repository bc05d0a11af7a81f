import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Ending } from '../runtime/runtime.ts';
import {
  effectOf,
  type Life,
  type LifeEvent,
  newLife,
  next,
  RESTART_WINDOW_MS,
  type Rules,
  resume,
} from './lifecycle.ts';

const rules: Rules = {
  policy: 'on-failure',
  restartsMax: 3,
  stopSignal: 'SIGINT',
  stopTimeoutMs: 5_000,
  autoDestroy: false,
};

let instances = 0;
const moment = (nowMs = 1_000_000) => ({ nowMs, instanceId: `I${++instances}` });

/** Applies events; throws on a refusal. */
function run(life: Life, events: readonly LifeEvent[], over: Partial<Rules> = {}, nowMs?: number) {
  const log = [];
  for (const event of events) {
    const step = next(life, event, moment(nowMs), { ...rules, ...over });
    if (step.kind === 'refused') throw new Error(`${step.reason}: ${step.message}`);
    life = step.life;
    log.push(...step.log);
  }
  return { life, log, state: life.status.state };
}

function started(): Life {
  const { life } = run(newLife('stopped'), [{ type: 'start' }]);
  return run(life, [{ type: 'began', instanceId: life.instanceId, startedAtMs: 5 }]).life;
}

function exited(exitCode: number): Ending {
  return { kind: 'exited', exit: { exitCode, signal: null, oomKilled: null, exitedAtMs: 900_000 } };
}

function ends(life: Life, ending: Ending, killed = false): LifeEvent {
  return { type: 'ended', instanceId: life.instanceId, ending, killed };
}

describe('start and stop', () => {
  test('a new Machine that is desired started is launched, and begins', () => {
    const step = resume(newLife('started'), { nowMs: 1, instanceId: 'I' }, rules);
    expect(step).toMatchObject({
      life: { status: { state: 'starting', instanceId: 'I' }, instanceId: 'I' },
      log: [{ type: 'launch', status: 'starting' }],
    });
    expect(started().status).toEqual({ state: 'started', instanceId: expect.any(String), startedAtMs: 5 });
  });

  test('a stop is recorded, its signal once, and its times', () => {
    const life = started();
    const stopping = run(life, [{ type: 'stop' }]).life;
    expect(effectOf(stopping.status)).toMatchObject({
      kind: 'stop',
      stopping: { signal: 'SIGINT', signalSentAtMs: null },
    });
    const sent = run(stopping, [
      { type: 'signal-sent', instanceId: life.instanceId, atMs: 7 },
      { type: 'signal-sent', instanceId: life.instanceId, atMs: 8 },
    ]).life;
    const { life: stopped, log } = run(sent, [ends(life, exited(0))]);
    expect(stopped.status).toEqual({
      state: 'stopped',
      stop: { signalSentAtMs: 7, exitedAtMs: 900_000, goneAtMs: 1_000_000, killed: false },
    });
    expect(log).toMatchObject([{ type: 'exit', exit: { exitCode: 0, requestedStop: true, restarting: false } }]);
  });

  test('a stop during the start takes effect when the program began', () => {
    const starting = run(newLife('stopped'), [{ type: 'start' }, { type: 'stop' }]);
    expect(starting.state).toBe('starting');
    const { instanceId } = starting.life;
    expect(run(starting.life, [{ type: 'began', instanceId, startedAtMs: 5 }]).state).toBe('stopping');
  });

  test('a restart is a stop and a start with another instance', () => {
    const life = started();
    const { life: again, log, state } = run(life, [{ type: 'restart' }, ends(life, exited(0))]);
    expect(state).toBe('starting');
    expect(again.instanceId).not.toBe(life.instanceId);
    expect(log.map((entry) => entry.type)).toEqual(['restart', 'exit', 'start']);
    expect(log[1]!.exit).toMatchObject({ requestedStop: true, restarting: true });
  });

  test('destroy: refused while it runs, unless forced', () => {
    expect(next(started(), { type: 'destroy', force: false }, moment(), rules)).toMatchObject({
      reason: 'machine_running',
    });
    const life = started();
    const gone = run(life, [{ type: 'destroy', force: true }, ends(life, exited(0)), { type: 'cleaned-up' }]);
    expect(gone.state).toBe('destroyed');
    expect(next(gone.life, { type: 'start' }, moment(), rules)).toMatchObject({ reason: 'machine_busy' });
  });

  test('reports of an earlier start change nothing', () => {
    const life = started();
    const late: LifeEvent = { type: 'ended', instanceId: 'earlier', ending: exited(1), killed: false };
    expect(run(life, [late]).life).toBe(life);
  });
});

describe('restart policy', () => {
  const outcome = (policy: Rules['policy'], ending: Ending) => {
    const life = started();
    const { state, life: after } = run(life, [ends(life, ending)], { policy });
    return [state, after.desired];
  };

  test('which exits restart', () => {
    expect(outcome('no', exited(1))).toEqual(['stopped', 'stopped']);
    expect(outcome('on-failure', exited(0))).toEqual(['stopped', 'stopped']);
    expect(outcome('on-failure', exited(1))).toEqual(['restarting', 'started']);
    expect(outcome('on-failure', { kind: 'lost', reason: 'reboot', began: true })).toEqual(['restarting', 'started']);
    expect(outcome('always', exited(0))).toEqual(['restarting', 'started']);
  });

  test('backs off, and fails after too many restarts in 5 minutes; a start order begins anew', () => {
    let life = started();
    const delays: number[] = [];
    for (let at = 0; at < rules.restartsMax; at++) {
      life = run(life, [ends(life, exited(1))]).life;
      if (life.status.state !== 'restarting') throw new Error(life.status.state);
      delays.push(life.status.notBeforeMs - 1_000_000);
      life = run(life, [{ type: 'backoff-over' }]).life;
      life = run(life, [{ type: 'began', instanceId: life.instanceId, startedAtMs: 5 }]).life;
    }
    expect(delays).toEqual([250, 500, 1000]);
    const failed = run(life, [ends(life, exited(1))]);
    expect(failed.life.status).toEqual({ state: 'failed', reason: '3 restarts within 5 minutes; last: exit code 1' });
    expect(failed.life.restartCount).toBe(3);
    const later = run(life, [ends(life, exited(1))], {}, 1_000_000 + RESTART_WINDOW_MS);
    expect(later.life.status).toMatchObject({ state: 'restarting', notBeforeMs: 1_000_000 + RESTART_WINDOW_MS + 250 });
    expect(run(failed.life, [{ type: 'start' }])).toMatchObject({ state: 'starting', life: { restartsAtMs: [] } });
  });

  test('what cannot start: failed at once if trying again is vain, else by the policy', () => {
    const { life } = run(newLife('stopped'), [{ type: 'start' }]);
    const report = (permanent: boolean): LifeEvent => {
      return { type: 'not-started', instanceId: life.instanceId, reason: 'no such program', permanent };
    };
    expect(run(life, [report(true)]).life.status).toEqual({ state: 'failed', reason: 'no such program' });
    expect(run(life, [report(false)]).state).toBe('restarting');
    expect(run(life, [report(false)], { policy: 'no' }).state).toBe('failed');
    expect(run(life, [{ type: 'never-began', instanceId: life.instanceId }], { policy: 'no' }).state).toBe('starting');
  });

  test('auto_destroy', () => {
    const life = started();
    expect(run(life, [ends(life, exited(0))], { autoDestroy: true }).state).toBe('destroying');
    expect(run(life, [ends(life, exited(1))], { autoDestroy: true }).state).toBe('restarting');
  });
});

describe('hold', () => {
  const hold: LifeEvent = { type: 'hold', reason: 'migration mig_1' };

  test('an exit while held never restarts; the release does', () => {
    const life = run(started(), [hold]).life;
    const held = run(life, [ends(life, exited(1))], { policy: 'always' });
    expect(held.life.status).toMatchObject({ state: 'stopped', stop: { signalSentAtMs: null, exitedAtMs: 900_000 } });
    expect(held.log).toMatchObject([{ exit: { requestedStop: false, restarting: false } }]);
    expect(run(held.life, [{ type: 'release' }]).state).toBe('starting');
  });

  test('the stop of the migration leaves the wish; a crash of it does not send twice', () => {
    const life = run(started(), [hold, { type: 'stop-held', signalSentAtMs: 77 }]).life;
    expect(life).toMatchObject({ desired: 'started', status: { state: 'stopping', signalSentAtMs: 77 } });
    const stopped = run(life, [ends(life, exited(0)), { type: 'stop-held', signalSentAtMs: 77 }]);
    expect(stopped.life.status).toMatchObject({ state: 'stopped', stop: { signalSentAtMs: 77 } });
  });

  test('orders are written down with a note, or refused with the reason', () => {
    const life = run(started(), [hold]).life;
    const step = next(life, { type: 'stop' }, moment(), rules);
    expect(step).toMatchObject({
      life: { desired: 'stopped', status: { state: 'started' } },
      note: expect.stringContaining('mig_1'),
    });
    for (const event of [{ type: 'restart' }, { type: 'destroy', force: true }] as const) {
      expect(next(life, event, moment(), rules)).toMatchObject({
        reason: 'machine_busy',
        message: expect.stringContaining('mig_1'),
      });
    }
    expect(next(life, { type: 'hold', reason: 'migration mig_2' }, moment(), rules)).toMatchObject({ kind: 'refused' });
  });

  test('handing over needs the hold and a gone process; the Machine can be taken back', () => {
    const handOver: LifeEvent = { type: 'hand-over', to: 'host-b' };
    const life = run(started(), [hold]).life;
    expect(next(life, handOver, moment(), rules)).toMatchObject({ reason: 'not_yet' });
    const gone = run(life, [ends(life, exited(0)), handOver]);
    expect(gone.state).toBe('migrated');
    expect(next(gone.life, { type: 'start' }, moment(), rules)).toMatchObject({ reason: 'not_owner' });
    expect(run(gone.life, [{ type: 'release' }]).state).toBe('migrated');
    expect(run(gone.life, [{ type: 'take-back' }, { type: 'release' }]).state).toBe('starting');
  });
});

test('over any order of events: total, held means no new start, one instance a start, a signal is not forgotten', () => {
  const kinds: fc.Arbitrary<(life: Life) => LifeEvent> = fc.oneof(
    fc
      .constantFrom<LifeEvent>(
        { type: 'start' },
        { type: 'stop' },
        { type: 'restart' },
        { type: 'destroy', force: false },
        { type: 'destroy', force: true },
        { type: 'hold', reason: 'm' },
        { type: 'release' },
        { type: 'stop-held', signalSentAtMs: null },
        { type: 'hand-over', to: 'b' },
        { type: 'take-back' },
        { type: 'backoff-over' },
        { type: 'cleaned-up' },
      )
      .map((event) => () => event),
    fc.constantFrom<(life: Life) => LifeEvent>(
      ({ instanceId }) => ({ type: 'began', instanceId, startedAtMs: 1 }),
      ({ instanceId }) => ({ type: 'never-began', instanceId }),
      ({ instanceId }) => ({ type: 'not-started', instanceId, reason: 'r', permanent: false }),
      ({ instanceId }) => ({ type: 'not-started', instanceId, reason: 'r', permanent: true }),
      ({ instanceId }) => ({ type: 'signal-sent', instanceId, atMs: 1 }),
      (life) => ends(life, exited(0)),
      (life) => ends(life, exited(1), true),
    ),
  );
  const settings = fc.record({
    policy: fc.constantFrom<Rules['policy']>('no', 'always', 'on-failure'),
    autoDestroy: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(kinds, { maxLength: 40 }), settings, (makers, over) => {
      let life = newLife('stopped');
      const used = new Set<string>();
      makers.forEach((make, at) => {
        const step = next(life, make(life), { nowMs: at * 1000, instanceId: `i${at}` }, { ...rules, ...over });
        if (step.kind === 'refused') return;
        const { status } = step.life;
        if (status.state === 'starting' && step.life.instanceId !== life.instanceId) {
          expect(step.life.hold).toBeNull();
          expect(life.status.state).not.toBe('started');
          expect(used.has(status.instanceId)).toBe(false);
          used.add(status.instanceId);
        }
        if (life.status.state === 'stopping' && status.state === 'stopping' && life.status.signalSentAtMs !== null) {
          expect(status.signalSentAtMs).toBe(life.status.signalSentAtMs);
        }
        life = step.life;
      });
    }),
    { numRuns: 500 },
  );
});
