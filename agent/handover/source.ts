/**
 * The source's side of a hand-over: one durable row per migration ID, never deleted. A pure function of row and event.
 *
 *  row          event                   → row           written with it, then done
 *  (none)       offer                     offered       the Machine runs on; the copy's ID and the peer are agreed
 *  (none)       abort                     aborted       the ID is burnt before it was ever used
 *  offered      stop (permit held)        stopping      Machine held: no autostart; then the signal, then wait, then kill
 *  stopping     signal-sent               stopping      the signal never goes twice
 *  stopping     gone-observed             stopped       process seen gone, volume detached and synced; then take the root
 *  stopped      root-taken                stopped       root of the bytes as they are since STOPPED
 *  stopped      relinquish (roots equal)  relinquished  owner e → given up; marker; then the ticket leaves
 *  relinquished settled                   settled       the destination owns it; then re-read the whole retained volume
 *  settled      retained-root-read equal  tombstoned    the retained copy may go after the retention time
 *  settled      retained-root-read other  parked        the retained copy stays until an operator decides
 *  parked       difference-accepted       tombstoned    the operator goes on with what moved; the retention time begins
 *  relinquished declined                  returned      owner e+2; marker; Machine starts
 *  offered      abort, declined           aborted       owner e still; nothing was held
 *  stopping, stopped  abort, declined, (stopped) driver-silent
 *                                         aborted       owner e+2; marker; Machine starts
 *  aborted, returned  up                  same          the Machine is up again: the network may be released
 *
 * Every order done already answers with the same row again; everything else is refused with its reason and changes nothing.
 * A Machine that comes back after it was held gets a new epoch: a journal put back to a row from before then shows against
 * the marker, and a root taken before then can never be signed.
 *
 * Longer than most files: the table, the types and every transition of one side belong in one view.
 */
import { type Placement, reconcile, type Seal } from './boot.ts';
import { type Outcome, type Refused, refuse } from './outcome.ts';
import type { Permit, Standing } from './permit.ts';
import {
  type Decline,
  type Received,
  type Root,
  type Settlement,
  type Subject,
  sameSubject,
  subjectOf,
  type Ticket,
} from './statements.ts';

/** What is agreed at the offer. `epoch` is the epoch that the destination would get: the owner's epoch plus one. */
export interface Offer extends Subject {
  readonly network: string;
  /** Who holds the network for this migration: itself, or for a move back the migration that it takes back. */
  readonly lockHolder: string;
}

interface Agreed {
  readonly offer: Offer;
  /** Highest driver term that gave an order; never falls. */
  readonly term: number;
}

export type SourceState =
  | (Agreed & { readonly step: 'offered' })
  | (Agreed & { readonly step: 'stopping'; readonly fence: number; readonly signalSentAtMs: number | null })
  | (Agreed & { readonly step: 'stopped'; readonly fence: number; readonly root: Root | null })
  | (Agreed & { readonly step: 'relinquished'; readonly ticket: Ticket })
  | (Agreed & { readonly step: 'settled'; readonly ticket: Ticket; readonly settlement: Settlement })
  | (Agreed & {
      readonly step: 'tombstoned';
      readonly ticket: Ticket;
      readonly settlement: Settlement;
      /** Only where an operator let a retained copy go that differs: who it was, and the root of that copy. */
      readonly accepted?: { readonly orderedBy: string; readonly retainedRoot: Root };
    })
  | (Agreed & {
      readonly step: 'parked';
      readonly ticket: Ticket;
      readonly settlement: Settlement;
      readonly retainedRoot: Root;
    })
  | (Agreed & { readonly step: 'returned'; readonly decline: Decline; readonly up: boolean })
  | {
      readonly step: 'aborted';
      /** Null when the ID was burnt before anything was agreed. */
      readonly offer: Offer | null;
      readonly term: number;
      readonly reason: string;
      /** Whether the Machine was held; then it owns epoch + 1 of the offer, and is to be started. */
      readonly held: boolean;
      readonly up: boolean;
    };

export type SourceEvent =
  | { readonly type: 'offer'; readonly term: number; readonly offer: Offer }
  | { readonly type: 'stop'; readonly term: number; readonly fence: number }
  /** Written just before the signal goes, so that it never goes twice; if it was lost between, the kill follows in time. */
  | { readonly type: 'signal-sent'; readonly atMs: number }
  /** No process of the Machine is left, its volume is detached and synced. Seen, not assumed. */
  | { readonly type: 'gone-observed' }
  /** The reading began after STOPPED was durable. */
  | { readonly type: 'root-taken'; readonly root: Root }
  /** `root` is the destination's; `processGone` was looked at again for this order. */
  | {
      readonly type: 'relinquish';
      readonly term: number;
      readonly root: Root;
      readonly recordDigest: string;
      readonly processGone: boolean;
    }
  | { readonly type: 'settled'; readonly settlement: Received<Settlement> }
  /** Root of the whole retained volume, read anew. */
  | { readonly type: 'retained-root-read'; readonly root: Root }
  /** An operator has compared both copies: the retained one, which differs, may go after the retention time. */
  | { readonly type: 'difference-accepted'; readonly orderedBy: string }
  | { readonly type: 'declined'; readonly decline: Received<Decline> }
  | { readonly type: 'abort'; readonly term: number; readonly reason: string }
  /** The agent's own: no driver was heard for 60 s. */
  | { readonly type: 'driver-silent' }
  /**
   * The Machine is healthy, or stays stopped because that is desired, or an operator accepts that it is down, or a later
   * hand-over took it on.
   */
  | { readonly type: 'up' };

export type SourceEffect =
  /** Rename the volume's marker to this and sync the directory. */
  | { readonly do: 'mark'; readonly marker: Seal }
  | { readonly do: 'send-signal' }
  /** Wait for the process to go, kill after the timeout, detach and sync; ends in `gone-observed`. */
  | { readonly do: 'observe-gone' }
  | { readonly do: 'take-root' }
  /** Sign it, hand it to the destination, repeat until a settlement or a decline comes. */
  | { readonly do: 'deliver-ticket'; readonly ticket: Ticket }
  | { readonly do: 'read-retained-root' }
  /** Keep the volume read-only for the retention time, then `mayDelete`. */
  | { readonly do: 'retire-volume' }
  /** Through `mayStart`. A process that a signal may have reached is first waited for until it is gone. */
  | { readonly do: 'start-machine' };

/** What the journal and the host's disk say around the row. */
export interface SourceContext {
  /** The ID under which the row is kept. */
  readonly migrationId: string;
  readonly host: string;
  readonly placement: Placement;
  readonly seal: Seal | null;
  readonly journalWentBack: boolean;
  /** The migration whose row is `stopping` or `stopped` for this Machine, or null. */
  readonly heldBy: string | null;
  /** This host's permit for the network of the Machine. */
  readonly permit: Permit | null;
}

export type SourceOutcome = Outcome<SourceState, SourceEffect>;

export function nextSource(state: SourceState | null, event: SourceEvent, context: SourceContext): SourceOutcome {
  const behind = journalBehind(context);
  if (behind !== null) return behind;
  if ('term' in event && state !== null && event.term < state.term) {
    return refuse('stale_term', `term ${event.term} is below ${state.term}, the driver's now`, state.term);
  }
  switch (event.type) {
    case 'offer':
      return offer(state, event, context);
    case 'stop':
      return stop(state, event, context);
    case 'signal-sent':
      if (state?.step !== 'stopping') return outOfOrder(state, 'stopping');
      return moved({ ...state, signalSentAtMs: state.signalSentAtMs ?? event.atMs }, context.placement, context);
    case 'gone-observed':
      if (state?.step !== 'stopping') return outOfOrder(state, 'stopping');
      return moved(
        { step: 'stopped', offer: state.offer, term: state.term, fence: state.fence, root: null },
        context.placement,
        context,
      );
    case 'root-taken':
      if (state?.step !== 'stopped') return outOfOrder(state, 'stopped');
      return moved({ ...state, root: event.root }, context.placement, context);
    case 'relinquish':
      return relinquish(state, event, context);
    case 'settled':
      return settled(state, event.settlement, context);
    case 'retained-root-read':
      return retainedRootRead(state, event.root, context);
    case 'difference-accepted':
      return differenceAccepted(state, event.orderedBy, context);
    case 'declined':
      return declined(state, event.decline, context);
    case 'abort':
      return abort(state, event, context);
    case 'driver-silent':
      if (state?.step !== 'stopped') return outOfOrder(state, 'stopped');
      return comeBack(state, state.term, 'no driver was heard while the Machine was stopped', context);
    case 'up':
      if (state?.step !== 'aborted' && state?.step !== 'returned') return outOfOrder(state, 'aborted or returned');
      return moved({ ...state, up: true }, context.placement, context);
  }
}

/**
 * What is still to be done in this row, told from the durable row alone: the executor's list after a crash. The marker
 * is not in it: `reconcile` finishes markers first, from the placement.
 */
export function pendingSource(state: SourceState): readonly SourceEffect[] {
  switch (state.step) {
    case 'stopping':
      return state.signalSentAtMs === null ? [{ do: 'send-signal' }, { do: 'observe-gone' }] : [{ do: 'observe-gone' }];
    case 'stopped':
      return state.root === null ? [{ do: 'take-root' }] : [];
    case 'relinquished':
      return [{ do: 'deliver-ticket', ticket: state.ticket }];
    case 'settled':
      return [{ do: 'read-retained-root' }];
    case 'tombstoned':
      return [{ do: 'retire-volume' }];
    case 'returned':
      return state.up ? [] : [{ do: 'start-machine' }];
    case 'aborted':
      return state.held && !state.up ? [{ do: 'start-machine' }] : [];
    case 'offered':
    case 'parked':
      return [];
  }
}

/** Whether this row keeps the Machine from starting. */
export function holdsMachine(state: SourceState): boolean {
  return state.step === 'stopping' || state.step === 'stopped';
}

/** Whether the Machine is, or may be, down because of this row: its network's permit is not given back then. */
export function sourceKeepsDown(state: SourceState): boolean {
  if (state.step === 'aborted' || state.step === 'returned') return !state.up;
  return holdsMachine(state) || state.step === 'relinquished';
}

/** How the migration stands here, for whoever asks about an orphaned lock. */
export function sourceStanding(state: SourceState): Standing {
  switch (state.step) {
    case 'offered':
    case 'stopping':
    case 'stopped':
      return 'active';
    case 'relinquished':
    case 'settled':
    case 'tombstoned':
    case 'parked':
      return 'handed-over';
    case 'aborted':
    case 'returned':
      return state.up ? 'over' : 'active';
  }
}

/** The one rule by which a retained volume's bytes may be deleted. */
export function mayDelete(
  state: SourceState,
  tombstonedAtMs: number,
  nowMs: number,
  retentionMs: number,
): Refused | { ok: true } {
  if (state.step !== 'tombstoned') {
    return refuse('not_settled', `the copy is kept: its hand-over is ${state.step}, only a tombstoned one may go`);
  }
  if (nowMs - tombstonedAtMs < retentionMs) {
    return refuse('not_settled', `the copy is kept until ${new Date(tombstonedAtMs + retentionMs).toISOString()}`);
  }
  return { ok: true };
}

function offer(
  state: SourceState | null,
  event: SourceEvent & { type: 'offer' },
  context: SourceContext,
): SourceOutcome {
  if (state !== null) {
    if (state.step === 'aborted' || state.step === 'returned') return burnt(state);
    const { network, lockHolder } = event.offer;
    const same =
      sameSubject(state.offer, event.offer) && state.offer.network === network && state.offer.lockHolder === lockHolder;
    if (!same) return refuse('other_role', 'this migration was offered here with other particulars');
    return again({ ...state, term: event.term }, context);
  }
  const { migrationId, host } = context;
  const { source, destination } = event.offer;
  if (event.offer.migrationId !== migrationId || source !== host || destination === host) {
    return refuse('wrong_statement', `expected migration ${migrationId} from ${host} to another host`);
  }
  const owned = ownsEpoch(context, event.offer.epoch - 1);
  if (owned !== null) return owned;
  return moved({ step: 'offered', offer: event.offer, term: event.term }, context.placement, context);
}

function stop(state: SourceState | null, event: SourceEvent & { type: 'stop' }, context: SourceContext): SourceOutcome {
  if (state === null) return refuse('unknown_migration', 'nothing was offered under this ID');
  if (state.step === 'stopping' || state.step === 'stopped') return again({ ...state, term: event.term }, context);
  if (state.step !== 'offered') return outOfOrder(state, 'offered');
  const owned = ownsEpoch(context, state.offer.epoch - 1);
  if (owned !== null) return owned;
  if (context.heldBy !== null) return refuse('held_by_other', `migration ${context.heldBy} holds the Machine already`);
  const { permit } = context;
  if (permit === null || permit.network !== state.offer.network || permit.holder !== state.offer.lockHolder) {
    return refuse(
      'no_permit',
      `this host holds no permit of network ${state.offer.network} for ${state.offer.lockHolder}`,
    );
  }
  if (event.fence < permit.fence)
    return refuse('stale_fence', `fence ${event.fence} is below ${permit.fence}`, permit.fence);
  if (event.fence > permit.fence)
    return refuse('no_permit', `the permit here has fence ${permit.fence}: grant ${event.fence} first`);
  return moved(
    { step: 'stopping', offer: state.offer, term: event.term, fence: event.fence, signalSentAtMs: null },
    context.placement,
    context,
  );
}

function relinquish(
  state: SourceState | null,
  event: SourceEvent & { type: 'relinquish' },
  context: SourceContext,
): SourceOutcome {
  // Signed long ago, by a driver that did not live to hear it: the same ticket again.
  if (state !== null && 'ticket' in state) return again({ ...state, term: event.term }, context);
  if (state?.step !== 'stopped') return outOfOrder(state, 'stopped');
  const owned = ownsEpoch(context, state.offer.epoch - 1);
  if (owned !== null) return owned;
  if (!event.processGone) return refuse('process_alive', 'a process of the Machine was seen: nothing is signed');
  if (state.root === null) return refuse('not_yet', 'the root of the stopped volume is not taken yet');
  if (state.root !== event.root) {
    return refuse(
      'root_mismatch',
      `the volume's root is ${state.root}, the copy's is ${event.root}: copy the difference again`,
    );
  }
  const { offer } = state;
  const ticket: Ticket = { ...subjectOf(offer), root: state.root, recordDigest: event.recordDigest };
  const placement: Placement = {
    kind: 'relinquished',
    epoch: offer.epoch - 1,
    migrationId: offer.migrationId,
    destination: offer.destination,
  };
  const next: SourceState = { step: 'relinquished', offer, term: event.term, ticket };
  return moved(next, placement, context);
}

function settled(state: SourceState | null, received: Received<Settlement>, context: SourceContext): SourceOutcome {
  if (state?.step === 'settled' || state?.step === 'tombstoned' || state?.step === 'parked')
    return again(state, context);
  if (state?.step !== 'relinquished') return outOfOrder(state, 'relinquished');
  const { statement, signatureValid } = received;
  if (!signatureValid) return refuse('bad_signature', 'the settlement is not signed by the destination of the offer');
  if (!sameSubject(statement, state.ticket) || statement.root !== state.ticket.root) {
    return refuse('wrong_statement', "the settlement's fields are not those of the ticket");
  }
  return moved({ ...state, step: 'settled', settlement: statement }, context.placement, context);
}

function retainedRootRead(state: SourceState | null, root: Root, context: SourceContext): SourceOutcome {
  if (state?.step === 'tombstoned' || state?.step === 'parked') return again(state, context);
  if (state?.step !== 'settled') return outOfOrder(state, 'settled');
  if (root !== state.ticket.root)
    return moved({ ...state, step: 'parked', retainedRoot: root }, context.placement, context);
  return moved({ ...state, step: 'tombstoned' }, tombstone(state, context), context);
}

function differenceAccepted(state: SourceState | null, orderedBy: string, context: SourceContext): SourceOutcome {
  if (state?.step === 'tombstoned') return again(state, context);
  if (state?.step !== 'parked') return outOfOrder(state, 'parked');
  const { retainedRoot, ...settledState } = state;
  const next: SourceState = { ...settledState, step: 'tombstoned', accepted: { orderedBy, retainedRoot } };
  return moved(next, tombstone(state, context), context);
}

/** The Machine is gone for good, unless a later hand-over has brought it back already. */
function tombstone(state: SourceState & { step: 'settled' | 'parked' }, { placement }: SourceContext): Placement {
  const own = placement.kind === 'relinquished' && placement.migrationId === state.offer.migrationId;
  return own ? { ...placement, kind: 'tombstone' } : placement;
}

function declined(state: SourceState | null, received: Received<Decline>, context: SourceContext): SourceOutcome {
  if (state === null) return refuse('unknown_migration', 'nothing was offered under this ID');
  if (state.step === 'returned' || state.step === 'aborted') return again(state, context);
  if (state.step === 'settled' || state.step === 'tombstoned' || state.step === 'parked') {
    return refuse('too_late', 'the destination owns the Machine: it said so itself');
  }
  const { statement, signatureValid } = received;
  if (!signatureValid) return refuse('bad_signature', 'the decline is not signed by the destination of the offer');
  if (!sameSubject(statement, state.offer)) {
    return refuse('wrong_statement', "the decline's fields are not those of the offer");
  }
  if (state.step !== 'relinquished') return comeBack(state, state.term, 'the destination declined', context);
  if (context.placement.kind !== 'relinquished' || context.placement.migrationId !== state.offer.migrationId) {
    return refuse('not_owner', 'the Machine has gone another way since');
  }
  const epoch = state.offer.epoch + 1;
  const next: SourceState = { step: 'returned', offer: state.offer, term: state.term, decline: statement, up: false };
  return moved(next, { kind: 'owner', epoch }, context);
}

function abort(
  state: SourceState | null,
  event: SourceEvent & { type: 'abort' },
  context: SourceContext,
): SourceOutcome {
  const { term, reason } = event;
  if (state === null)
    return moved({ step: 'aborted', offer: null, term, reason, held: false, up: true }, context.placement, context);
  switch (state.step) {
    case 'offered':
    case 'stopping':
    case 'stopped':
      return comeBack(state, term, reason, context);
    case 'aborted':
    case 'returned':
      return again({ ...state, term }, context);
    default:
      return refuse(
        'too_late',
        `the Machine is given up to ${state.offer.destination}: only its decline brings it back`,
      );
  }
}

/** Burns the ID. A Machine that was held comes back to run under a new epoch. */
function comeBack(
  state: SourceState & { step: 'offered' | 'stopping' | 'stopped' },
  term: number,
  reason: string,
  context: SourceContext,
): SourceOutcome {
  const { offer } = state;
  if (state.step === 'offered') {
    return moved({ step: 'aborted', offer, term, reason, held: false, up: true }, context.placement, context);
  }
  const epoch = offer.epoch + 1;
  const next: SourceState = { step: 'aborted', offer, term, reason, held: true, up: false };
  return moved(next, { kind: 'owner', epoch }, context);
}

/** The marker comes first, wherever the placement is ahead of it; then what is pending in the row. */
function moved(state: SourceState, placement: Placement, context: SourceContext): SourceOutcome {
  const agreement = reconcile(placement, context.seal);
  const mark: readonly SourceEffect[] = agreement.kind === 'finish' ? [{ do: 'mark', marker: agreement.marker }] : [];
  return { ok: true, state, placement, effects: [...mark, ...pendingSource(state)] };
}

/** The same answer again; what is pending may be done again. */
function again(state: SourceState, context: SourceContext): SourceOutcome {
  return moved(state, context.placement, context);
}

function ownsEpoch(context: SourceContext, epoch: number): Refused | null {
  const { placement } = context;
  if (placement.kind !== 'owner') return refuse('not_owner', 'this host does not own the Machine');
  if (placement.epoch !== epoch) {
    return refuse(
      'wrong_epoch',
      `the Machine is at epoch ${placement.epoch} here, so the next is ${placement.epoch + 1}`,
    );
  }
  return null;
}

function journalBehind(context: SourceContext): Refused | null {
  if (context.journalWentBack) return refuse('journal_behind', "this host's journal went back to an older copy");
  const agreement = reconcile(context.placement, context.seal);
  return agreement.kind === 'journal-behind' ? refuse('journal_behind', agreement.reason) : null;
}

function burnt(state: SourceState): Refused {
  return refuse('burnt', `this migration is ${state.step} here: start another under a new ID`);
}

function outOfOrder(state: SourceState | null, expected: string): Refused {
  if (state === null) return refuse('unknown_migration', 'nothing was offered under this ID');
  if (state.step === 'aborted' || state.step === 'returned') return burnt(state);
  const passed = ['relinquished', 'settled', 'tombstoned', 'parked'].includes(state.step);
  return refuse(passed ? 'too_late' : 'not_yet', `the hand-over is ${state.step}, expected ${expected}`);
}
