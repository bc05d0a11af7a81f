import { DrainMachineState, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { FerryError } from '../../shared/error.ts';

/** What happens to a Machine of a drain. */
export type MachineEvent =
  /** Its move begins: written down before the migration is claimed. */
  | 'begin'
  /** It is healthy elsewhere. */
  | 'moved'
  /** Its move ended without result, or never began: it waits for another. */
  | 'again'
  /** Nothing is tried any more. */
  | 'park'
  /** It left the host without this drain, or was destroyed. */
  | 'left'
  /** It is on the host again. */
  | 'back';

/** What happens to a drain. */
export type DrainEvent =
  | 'pause'
  | 'resume'
  | 'cancel'
  /** Nothing is left to do: the host owns nothing. */
  | 'empty'
  /** Nothing is left to do without an operator: some are parked. */
  | 'stuck'
  /** What could be taken back was, the rest has ended. */
  | 'wound-up';

type Table<S extends number, E extends string> = { readonly [state in S]?: { readonly [event in E]?: S } };

const { WAITING, MOVING, MOVED, PARKED, GONE } = DrainMachineState;

const machines: Table<DrainMachineState, MachineEvent> = {
  [WAITING]: { begin: MOVING, park: PARKED, left: GONE },
  [MOVING]: { moved: MOVED, again: WAITING, park: PARKED, left: GONE },
  [PARKED]: { again: WAITING, left: GONE },
  [MOVED]: { back: WAITING },
  [GONE]: { back: WAITING },
};

const { RUNNING, PAUSED, CANCELLING, DONE, BLOCKED, CANCELLED } = DrainState;

const drains: Table<DrainState, DrainEvent> = {
  [RUNNING]: { pause: PAUSED, resume: RUNNING, cancel: CANCELLING, empty: DONE, stuck: BLOCKED },
  [PAUSED]: { pause: PAUSED, resume: RUNNING, cancel: CANCELLING, empty: DONE, stuck: BLOCKED },
  [CANCELLING]: { cancel: CANCELLING, 'wound-up': CANCELLED },
  [BLOCKED]: { resume: RUNNING },
};

/** The state of a Machine after an event; undefined: the event cannot happen there. */
export function nextOfMachine(state: DrainMachineState, event: MachineEvent): DrainMachineState | undefined {
  return machines[state]?.[event];
}

/** The state of a drain after an event; undefined: the event cannot happen there. */
export function nextOfDrain(state: DrainState, event: DrainEvent): DrainState | undefined {
  return drains[state]?.[event];
}

/** Whether a drain has ended; one that is blocked can be resumed. */
export function hasDrainEnded(state: DrainState): boolean {
  return state === DONE || state === BLOCKED || state === CANCELLED;
}

/** The state of a Machine after an event that must be possible there. */
export function stepOfMachine(state: DrainMachineState, event: MachineEvent): DrainMachineState {
  const next = nextOfMachine(state, event);
  if (next !== undefined) return next;
  throw new FerryError('internal', `a Machine of a drain in state ${state} has no way to "${event}"`);
}
