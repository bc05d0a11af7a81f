import type { Placement } from './boot.ts';

/** Why an order, a statement or an observation was refused; nothing has changed then. docs/errors.md tells what to do. */
export type RefusalReason =
  | 'unknown_migration' // no row of this ID here
  | 'burnt' // this ID has ended here and is never used again
  | 'too_late' // the point of no return is passed: the other side decides now
  | 'not_yet' // the step before this one is not done
  | 'stale_term' // another driver took over with a higher term
  | 'stale_fence' // a higher fence was seen for this network
  | 'no_permit' // this host holds no permit of this network for this migration
  | 'held_by_other' // another migration has the permit, or holds the Machine stopped
  | 'in_use' // the permit's own migration still keeps a Machine down here
  | 'not_owner' // this agent does not own the Machine
  | 'owner_here' // this agent owns the Machine already
  | 'wrong_epoch' // the epoch is not the one this agent must see next
  | 'wrong_statement' // a field of the statement is not the one agreed
  | 'bad_signature' // not signed by the pinned key
  | 'root_mismatch' // the two copies differ
  | 'process_alive' // the Machine's process was seen
  | 'journal_behind' // the volume's marker is ahead of the journal: the journal went back
  | 'not_settled' // no settlement with an equal retained root, or the retention time is not over
  | 'other_role'; // the same ID is known here with different particulars

export interface Refusal {
  readonly reason: RefusalReason;
  /** What was wrong and what was expected. */
  readonly message: string;
  /** With `stale_term` and `stale_fence`: the highest number seen here; go above it. */
  readonly seen?: number;
}

export interface Refused {
  readonly ok: false;
  readonly refusal: Refusal;
}

/**
 * What one event does. `state` and `placement` are written in ONE journal transaction, durably; only after that the
 * effects are done, in their order, each finished before the next. Repeating an effect is harmless.
 */
export interface Moved<State, Effect> {
  readonly ok: true;
  readonly state: State;
  readonly placement: Placement;
  readonly effects: readonly Effect[];
}

export type Outcome<State, Effect> = Moved<State, Effect> | Refused;

export function refuse(reason: RefusalReason, message: string, seen?: number): Refused {
  return { ok: false, refusal: seen === undefined ? { reason, message } : { reason, message, seen } };
}
