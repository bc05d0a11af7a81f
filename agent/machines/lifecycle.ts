// Past 300 lines: one table of what may happen to a Machine, in one place.
import type { Ending, Exit } from '../runtime/runtime.ts';

/*
 * The life of a Machine on one host, as a pure function: next(life, event, moment) -> life, log entries, or a refusal.
 * What to do about a status follows from the status alone (effectOf), so that an agent that starts again does what the
 * one before it did not finish.
 *
 *   created ──> starting ──> started ──> stopping ──> stopped ──> starting ...
 *                  │  ^         │            └──> starting (restart)
 *                  v  │         v
 *               restarting <────┴──> stopped | failed          anything ──> destroying ──> destroyed
 *
 * Over it lies the hold of a migration: while it is there, nothing starts, whatever is desired. At its end a Machine
 * that is not alive is released, or becomes migrated.
 */

/** What an operator wants. */
export type Desired = 'started' | 'stopped' | 'destroyed';

/** How a stop went, in milliseconds since 1970. */
export interface StopTimes {
  /** Null when the program had ended before any signal. */
  readonly signalSentAtMs: number | null;
  readonly exitedAtMs: number;
  /** Process observed gone and volume detached. */
  readonly goneAtMs: number;
  /** Whether it took SIGKILL. */
  readonly killed: boolean;
}

export type Status =
  | { readonly state: 'created' }
  | { readonly state: 'starting'; readonly instanceId: string }
  | { readonly state: 'started'; readonly instanceId: string; readonly startedAtMs: number }
  | {
      readonly state: 'stopping';
      readonly instanceId: string;
      readonly signal: NodeJS.Signals;
      readonly timeoutMs: number;
      /** Recorded before the signal is sent; it is never sent again. */
      readonly signalSentAtMs: number | null;
    }
  | { readonly state: 'stopped'; readonly stop: StopTimes | null }
  | { readonly state: 'restarting'; readonly notBeforeMs: number; readonly reason: string }
  | { readonly state: 'failed'; readonly reason: string }
  | { readonly state: 'destroying' }
  | { readonly state: 'destroyed' }
  /** Another host owns it now. */
  | { readonly state: 'migrated'; readonly to: string };

/** All that is durable about a Machine's life. Plain JSON. */
export interface Life {
  readonly desired: Desired;
  /** Why nothing is started (a migration), or null. */
  readonly hold: string | null;
  readonly status: Status;
  /** The last start; empty before the first. */
  readonly instanceId: string;
  /** When the policy restarted it, within RESTART_WINDOW_MS. */
  readonly restartsAtMs: readonly number[];
  /** Restarts by the policy, ever. */
  readonly restartCount: number;
}

export type RestartPolicy = 'no' | 'always' | 'on-failure';

/** The settings that decide. */
export interface Rules {
  readonly policy: RestartPolicy;
  /** Restarts by on-failure within RESTART_WINDOW_MS after which the Machine is failed. */
  readonly restartsMax: number;
  readonly stopSignal: NodeJS.Signals;
  readonly stopTimeoutMs: number;
  /** Destroy it when its program ends by itself with exit code 0. */
  readonly autoDestroy: boolean;
}

export type LifeEvent =
  | { readonly type: 'start' }
  | { readonly type: 'stop'; readonly signal?: NodeJS.Signals; readonly timeoutMs?: number }
  | { readonly type: 'restart' }
  | { readonly type: 'destroy'; readonly force: boolean }
  /** From here on nothing is started; durable before the migration stops the Machine. */
  | { readonly type: 'hold'; readonly reason: string }
  /** The migration orders the stop; only while held. `desired` stays. */
  | { readonly type: 'stop-held'; readonly signalSentAtMs: number | null }
  | { readonly type: 'release' }
  /** The migration gave the Machine to another host; only while held and gone. */
  | { readonly type: 'hand-over'; readonly to: string }
  /** The other host declined for good: ours again, still held. */
  | { readonly type: 'take-back' }
  | { readonly type: 'began'; readonly instanceId: string; readonly startedAtMs: number }
  /** The agent died on the way: nothing of this start can ever run. */
  | { readonly type: 'never-began'; readonly instanceId: string }
  /** `permanent`: trying again cannot help (no such program). */
  | { readonly type: 'not-started'; readonly instanceId: string; readonly reason: string; readonly permanent: boolean }
  | { readonly type: 'signal-sent'; readonly instanceId: string; readonly atMs: number }
  /** All its processes are gone and the volume is detached; `killed`: it took SIGKILL. */
  | { readonly type: 'ended'; readonly instanceId: string; readonly ending: Ending; readonly killed: boolean }
  | { readonly type: 'backoff-over' }
  | { readonly type: 'cleaned-up' };

/** What the outside gives to a decision. */
export interface Moment {
  readonly nowMs: number;
  /** A fresh ULID, used if this decision starts the program. */
  readonly instanceId: string;
}

/** An entry for the Machine's event log. */
export interface LogEntry {
  readonly type: 'launch' | 'start' | 'exit' | 'stop' | 'restart' | 'destroy';
  readonly status: Status['state'];
  readonly source: 'user' | 'agent' | 'coordinator';
  readonly exit?: Exit & { readonly requestedStop: boolean; readonly restarting: boolean };
  readonly message?: string;
}

export type Step =
  | { readonly kind: 'next'; readonly life: Life; readonly log: readonly LogEntry[]; readonly note?: string }
  | {
      readonly kind: 'refused';
      readonly reason: 'machine_busy' | 'machine_running' | 'not_yet' | 'not_owner';
      readonly message: string;
    };

/** What has to be done in a status, again and again until an event ends it. */
export type Effect =
  | { readonly kind: 'none' }
  | { readonly kind: 'start'; readonly instanceId: string }
  | { readonly kind: 'watch'; readonly instanceId: string; readonly startedAtMs: number }
  | { readonly kind: 'stop'; readonly stopping: Extract<Status, { state: 'stopping' }> }
  | { readonly kind: 'wait'; readonly untilMs: number }
  | { readonly kind: 'clean-up' };

export const RESTART_WINDOW_MS = 5 * 60_000;
const BACKOFF_FIRST_MS = 250;
const BACKOFF_MAX_MS = 30_000;

/** A Machine that was just recorded. */
export function newLife(desired: Desired): Life {
  return { desired, hold: null, status: { state: 'created' }, instanceId: '', restartsAtMs: [], restartCount: 0 };
}

/** What to do in a status. */
export function effectOf(status: Status): Effect {
  switch (status.state) {
    case 'starting':
      return { kind: 'start', instanceId: status.instanceId };
    case 'started':
      return { kind: 'watch', instanceId: status.instanceId, startedAtMs: status.startedAtMs };
    case 'stopping':
      return { kind: 'stop', stopping: status };
    case 'restarting':
      return { kind: 'wait', untilMs: status.notBeforeMs };
    case 'destroying':
      return { kind: 'clean-up' };
    case 'created':
    case 'stopped':
    case 'failed':
    case 'destroyed':
    case 'migrated':
      return { kind: 'none' };
  }
}

/** Decides. Total: an event that means nothing in a status (a late report) changes nothing. */
export function next(life: Life, event: LifeEvent, moment: Moment, rules: Rules): Step {
  switch (event.type) {
    case 'start':
    case 'stop':
    case 'restart':
    case 'destroy':
      return order(life, event, moment, rules);
    case 'hold':
      return hold(life, event.reason);
    case 'stop-held':
      return stopHeld(life, event.signalSentAtMs, rules);
    case 'release':
      return life.hold === null ? same(life) : settle({ ...life, hold: null }, moment, rules, 'agent');
    case 'hand-over':
      return handOver(life, event.to);
    case 'take-back':
      if (life.status.state !== 'migrated') return same(life);
      return { kind: 'next', life: { ...life, status: { state: 'stopped', stop: null } }, log: [] };
    case 'backoff-over':
      return life.status.state === 'restarting' ? start(life, moment, 'agent') : same(life);
    case 'cleaned-up':
      return life.status.state === 'destroying' ? enter(life, { state: 'destroyed' }, 'destroy', 'agent') : same(life);
    default:
      return report(life, event, moment, rules);
  }
}

/** What a starting agent decides about a Machine that nothing is done about: does it want to be started? */
export function resume(life: Life, moment: Moment, rules: Rules): Step {
  return settle(life, moment, rules, 'agent');
}

type Order = Extract<LifeEvent, { type: 'start' | 'stop' | 'restart' | 'destroy' }>;
type Report = Extract<LifeEvent, { type: 'began' | 'never-began' | 'not-started' | 'signal-sent' | 'ended' }>;

function order(life: Life, event: Order, moment: Moment, rules: Rules): Step {
  const { state } = life.status;
  if (state === 'destroying' || state === 'destroyed') {
    if (event.type === 'destroy') return same(life);
    return { kind: 'refused', reason: 'machine_busy', message: `the Machine is ${state}` };
  }
  if (life.status.state === 'migrated') {
    return { kind: 'refused', reason: 'not_owner', message: `host ${life.status.to} owns the Machine` };
  }
  if (life.hold !== null) return orderHeld(life, life.hold, event);
  switch (event.type) {
    case 'start': {
      const started = { ...life, desired: 'started' as const };
      // Asked for anew: what failed before no longer counts.
      if (state === 'failed' || state === 'restarting') return start({ ...started, restartsAtMs: [] }, moment, 'user');
      return settle(started, moment, rules, 'user');
    }
    case 'stop':
      return settle({ ...life, desired: 'stopped' }, moment, withStop(rules, event), 'user');
    case 'restart': {
      const restarted = { ...life, desired: 'started' as const, restartsAtMs: [] };
      if (life.status.state !== 'started') return start(restarted, moment, 'user');
      return enter(restarted, stopping(life.status.instanceId, rules), 'restart', 'user');
    }
    case 'destroy':
      if (isAlive(life.status) && !event.force) {
        return { kind: 'refused', reason: 'machine_running', message: `the Machine is ${state}` };
      }
      return settle({ ...life, desired: 'destroyed' }, moment, rules, 'user');
  }
}

/** A migration holds the Machine: what can wait is written down, the rest refused. */
function orderHeld(life: Life, reason: string, event: Order): Step {
  if (event.type === 'start' || event.type === 'stop') {
    const desired = event.type === 'start' ? 'started' : 'stopped';
    return { kind: 'next', life: { ...life, desired }, log: [], note: `recorded; it takes effect after ${reason}` };
  }
  return { kind: 'refused', reason: 'machine_busy', message: `cannot ${event.type} the Machine now: ${reason}` };
}

function hold(life: Life, reason: string): Step {
  if (life.hold === reason) return same(life);
  if (life.hold !== null) return { kind: 'refused', reason: 'machine_busy', message: `already held: ${life.hold}` };
  const { state } = life.status;
  if (state === 'destroying' || state === 'destroyed' || life.desired === 'destroyed') {
    return { kind: 'refused', reason: 'machine_busy', message: 'the Machine is being destroyed' };
  }
  // A restart that was still to come comes after the release.
  const status: Status = state === 'restarting' ? { state: 'stopped', stop: null } : life.status;
  return { kind: 'next', life: { ...life, hold: reason, status }, log: [] };
}

function stopHeld(life: Life, signalSentAtMs: number | null, rules: Rules): Step {
  if (life.hold === null) return { kind: 'refused', reason: 'not_yet', message: 'the Machine is not held' };
  const { status } = life;
  if (status.state !== 'started') return same(life);
  return enter(life, { ...stopping(status.instanceId, rules), signalSentAtMs }, 'stop', 'coordinator');
}

function handOver(life: Life, to: string): Step {
  if (life.status.state === 'migrated') return same(life);
  if (life.hold === null || isAlive(life.status)) {
    return { kind: 'refused', reason: 'not_yet', message: `the Machine is ${life.status.state}` };
  }
  return { kind: 'next', life: { ...life, status: { state: 'migrated', to } }, log: [] };
}

function report(life: Life, event: Report, moment: Moment, rules: Rules): Step {
  const { status } = life;
  // Of an earlier start, or of one that is over.
  if (!isAlive(status) || status.instanceId !== event.instanceId) return same(life);
  switch (event.type) {
    case 'began': {
      if (status.state !== 'starting') return same(life);
      const started: Status = { state: 'started', instanceId: event.instanceId, startedAtMs: event.startedAtMs };
      const begun = enter(life, started, 'start', 'agent');
      // The wish may have changed meanwhile.
      return begun.kind === 'next' && life.hold === null
        ? after(begun, settle(begun.life, moment, rules, 'agent'))
        : begun;
    }
    case 'never-began': {
      if (status.state !== 'starting') return same(life);
      const stopped: Life = { ...life, status: { state: 'stopped', stop: null } };
      return settle(stopped, moment, rules, 'agent');
    }
    case 'not-started': {
      if (status.state !== 'starting') return same(life);
      return life.desired === 'started' && event.permanent && life.hold === null
        ? enter(life, { state: 'failed', reason: event.reason }, 'start', 'agent', event.reason)
        : again(life, `could not be started: ${event.reason}`, null, moment, rules);
    }
    case 'signal-sent':
      if (status.state !== 'stopping' || status.signalSentAtMs !== null) return same(life);
      return { kind: 'next', life: { ...life, status: { ...status, signalSentAtMs: event.atMs } }, log: [] };
    case 'ended':
      return ended(life, status, event, moment, rules);
  }
}

function ended(
  life: Life,
  status: AliveStatus,
  event: Extract<Report, { type: 'ended' }>,
  moment: Moment,
  rules: Rules,
): Step {
  const { ending } = event;
  if (status.state !== 'stopping' && life.desired === 'started' && life.hold === null) {
    const reason = ending.kind === 'lost' ? ending.reason : describeExit(ending.exit);
    return again(life, reason, ending, moment, rules);
  }
  const stop: StopTimes = {
    signalSentAtMs: status.state === 'stopping' ? status.signalSentAtMs : null,
    exitedAtMs: ending.kind === 'exited' ? ending.exit.exitedAtMs : moment.nowMs,
    goneAtMs: moment.nowMs,
    killed: event.killed,
  };
  const restarting = life.desired === 'started' && life.hold === null;
  const stopped = exit(life, { state: 'stopped', stop }, ending, status.state === 'stopping', restarting);
  return after(stopped, settle(stopped.life, moment, rules, 'agent'));
}

/** The program ended (or could not start) though it should run: the restart policy decides. */
function again(life: Life, reason: string, ending: Ending | null, moment: Moment, rules: Rules): Step {
  const succeeded = ending?.kind === 'exited' && ending.exit.exitCode === 0;
  const recent = life.restartsAtMs.filter((atMs) => atMs > moment.nowMs - RESTART_WINDOW_MS);
  const exhausted = rules.policy === 'on-failure' && recent.length >= rules.restartsMax;
  const leave = (status: Status, changes: Partial<Life> = {}): NextStep =>
    ending === null
      ? enter({ ...life, ...changes }, status, 'start', 'agent', reason)
      : exit({ ...life, ...changes }, status, ending, false, status.state === 'restarting');
  if (life.desired !== 'started' || life.hold !== null) {
    const stopped = leave({ state: 'stopped', stop: null });
    return after(stopped, settle(stopped.life, moment, rules, 'agent'));
  }
  if (succeeded && rules.autoDestroy) return leave({ state: 'destroying' }, { desired: 'destroyed' });
  if (rules.policy === 'no' || (rules.policy === 'on-failure' && succeeded)) {
    if (ending === null) return leave({ state: 'failed', reason });
    return leave({ state: 'stopped', stop: null }, { desired: 'stopped' });
  }
  if (exhausted)
    return leave({ state: 'failed', reason: `${recent.length} restarts within 5 minutes; last: ${reason}` });
  const backoffMs = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** Math.min(recent.length, 16));
  return leave(
    { state: 'restarting', notBeforeMs: moment.nowMs + backoffMs, reason },
    { restartsAtMs: [...recent, moment.nowMs].slice(-100), restartCount: life.restartCount + 1 },
  );
}

/** Brings the status nearer to what is desired, if nothing is on its way already. */
function settle(life: Life, moment: Moment, rules: Rules, source: LogEntry['source']): NextStep {
  const { status, desired } = life;
  if (life.hold !== null) return same(life);
  switch (status.state) {
    case 'created':
    case 'stopped':
    case 'failed':
    case 'restarting':
      if (desired === 'destroyed') return enter(life, { state: 'destroying' }, 'destroy', source);
      if (desired === 'started' && (status.state === 'created' || status.state === 'stopped'))
        return start(life, moment, source);
      if (desired === 'stopped' && status.state === 'restarting')
        return enter(life, { state: 'stopped', stop: null }, 'stop', source);
      return same(life);
    case 'started':
      return desired === 'started' ? same(life) : enter(life, stopping(status.instanceId, rules), 'stop', source);
    case 'starting':
    case 'stopping':
    case 'destroying':
    case 'destroyed':
    case 'migrated':
      return same(life);
  }
}

type AliveStatus = Extract<Status, { instanceId: string }>;
type NextStep = Extract<Step, { kind: 'next' }>;

/** Whether a process of the Machine may live in this status. */
export function isAlive(status: Status): status is AliveStatus {
  return status.state === 'starting' || status.state === 'started' || status.state === 'stopping';
}

function same(life: Life): NextStep {
  return { kind: 'next', life, log: [] };
}

function after(first: NextStep, then: NextStep): NextStep {
  return { kind: 'next', life: then.life, log: [...first.log, ...then.log] };
}

function enter(
  life: Life,
  status: Status,
  type: LogEntry['type'],
  source: LogEntry['source'],
  message?: string,
): NextStep {
  const entry = { type, status: status.state, source, ...(message === undefined ? {} : { message }) };
  return { kind: 'next', life: { ...life, status }, log: [entry] };
}

function exit(life: Life, status: Status, ending: Ending, requestedStop: boolean, restarting: boolean): NextStep {
  const known =
    ending.kind === 'exited' ? { exit: { ...ending.exit, requestedStop, restarting } } : { message: ending.reason };
  const entry: LogEntry = { type: 'exit', status: status.state, source: 'agent', ...known };
  return { kind: 'next', life: { ...life, status }, log: [entry] };
}

/** Starts it, if nothing of it is alive or on its way. */
function start(life: Life, moment: Moment, source: LogEntry['source']): NextStep {
  if (isAlive(life.status)) return same(life);
  const { instanceId } = moment;
  const type = life.instanceId === '' ? 'launch' : 'start';
  return enter({ ...life, instanceId }, { state: 'starting', instanceId }, type, source);
}

function stopping(instanceId: string, rules: Rules): Extract<Status, { state: 'stopping' }> {
  const { stopSignal: signal, stopTimeoutMs: timeoutMs } = rules;
  return { state: 'stopping', instanceId, signal, timeoutMs, signalSentAtMs: null };
}

function withStop(rules: Rules, event: Extract<Order, { type: 'stop' }>): Rules {
  return {
    ...rules,
    stopSignal: event.signal ?? rules.stopSignal,
    stopTimeoutMs: event.timeoutMs ?? rules.stopTimeoutMs,
  };
}

function describeExit(exit: Exit): string {
  const how = exit.signal === null ? `exit code ${exit.exitCode}` : `ended by ${exit.signal}`;
  return exit.oomKilled === true ? `${how}, out of memory` : how;
}
