import { describe, expect, it } from 'vitest';
import { mayStart, type Placement, reconcile, type Seal, sealOf, strayCopies } from './boot.ts';

const owner: Placement = { kind: 'owner', epoch: 3 };
const givenUp: Placement = { kind: 'relinquished', epoch: 3, migrationId: 'mig1', destination: 'B' };
const owned: Seal = { state: 'owned', epoch: 3 };
const relinquished: Seal = { state: 'relinquished', epoch: 3 };

describe('reconcile', () => {
  it('agrees when both say the same', () => {
    expect(reconcile(owner, owned)).toEqual({ kind: 'agree' });
    expect(reconcile(givenUp, relinquished)).toEqual({ kind: 'agree' });
    expect(reconcile({ ...givenUp, kind: 'tombstone' }, relinquished)).toEqual({ kind: 'agree' });
    expect(reconcile({ kind: 'none' }, null)).toEqual({ kind: 'agree' });
  });

  it('finishes the rename when the journal is ahead', () => {
    expect(reconcile(givenUp, owned)).toEqual({ kind: 'finish', marker: relinquished });
    expect(reconcile({ kind: 'owner', epoch: 5 }, relinquished)).toEqual({
      kind: 'finish',
      marker: { state: 'owned', epoch: 5 },
    });
    expect(reconcile(owner, null)).toEqual({ kind: 'finish', marker: owned });
  });

  it.each<[string, Placement, Seal]>([
    ['owner, but given up since', owner, relinquished],
    ['owner, but owned again since', owner, { state: 'owned', epoch: 5 }],
    ['given up, but owned again since', givenUp, { state: 'owned', epoch: 5 }],
    ['never here, but owned', { kind: 'none' }, owned],
  ])('sees that the journal went back: %s', (_case, placement, seal) => {
    expect(reconcile(placement, seal).kind).toBe('journal-behind');
  });
});

describe('mayStart', () => {
  it('allows an owner whose marker agrees', () => {
    expect(mayStart(owner, owned, null, false)).toEqual({ allowed: true });
  });

  it.each<[string, Parameters<typeof mayStart>, RegExp]>([
    ['no owner', [{ kind: 'none' }, null, null, false], /does not own/],
    ['given up', [givenUp, relinquished, null, false], /gave the Machine up to B by migration mig1/],
    ['journal restored', [owner, relinquished, null, false], /older copy/],
    ['journal counter went back', [owner, owned, null, true], /older copy/],
    ['marker not renamed', [owner, null, null, false], /not renamed/],
    ['held', [owner, owned, 'mig1', false], /migration mig1 holds/],
  ])('refuses: %s', (_case, call, reason) => {
    expect(mayStart(...call)).toMatchObject({ allowed: false, reason: expect.stringMatching(reason) });
  });
});

it('the seal is the highest marker that speaks of ownership', () => {
  expect(sealOf([])).toBeNull();
  expect(sealOf([{ state: 'receiving', epoch: 9 }])).toBeNull();
  expect(sealOf([relinquished, { state: 'owned', epoch: 5 }, { state: 'receiving', epoch: 7 }])).toEqual({
    state: 'owned',
    epoch: 5,
  });
  expect(sealOf([owned, relinquished])).toEqual(relinquished);
});

it('a copy marked receiving that no row fills is stray', () => {
  expect(strayCopies(['vol_a', 'vol_b'], new Set(['vol_b']))).toEqual(['vol_a']);
});
