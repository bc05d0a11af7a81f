/** One hand-over through both sides, event by event, and what each side refuses. Every interleaving: test/model. */
import { describe, expect, it } from 'vitest';
import { markerFor, type Placement } from './boot.ts';
import { type DestinationEvent, type DestinationState, nextDestination, pendingDestination } from './destination.ts';
import { mayDelete, nextSource, type Offer, pendingSource, type SourceEvent, type SourceState } from './source.ts';

const subject = { migrationId: 'mig1', machineId: 'm', epoch: 2, source: 'A', destination: 'B', volumeId: 'vol_1' };
const offer: Offer = { ...subject, network: 'n', lockHolder: 'mig1' };
const permit = { network: 'n', holder: 'mig1', fence: 7 };

/** One side's durable state, with markers always done. */
function source(held: typeof permit | null = permit) {
  let state: SourceState | null = null;
  let placement: Placement = { kind: 'owner', epoch: 1 };
  return {
    get state() {
      return state;
    },
    get placement() {
      return placement;
    },
    send(event: SourceEvent) {
      const context = {
        migrationId: 'mig1',
        host: 'A',
        placement,
        seal: markerFor(placement),
        journalWentBack: false,
        heldBy: null,
        permit: held,
      };
      const outcome = nextSource(state, event, context);
      if (outcome.ok) ({ state, placement } = outcome);
      return outcome;
    },
  };
}

function destination() {
  let state: DestinationState | null = null;
  let placement: Placement = { kind: 'none' };
  return {
    get state() {
      return state;
    },
    get placement() {
      return placement;
    },
    send(event: DestinationEvent) {
      const context = {
        migrationId: 'mig1',
        host: 'B',
        placement,
        seal: markerFor(placement),
        journalWentBack: false,
        receiving: true,
      };
      const outcome = nextDestination(state, event, context);
      if (outcome.ok) ({ state, placement } = outcome);
      return outcome;
    },
  };
}

const stopped: readonly SourceEvent[] = [
  { type: 'offer', term: 1, offer },
  { type: 'stop', term: 1, fence: 7 },
  { type: 'signal-sent', atMs: 5 },
  { type: 'gone-observed' },
  { type: 'root-taken', root: 'r' },
];
const relinquish: SourceEvent = { type: 'relinquish', term: 1, root: 'r', recordDigest: 'd', processGone: true };

it('hands a Machine over, settles and lets the copy go after the retention time', () => {
  const a = source();
  const b = destination();
  b.send({ type: 'prepare', term: 1, subject });
  b.send({ type: 'verified', root: 'r' });
  for (const event of stopped) expect(a.send(event)).toMatchObject({ ok: true });
  const given = a.send(relinquish);
  expect(given).toMatchObject({
    ok: true,
    effects: [{ do: 'mark', marker: { state: 'relinquished', epoch: 1 } }, { do: 'deliver-ticket' }],
  });
  if (a.state?.step !== 'relinquished') throw new Error('not relinquished');
  const ticket = { statement: a.state.ticket, signatureValid: true };
  const taken = b.send({ type: 'accept', ticket, recordDigest: 'd' });
  expect(taken).toMatchObject({
    ok: true,
    effects: [{ do: 'mark', marker: { state: 'owned', epoch: 2 } }, { do: 'start-machine' }],
  });
  expect(b.send({ type: 'up' })).toMatchObject({ ok: true, effects: [{ do: 'deliver-settlement' }] });
  if (b.state?.step !== 'owner') throw new Error('not owner');
  a.send({ type: 'settled', settlement: { statement: b.state.settlement, signatureValid: true } });
  a.send({ type: 'retained-root-read', root: 'r' });
  expect(a.placement).toMatchObject({ kind: 'tombstone', epoch: 1 });
  expect(mayDelete(a.state, 0, 9, 10)).toMatchObject({ ok: false, refusal: { reason: 'not_settled' } });
  expect(mayDelete(a.state, 0, 10, 10)).toEqual({ ok: true });
});

describe('the source', () => {
  it('re-issues the same ticket when relinquish is repeated', () => {
    const a = source();
    for (const event of [...stopped, relinquish]) a.send(event);
    const first = a.state;
    expect(a.send(relinquish)).toMatchObject({ ok: true, state: first });
  });

  it('answers a driver that slept through it all with the same ticket, also when it has settled', () => {
    const a = source();
    for (const event of [...stopped, relinquish]) a.send(event);
    if (a.state?.step !== 'relinquished') throw new Error('not relinquished');
    const { ticket } = a.state;
    a.send({ type: 'settled', settlement: { statement: { ...subject, root: 'r' }, signatureValid: true } });
    expect(a.send(relinquish)).toMatchObject({ ok: true, state: { step: 'settled', ticket } });
    a.send({ type: 'retained-root-read', root: 'r' });
    expect(a.send(relinquish)).toMatchObject({ ok: true, state: { step: 'tombstoned', ticket } });
  });

  it('never signals twice', () => {
    const a = source();
    for (const event of stopped.slice(0, 2)) a.send(event);
    expect(pendingSource(a.state!).map((effect) => effect.do)).toEqual(['send-signal', 'observe-gone']);
    a.send({ type: 'signal-sent', atMs: 5 });
    expect(pendingSource(a.state!).map((effect) => effect.do)).toEqual(['observe-gone']);
  });

  it.each<[string, SourceEvent, string]>([
    ['a living process', { ...relinquish, processGone: false } as SourceEvent, 'process_alive'],
    ['another root', { ...relinquish, root: 'x' } as SourceEvent, 'root_mismatch'],
    ['a lower term', { ...relinquish, term: 0 } as SourceEvent, 'stale_term'],
  ])('relinquishes nothing with %s', (_case, event, reason) => {
    const a = source();
    for (const done of stopped) a.send(done);
    expect(a.send(event)).toMatchObject({ ok: false, refusal: { reason } });
    expect(a.state?.step).toBe('stopped');
  });

  it.each<[string, typeof permit | null, number, string]>([
    ['no permit', null, 7, 'no_permit'],
    ["another's permit", { ...permit, holder: 'mig2' }, 7, 'no_permit'],
    ['a lower fence than the permit', permit, 6, 'stale_fence'],
    ['a higher fence than the permit', permit, 8, 'no_permit'],
  ])('stops nothing with %s', (_case, held, fence, reason) => {
    const a = source(held);
    a.send({ type: 'offer', term: 1, offer });
    expect(a.send({ type: 'stop', term: 1, fence })).toMatchObject({ ok: false, refusal: { reason } });
  });

  it('burns an unknown ID on abort, and refuses abort after relinquish', () => {
    const unknown = source();
    unknown.send({ type: 'abort', term: 1, reason: 'operator' });
    expect(unknown.send({ type: 'offer', term: 1, offer })).toMatchObject({ ok: false, refusal: { reason: 'burnt' } });
    const a = source();
    for (const event of [...stopped, relinquish]) a.send(event);
    expect(a.send({ type: 'abort', term: 1, reason: 'operator' })).toMatchObject({
      ok: false,
      refusal: { reason: 'too_late' },
    });
  });

  it('comes back at a new epoch: after an abort, and after a decline', () => {
    const aborted = source();
    for (const event of stopped) aborted.send(event);
    aborted.send({ type: 'driver-silent' });
    expect(aborted.placement).toEqual({ kind: 'owner', epoch: 3 });
    const returned = source();
    for (const event of [...stopped, relinquish]) returned.send(event);
    returned.send({ type: 'declined', decline: { statement: subject, signatureValid: true } });
    expect(returned.state?.step).toBe('returned');
    expect(returned.placement).toEqual({ kind: 'owner', epoch: 3 });
  });

  it('parks and keeps its copy when the retained root differs', () => {
    const a = source();
    for (const event of [...stopped, relinquish]) a.send(event);
    a.send({ type: 'settled', settlement: { statement: { ...subject, root: 'r' }, signatureValid: true } });
    a.send({ type: 'retained-root-read', root: 'x' });
    expect(a.state).toMatchObject({ step: 'parked', retainedRoot: 'x' });
    expect(mayDelete(a.state!, 0, 1e15, 1)).toMatchObject({ ok: false });
  });

  it('lets a copy that differs go only when an operator says so, and even then after the retention time', () => {
    const accepted: SourceEvent = { type: 'difference-accepted', orderedBy: 'alice' };
    const a = source();
    for (const event of [...stopped, relinquish]) a.send(event);
    a.send({ type: 'settled', settlement: { statement: { ...subject, root: 'r' }, signatureValid: true } });
    // Nobody has read the copy again yet: there is nothing to accept.
    expect(a.send(accepted)).toMatchObject({ ok: false, refusal: { reason: 'too_late' } });
    expect(a.state?.step).toBe('settled');
    a.send({ type: 'retained-root-read', root: 'x' });
    const given = { step: 'tombstoned', accepted: { orderedBy: 'alice', retainedRoot: 'x' }, ticket: { root: 'r' } };
    expect(a.send(accepted)).toMatchObject({ ok: true, state: given, effects: [{ do: 'retire-volume' }] });
    expect(a.placement).toMatchObject({ kind: 'tombstone', epoch: 1 });
    expect(mayDelete(a.state!, 100, 109, 10)).toMatchObject({ ok: false });
    expect(mayDelete(a.state!, 100, 110, 10)).toEqual({ ok: true });
    // Said twice, it is who said it first.
    expect(a.send({ ...accepted, orderedBy: 'bob' })).toMatchObject({ ok: true, state: given });
  });

  it.each(['stopped', 'relinquished'])('has nothing to accept while it is %s', (step) => {
    const a = source();
    for (const event of step === 'stopped' ? stopped : [...stopped, relinquish]) a.send(event);
    expect(a.send({ type: 'difference-accepted', orderedBy: 'alice' })).toMatchObject({ ok: false });
    expect(a.state?.step).toBe(step);
  });
});

describe('the destination', () => {
  it('declines durably, then lets the marker go, then answers, then frees', () => {
    const b = destination();
    b.send({ type: 'prepare', term: 1, subject });
    b.send({ type: 'expire' });
    expect(pendingDestination(b.state!).map((effect) => effect.do)).toEqual([
      'unmark',
      'deliver-decline',
      'free-volume',
    ]);
  });

  it('never touches a volume that only an order named', () => {
    const b = destination();
    b.send({ type: 'decline', term: 1, subject, reason: 'operator' });
    expect(pendingDestination(b.state!).map((effect) => effect.do)).toEqual(['deliver-decline']);
  });

  it('answers a ticket for another copy by a decline that names what the ticket names', () => {
    const b = destination();
    b.send({ type: 'prepare', term: 1, subject });
    const statement = { ...subject, volumeId: 'vol_2', root: 'r', recordDigest: 'd' };
    b.send({ type: 'accept', ticket: { statement, signatureValid: true }, recordDigest: 'd' });
    expect(b.state).toMatchObject({ step: 'declined', decline: { volumeId: 'vol_2' }, subject: { volumeId: 'vol_1' } });
  });
});
