/**
 * The destination's side of a hand-over: one durable row per migration ID, never deleted. A pure function of row and event.
 *
 *  row                 event                   → row       written with it, then done
 *  (none)              prepare                   prepared  a new copy's ID, its marker `receiving`, the source's pinned key
 *  (none)              decline                   declined  the ID is burnt before it was ever used; the decline leaves
 *  prepared, verified  verified                  verified  root of the bytes as re-read here after a sync
 *  verified            receive                   prepared  before any byte of the copy changes again
 *  any but owner       accept (ticket never fits) declined  ID burnt or unknown, or another copy: the decline answers the ticket
 *  verified            accept (ticket fits)      owner     epoch e+1: the commit point; marker; Machine starts
 *  prepared, verified  decline, expire           declined  marker removed; then the decline leaves and the bytes are freed
 *  owner               up                        owner     the Machine is up; only now the settlement leaves
 *  owner               settlement-known          owner     the source has the settlement
 *
 * Every order done already answers with the same row again; everything else is refused with its reason and changes nothing.
 * After a decline no ticket of that ID is ever taken. The marker `receiving` goes before the decline leaves, and a ticket is
 * taken only while it is there: a journal put back to a row from before the decline cannot take one either.
 *
 * The settlement waits for the Machine to be up: until it arrives the source keeps its copy, and its permit of the network,
 * so that an early or repeated release elsewhere never lets a second Machine of the network be stopped.
 *
 * Longer than most files: the table, the types and every transition of one side belong in one view.
 */
import { type Placement, reconcile, type Seal } from './boot.ts';
import { type Outcome, type Refused, refuse } from './outcome.ts';
import type { Standing } from './permit.ts';
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

interface Prepared {
  readonly subject: Subject;
  readonly term: number;
}

export type DestinationState =
  | (Prepared & { readonly step: 'prepared' })
  | (Prepared & { readonly step: 'verified'; readonly root: Root })
  | (Prepared & {
      readonly step: 'owner';
      readonly ticket: Ticket;
      readonly settlement: Settlement;
      readonly up: boolean;
      readonly settlementKnown: boolean;
    })
  | (Prepared & {
      readonly step: 'declined';
      readonly decline: Decline;
      readonly reason: string;
      /** Whether a copy was prepared here. If not, the volume ID is only what the order named: never touch it. */
      readonly hadCopy: boolean;
    });

export type DestinationEvent =
  /** Capacity is reserved and the config can run here. `volumeId` is new, minted for this prepare. */
  | { readonly type: 'prepare'; readonly term: number; readonly subject: Subject }
  /** Bytes are about to be written to the copy. */
  | { readonly type: 'receive' }
  /** All bytes were synced and re-read here; none was written since. */
  | { readonly type: 'verified'; readonly root: Root }
  /** `recordDigest`: of the record that came with the ticket. */
  | { readonly type: 'accept'; readonly ticket: Received<Ticket>; readonly recordDigest: string }
  /** `subject` makes an ID never heard of nameable: its decline must name all fields too. */
  | { readonly type: 'decline'; readonly term: number; readonly subject: Subject; readonly reason: string }
  /** The agent's own: nobody drove this copy for its time to live. */
  | { readonly type: 'expire' }
  /**
   * The Machine is healthy, or stays stopped because that is desired, or an operator accepts that it is down, or a later
   * hand-over took it on.
   */
  | { readonly type: 'up' }
  | { readonly type: 'settlement-known' };

export type DestinationEffect =
  /** Rename the marker of the prepared copy to this and sync the directory. */
  | { readonly do: 'mark'; readonly marker: Seal; readonly volumeId: string }
  /** Remove the marker `receiving` of the prepared copy and sync the directory. */
  | { readonly do: 'unmark'; readonly volumeId: string }
  /** Through `mayStart`; a process of this Machine that runs here already is adopted, never doubled. */
  | { readonly do: 'start-machine' }
  /** Sign it, hand it to the source, repeat until it answers (`settlement-known`). */
  | { readonly do: 'deliver-settlement'; readonly settlement: Settlement }
  /** Sign it, hand it to the source. */
  | { readonly do: 'deliver-decline'; readonly decline: Decline }
  | { readonly do: 'free-volume'; readonly volumeId: string };

export interface DestinationContext {
  /** The ID under which the row is kept. */
  readonly migrationId: string;
  readonly host: string;
  readonly placement: Placement;
  readonly seal: Seal | null;
  readonly journalWentBack: boolean;
  /** Whether the copy that the row names is here with the marker `receiving` of the row's epoch. */
  readonly receiving: boolean;
}

export type DestinationOutcome = Outcome<DestinationState, DestinationEffect>;

export function nextDestination(
  state: DestinationState | null,
  event: DestinationEvent,
  context: DestinationContext,
): DestinationOutcome {
  const behind = journalBehind(context);
  if (behind !== null) return behind;
  if ('term' in event && state !== null && event.term < state.term) {
    return refuse('stale_term', `term ${event.term} is below ${state.term}, the driver's now`, state.term);
  }
  switch (event.type) {
    case 'prepare':
      return prepare(state, event, context);
    case 'receive':
      if (state?.step !== 'prepared' && state?.step !== 'verified') return outOfOrder(state, 'prepared or verified');
      return moved({ step: 'prepared', subject: state.subject, term: state.term }, context.placement, context);
    case 'verified':
      return verified(state, event.root, context);
    case 'accept':
      return accept(state, event, context);
    case 'decline':
      return decline(state, event, context);
    case 'expire':
      if (state === null) return refuse('unknown_migration', 'nothing was prepared under this ID');
      return end(state, state.term, state.subject, 'nobody drove this copy', context);
    case 'up':
      if (state?.step !== 'owner') return outOfOrder(state, 'owner');
      return moved({ ...state, up: true }, context.placement, context);
    case 'settlement-known':
      if (state?.step !== 'owner') return outOfOrder(state, 'owner');
      return moved({ ...state, settlementKnown: true }, context.placement, context);
  }
}

/**
 * What is still to be done in this row, told from the durable row alone: the executor's list after a crash. The marker of an
 * owner is not in it: `reconcile` finishes markers first, from the placement.
 */
export function pendingDestination(state: DestinationState): readonly DestinationEffect[] {
  switch (state.step) {
    case 'prepared':
    case 'verified':
      return [];
    case 'owner':
      if (!state.up) return [{ do: 'start-machine' }];
      return state.settlementKnown ? [] : [{ do: 'deliver-settlement', settlement: state.settlement }];
    case 'declined': {
      const { volumeId } = state.subject;
      const deliver: DestinationEffect = { do: 'deliver-decline', decline: state.decline };
      return state.hadCopy ? [{ do: 'unmark', volumeId }, deliver, { do: 'free-volume', volumeId }] : [deliver];
    }
  }
}

/** Whether the Machine is, or may be, down because of this row: its network's permit is not given back then. */
export function destinationKeepsDown(state: DestinationState): boolean {
  return state.step === 'owner' && !state.up;
}

/** How the migration stands here, for whoever asks about an orphaned lock. */
export function destinationStanding(state: DestinationState): Standing {
  if (state.step === 'declined') return 'over';
  return state.step === 'owner' && state.up ? 'up-here' : 'active';
}

function prepare(
  state: DestinationState | null,
  event: DestinationEvent & { type: 'prepare' },
  context: DestinationContext,
): DestinationOutcome {
  const { subject, term } = event;
  if (state !== null) {
    if (state.step === 'declined') return burnt();
    // The copy's ID was minted by the first prepare; a repetition gets that one as its answer.
    if (!sameSubject({ ...subject, volumeId: state.subject.volumeId }, state.subject)) {
      return refuse('other_role', 'this migration was prepared here with other particulars');
    }
    return again({ ...state, term }, context);
  }
  const strange = notNamed(subject, context);
  if (strange !== null) return strange;
  const fits = newerEpoch(subject.epoch, context);
  return fits ?? moved({ step: 'prepared', subject: subjectOf(subject), term }, context.placement, context);
}

function verified(state: DestinationState | null, root: Root, context: DestinationContext): DestinationOutcome {
  if (state?.step !== 'prepared' && state?.step !== 'verified') return outOfOrder(state, 'prepared or verified');
  if (!context.receiving) return refuse('journal_behind', 'the prepared copy is not here any more');
  return moved({ step: 'verified', subject: state.subject, term: state.term, root }, context.placement, context);
}

function accept(
  state: DestinationState | null,
  event: DestinationEvent & { type: 'accept' },
  context: DestinationContext,
): DestinationOutcome {
  const { statement: ticket, signatureValid } = event.ticket;
  const strange = notNamed(ticket, context);
  if (strange !== null) return strange;
  // Whoever wrote a ticket has given the Machine up and waits for an answer. Where it can never be taken the answer is a
  // decline that names what the ticket names: it brings the Machine back to its source, and gives nothing to anyone else.
  if (state === null || state.step === 'declined') {
    return declineTicket(state, ticket, 'this migration is burnt or was never heard of here', context);
  }
  if (!signatureValid) return refuse('bad_signature', 'the ticket is not signed by the source that was pinned');
  if (!sameSubject(ticket, state.subject)) {
    if (state.step === 'owner') return refuse('wrong_statement', "the ticket's fields are not those accepted");
    return declineTicket(state, ticket, "the ticket's fields are not those prepared", context);
  }
  if (ticket.recordDigest !== event.recordDigest) {
    return refuse('wrong_statement', "the Machine record's digest is not the one in the ticket");
  }
  if (state.step === 'owner') return again(state, context);
  if (state.step !== 'verified') return refuse('not_yet', 'the copy is not verified');
  if (ticket.root !== state.root) {
    return refuse('root_mismatch', `the copy's root is ${state.root}, the ticket's is ${ticket.root}`);
  }
  if (!context.receiving) return refuse('journal_behind', 'the prepared copy is not here any more');
  const fits = newerEpoch(ticket.epoch, context);
  if (fits !== null) return fits;
  const { subject, term } = state;
  const settlement: Settlement = { ...subject, root: ticket.root };
  const next: DestinationState = {
    step: 'owner',
    subject,
    term,
    ticket,
    settlement,
    up: false,
    settlementKnown: false,
  };
  return moved(next, { kind: 'owner', epoch: ticket.epoch }, context);
}

/** Burns the ID and answers a ticket that can never be taken. */
function declineTicket(
  state: DestinationState | null,
  ticket: Ticket,
  reason: string,
  context: DestinationContext,
): DestinationOutcome {
  const named = subjectOf(ticket);
  const ended = end(state, state?.term ?? 0, state?.subject ?? named, reason, context);
  return ended.ok && ended.state.step === 'declined'
    ? moved({ ...ended.state, decline: named }, ended.placement, context)
    : ended;
}

function decline(
  state: DestinationState | null,
  event: DestinationEvent & { type: 'decline' },
  context: DestinationContext,
): DestinationOutcome {
  const { subject, term, reason } = event;
  if (state !== null) return end(state, term, state.subject, reason, context);
  const strange = notNamed(subject, context);
  if (strange !== null) return strange;
  return end(null, term, subjectOf(subject), reason, context);
}

/** Burns the ID, unless the Machine is here already. */
function end(
  state: DestinationState | null,
  term: number,
  subject: Subject,
  reason: string,
  context: DestinationContext,
): DestinationOutcome {
  if (state?.step === 'owner')
    return refuse('too_late', 'this host owns the Machine: bring it back by a new migration');
  if (state?.step === 'declined') return again({ ...state, term }, context);
  return moved(
    { step: 'declined', subject, term, decline: subject, reason, hadCopy: state !== null },
    context.placement,
    context,
  );
}

/** The marker comes first, wherever the placement is ahead of it; then what is pending in the row. */
function moved(state: DestinationState, placement: Placement, context: DestinationContext): DestinationOutcome {
  const agreement = reconcile(placement, context.seal);
  const { volumeId } = state.subject;
  const mark: readonly DestinationEffect[] =
    agreement.kind === 'finish' ? [{ do: 'mark', marker: agreement.marker, volumeId }] : [];
  return { ok: true, state, placement, effects: [...mark, ...pendingDestination(state)] };
}

/** The same answer again; what is pending may be done again. */
function again(state: DestinationState, context: DestinationContext): DestinationOutcome {
  return moved(state, context.placement, context);
}

/** What is said of an ID never heard of must be of this ID and name this host as its destination. */
function notNamed(subject: Subject, context: DestinationContext): Refused | null {
  const { migrationId, host } = context;
  if (subject.migrationId === migrationId && subject.destination === host && subject.source !== host) return null;
  return refuse('wrong_statement', `expected migration ${migrationId} from another host to ${host}`);
}

/** The epoch must be above all that this agent ever owned of the Machine, and it must not own it now. */
function newerEpoch(epoch: number, context: DestinationContext): Refused | null {
  const { placement } = context;
  if (placement.kind === 'none') return null;
  if (placement.kind === 'owner') return refuse('owner_here', 'this host owns the Machine already');
  if (epoch > placement.epoch) return null;
  return refuse('wrong_epoch', `epoch ${epoch} is not above ${placement.epoch}, the highest owned here`);
}

function journalBehind(context: DestinationContext): Refused | null {
  if (context.journalWentBack) return refuse('journal_behind', "this host's journal went back to an older copy");
  const agreement = reconcile(context.placement, context.seal);
  return agreement.kind === 'journal-behind' ? refuse('journal_behind', agreement.reason) : null;
}

function burnt(): Refused {
  return refuse('burnt', 'this migration was declined here: start another under a new ID');
}

function outOfOrder(state: DestinationState | null, expected: string): Refused {
  if (state === null) return refuse('unknown_migration', 'nothing was prepared under this ID');
  if (state.step === 'declined') return burnt();
  return refuse(
    state.step === 'owner' ? 'too_late' : 'not_yet',
    `the hand-over is ${state.step}, expected ${expected}`,
  );
}
