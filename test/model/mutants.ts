/**
 * One mutant for each rule of the hand-over: the product's functions, or the habits of their executor, with that one rule
 * taken out from outside. The model must find a break in each; one that it misses is a rule without need or a blind model.
 */
import { markerFor } from '../../agent/handover/boot.ts';
import type { DestinationContext, DestinationEvent, DestinationState } from '../../agent/handover/destination.ts';
import { refuse } from '../../agent/handover/outcome.ts';
import type { SourceContext, SourceEvent, SourceState } from '../../agent/handover/source.ts';
import { asBuilt, type Rules } from './rules.ts';
import * as scopes from './scopes.ts';
import type { Scope } from './world.ts';

export interface Mutant {
  readonly rule: string;
  readonly scope: Scope;
  readonly rules: Rules;
}

type SourceCall = readonly [state: SourceState | null, event: SourceEvent, context: SourceContext];
type DestinationCall = readonly [state: DestinationState | null, event: DestinationEvent, context: DestinationContext];

const { single, takeover, restoredSource, restoredDestination, staleSums, strayProcess, again, retried, thrice } =
  scopes;

export const mutants: readonly Mutant[] = [
  destination('a ticket is signed by the pinned source', single, ([state, event, context]) =>
    event.type === 'accept' ? [state, { ...event, ticket: { ...event.ticket, signatureValid: true } }, context] : null,
  ),
  destination("a ticket's fields are the prepared ones", retried, ([state, event, context]) => {
    if (event.type !== 'accept' || state === null) return null;
    const statement = { ...event.ticket.statement, ...state.subject };
    return [state, { ...event, ticket: { ...event.ticket, statement } }, context];
  }),
  destination("a ticket's root is the copy's", single, ([state, event, context]) =>
    event.type === 'accept' && state?.step === 'verified'
      ? [{ ...state, root: event.ticket.statement.root }, event, context]
      : null,
  ),
  destination('only a verified copy accepts', single, ([state, event, context]) =>
    event.type === 'accept' && state?.step === 'prepared'
      ? [{ ...state, step: 'verified', root: event.ticket.statement.root }, event, context]
      : null,
  ),
  destination(
    'a ticket is taken only by a copy still marked receiving',
    restoredDestination,
    ([state, event, context]) => (event.type === 'accept' ? [state, event, { ...context, receiving: true }] : null),
  ),
  destination('no ticket after a decline (single-use IDs)', single, ([state, event, context]) =>
    event.type === 'accept' && state?.step === 'declined'
      ? [{ ...state, step: 'verified', root: event.ticket.statement.root }, event, { ...context, receiving: true }]
      : null,
  ),
  destination('no prepare after a decline (single-use IDs)', single, ([state, event, context]) =>
    event.type === 'prepare' && state?.step === 'declined' ? [null, event, context] : null,
  ),
  destination('no decline after the commit point', single, ([state, event, context]) =>
    event.type === 'decline' && state?.step === 'owner'
      ? [{ ...state, step: 'verified', root: state.ticket.root }, event, context]
      : null,
  ),
  destination('a journal behind its marker declines nothing', restoredDestination, ([state, event, context]) => [
    state,
    event,
    { ...context, seal: markerFor(context.placement) },
  ]),
  destination('terms never go back at the destination', takeover, ([state, event, context]) =>
    state === null ? null : [{ ...state, term: 0 }, event, context],
  ),
  silentDestination(
    'an unknown ticket is answered by a decline',
    single,
    ([state, event]) => event.type === 'accept' && state === null,
  ),
  silentDestination('copies that nobody drives expire', single, ([, event]) => event.type === 'expire'),
  executor('the decline is durable before it leaves', single, { declinesBeforeDelivering: false }),
  executor('the decline is durable before the bytes are freed', single, { declinesBeforeFreeing: false }),
  executor('the marker receiving goes before the decline leaves', restoredDestination, {
    unmarksBeforeDelivering: false,
  }),
  executor('each prepare mints a new copy ID', restoredDestination, { mintsNewIds: false }),
  executor('a verified copy reopens before bytes change', single, { reopensBeforeReceiving: false }),

  source('relinquish compares the roots', single, ([state, event, context]) =>
    event.type === 'relinquish' && state?.step === 'stopped' && state.root !== null
      ? [{ ...state, root: event.root }, event, context]
      : null,
  ),
  source('a root is needed to relinquish', single, ([state, event, context]) =>
    event.type === 'relinquish' && state?.step === 'stopped' && state.root === null
      ? [{ ...state, root: event.root }, event, context]
      : null,
  ),
  executor('the process is observed gone', single, { observesGone: false }),
  executor('the hold is durable before signal and observation', single, { holdsBeforeSignal: false }),
  executor('relinquish looks for the process again', strayProcess, { looksAgain: false }),
  executor('the root is taken after STOPPED', single, { readsRootAfterStopped: false }),
  executor('ABORTED is durable before the Machine starts', single, { abortsBeforeStarting: false }),
  source('abort is over at relinquish', single, ([state, event, context]) =>
    event.type === 'abort' && state?.step === 'relinquished'
      ? [{ ...state, step: 'stopped', fence: 1, root: state.ticket.root }, event, context]
      : null,
  ),
  source('an aborted ID is never used again', single, ([state, event, context]) =>
    event.type === 'offer' && state?.step === 'aborted' ? [null, event, context] : null,
  ),
  unknownAbort('an abort of an unknown ID burns it', single),
  sameEpochAfterAbort('a Machine that was held comes back at a new epoch', restoredSource),
  source('one hold a Machine', { ...again, writesMax: 0, asksForEnd: false }, ([state, event, context]) => [
    state,
    event,
    { ...context, heldBy: null },
  ]),
  source('the offer names the next epoch', { ...single, otherEpochs: [3] }, ([state, event, context]) => {
    const { placement } = context;
    const epoch = event.type === 'offer' ? event.offer.epoch : state?.offer?.epoch;
    if (placement.kind !== 'owner' || epoch === undefined) return null;
    return [state, event, { ...context, placement: { ...placement, epoch: epoch - 1 } }];
  }),
  source('a journal behind its marker signs nothing', restoredSource, ([state, event, context]) => [
    state,
    event,
    { ...context, seal: markerFor(context.placement) },
  ]),
  source('a decline is signed by the destination', single, ([state, event, context]) =>
    event.type === 'declined'
      ? [state, { ...event, decline: { ...event.decline, signatureValid: true } }, context]
      : null,
  ),
  source("a decline's fields are the offered ones", retried, ([state, event, context]) =>
    event.type === 'declined' && state?.offer
      ? [state, { ...event, decline: { ...event.decline, statement: state.offer } }, context]
      : null,
  ),
  source('a settlement is signed by the destination', single, ([state, event, context]) =>
    event.type === 'settled'
      ? [state, { ...event, settlement: { ...event.settlement, signatureValid: true } }, context]
      : null,
  ),
  source("a settlement's fields, its epoch too, are the ticket's", thrice, ([state, event, context]) =>
    event.type === 'settled' && state?.step === 'relinquished'
      ? [state, { ...event, settlement: { ...event.settlement, statement: state.ticket } }, context]
      : null,
  ),
  source('the retained volume is read again', staleSums, ([state, event, context]) =>
    event.type === 'retained-root-read' && state?.step === 'settled'
      ? [state, { ...event, root: state.ticket.root }, context]
      : null,
  ),
  mayDelete('a volume is deleted only after its tombstone', staleSums, (state, ...rest) =>
    asBuilt.product.mayDelete(state.step === 'settled' ? { ...state, step: 'tombstoned' } : state, ...rest),
  ),
  mayDelete('no volume is deleted without its settlement', single, (state, ...rest) =>
    asBuilt.product.mayDelete(
      state.step === 'relinquished' ? { ...state, step: 'tombstoned', settlement: state.ticket } : state,
      ...rest,
    ),
  ),
  mayDelete('a volume is deleted only after the retention time', single, (state, atMs, _nowMs, retentionMs) =>
    asBuilt.product.mayDelete(state, atMs, atMs + retentionMs, retentionMs),
  ),
  source('terms never go back at the source', takeover, ([state, event, context]) =>
    state === null ? null : [{ ...state, term: 0 }, event, context],
  ),
  silentSource('a source that hears no driver aborts', single, ([, event]) => event.type === 'driver-silent'),

  boot('only an owner starts', single, (placement, seal, heldBy) =>
    asBuilt.product.mayStart(
      placement.kind === 'none' ? placement : { kind: 'owner', epoch: placement.epoch },
      seal === null ? null : { ...seal, state: 'owned' },
      heldBy,
      false,
    ),
  ),
  boot('the marker agrees before a start', restoredSource, (placement, _seal, heldBy) =>
    asBuilt.product.mayStart(placement, markerFor(placement), heldBy, false),
  ),
  boot('what is held does not start', single, (placement, seal) =>
    asBuilt.product.mayStart(placement, seal, null, false),
  ),
  executor('the marker is renamed before a statement leaves', restoredSource, { marksBeforeDelivering: false }),
  executor('the journal is written before the marker', single, { journalsBeforeMarking: false }),
];

function source(rule: string, scope: Scope, change: (call: SourceCall) => SourceCall | null): Mutant {
  const nextSource: Rules['product']['nextSource'] = (...call) => asBuilt.product.nextSource(...(change(call) ?? call));
  return { rule, scope, rules: { ...asBuilt, product: { ...asBuilt.product, nextSource } } };
}

function destination(rule: string, scope: Scope, change: (call: DestinationCall) => DestinationCall | null): Mutant {
  const nextDestination: Rules['product']['nextDestination'] = (...call) =>
    asBuilt.product.nextDestination(...(change(call) ?? call));
  return { rule, scope, rules: { ...asBuilt, product: { ...asBuilt.product, nextDestination } } };
}

function executor(rule: string, scope: Scope, change: Partial<Rules['executor']>): Mutant {
  return { rule, scope, rules: { ...asBuilt, executor: { ...asBuilt.executor, ...change } } };
}

function boot(rule: string, scope: Scope, mayStart: Rules['product']['mayStart']): Mutant {
  return { rule, scope, rules: { ...asBuilt, product: { ...asBuilt.product, mayStart } } };
}

function mayDelete(rule: string, scope: Scope, changed: Rules['product']['mayDelete']): Mutant {
  return { rule, scope, rules: { ...asBuilt, product: { ...asBuilt.product, mayDelete: changed } } };
}

/** The event does nothing. */
function silentSource(rule: string, scope: Scope, drops: (call: SourceCall) => boolean): Mutant {
  const nextSource: Rules['product']['nextSource'] = (...call) =>
    drops(call) ? refuse('not_yet', 'dropped') : asBuilt.product.nextSource(...call);
  return { rule, scope, rules: { ...asBuilt, product: { ...asBuilt.product, nextSource } } };
}

function silentDestination(rule: string, scope: Scope, drops: (call: DestinationCall) => boolean): Mutant {
  const nextDestination: Rules['product']['nextDestination'] = (...call) =>
    drops(call) ? refuse('not_yet', 'dropped') : asBuilt.product.nextDestination(...call);
  return { rule, scope, rules: { ...asBuilt, product: { ...asBuilt.product, nextDestination } } };
}

/** Answers "aborted" but keeps a row that a later offer may replace. */
function unknownAbort(rule: string, scope: Scope): Mutant {
  return source(rule, scope, ([state, event, context]) =>
    event.type === 'offer' && state?.step === 'aborted' && state.offer === null ? [null, event, context] : null,
  );
}

function sameEpochAfterAbort(rule: string, scope: Scope): Mutant {
  const nextSource: Rules['product']['nextSource'] = (state, event, context) => {
    const outcome = asBuilt.product.nextSource(state, event, context);
    return outcome.ok && outcome.state.step === 'aborted' ? { ...outcome, placement: context.placement } : outcome;
  };
  return { rule, scope, rules: { ...asBuilt, product: { ...asBuilt.product, nextSource } } };
}
