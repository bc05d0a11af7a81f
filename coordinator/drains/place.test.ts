import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { describe, expect, test } from 'vitest';
import { DrainMachineState, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import type { Site } from '../placement/site.ts';
import { siteLike } from '../placement/testing.ts';
import type { DrainDraft } from './book.ts';
import type { RoundFacts } from './facts.ts';
import { loadOf, newcomers, place, takeUp, wantsPlaces } from './place.ts';
import { patienceMs } from './rules.ts';
import { blockedBy, draftLike, factsLike, migrationLike, placesLike } from './testing.ts';
import { tellWaits } from './waits.ts';

const { WAITING, MOVING, PARKED } = DrainMachineState;
const limits = { perSource: 4, perDestination: 4, total: 16 };
const names = ['m1', 'm2', 'm3'];
const three = names.map((machineId) => ({ machineId }));

function placeIn(draft: DrainDraft, facts: RoundFacts, sites: readonly Site[], some = limits) {
  let next = 0;
  const newId = () => {
    next += 1;
    return `mig_${next}`;
  };
  return place(draft, facts, placesLike(...sites), loadOf(draft, facts), some, newId);
}

describe('moves begin', () => {
  test('within the limit of the host, and are written down before they are ordered', () => {
    const draft = draftLike(three);
    const begun = placeIn(draft, factsLike(names), [siteLike('h2')], { ...limits, perSource: 2 });
    expect(begun).toEqual([
      { machineId: 'm1', migrationId: 'mig_1', destination: 'h2' },
      { machineId: 'm2', migrationId: 'mig_2', destination: 'h2' },
    ]);
    expect(draft.drain.machines.map(({ state, attempts }) => [state, attempts])).toEqual([
      [MOVING, 1],
      [MOVING, 1],
      [WAITING, 0],
    ]);
  });

  test.each([
    ['destination', { perDestination: 1 }, [{}], 0],
    ['cluster', { total: 1 }, [{ destination: 'h3' }], 0],
    ['cluster, which counts drains only', { total: 1 }, [{ destination: 'h3', drainId: '' }], 1],
    ['host, whoever moves', { perSource: 1 }, [{ destination: 'h3', drainId: '' }], 0],
  ] as const)('within the limit of the %s', (_whose, some, running, count) => {
    const migrations = running.map((each) => migrationLike({ id: 'mig_9', machineId: 'm9', ...each }));
    const draft = draftLike(three.slice(0, 1));
    const begun = placeIn(draft, factsLike(names, { migrations }), [siteLike('h2')], { ...limits, ...some });
    expect(begun.length).toBe(count);
  });

  test('of the network that has the fewest under way', () => {
    const draft = draftLike([
      { machineId: 'm1', state: MOVING, migrationId: 'mig_9' },
      { machineId: 'm2' },
      { machineId: 'm3', network: 'y' },
    ]);
    const facts = factsLike(names, { migrations: [migrationLike({ id: 'mig_9' })] });
    expect(placeIn(draft, facts, [siteLike('h2')], { ...limits, perSource: 2 })).toMatchObject([{ machineId: 'm3' }]);
  });

  test('not before the pause is over, not while another migration moves the Machine, not into a blocked network', () => {
    const draft = draftLike([{ machineId: 'm1' }, { machineId: 'm2' }, { machineId: 'm3', network: 'y' }]);
    draft.plan.retryAtMs.m1 = 2_000_000;
    const other = migrationLike({ id: 'mig_9', machineId: 'm2', drainId: '' });
    const facts = factsLike(names, { migrations: [other], blocked: blockedBy({ id: 'mig_8', network: 'y' }) });
    expect(placeIn(draft, facts, [siteLike('h2')])).toEqual([]);
    tellWaits(draft, facts, loadOf(draft, facts), limits);
    expect(draft.drain.machines.map(({ wait }) => [wait?.kind, wait?.subject])).toEqual([
      ['retry', 'm1'],
      ['operator', 'mig_9'],
      ['lock', 'mig_8'],
    ]);
  });

  test('not while the drain is paused, nor while its host is silent', () => {
    const facts = factsLike(names);
    const load = loadOf(draftLike(three), facts);
    expect(wantsPlaces(draftLike(three), facts, load, limits)).toBe(true);
    const silent = { ...facts, standing: 'unreachable' as const };
    expect(wantsPlaces(draftLike(three), silent, load, limits)).toBe(false);
    const paused = draftLike(three, { state: DrainState.PAUSED });
    expect(wantsPlaces(paused, facts, load, limits)).toBe(false);
    tellWaits(paused, facts, load, limits);
    expect(paused.drain.wait?.kind).toBe('operator');
  });
});

describe('a place', () => {
  test('that is still there is kept', () => {
    const draft = draftLike(three.slice(0, 1));
    placeIn(draft, factsLike(['m1']), [siteLike('h2', { machines: 9 }), siteLike('h3')]);
    expect(draft.drain.machines[0]?.destination).toBe('h2');
  });

  test('that refuses now is given up for another, with the reason', () => {
    const draft = draftLike(three.slice(0, 1));
    const begun = placeIn(draft, factsLike(['m1']), [siteLike('h2', { standing: 'unreachable' }), siteLike('h3')]);
    expect(begun).toMatchObject([{ destination: 'h3' }]);
    expect(draft.drain.machines[0]?.refusedHosts).toEqual({ h2: 'it does not answer' });
  });

  test('at which it failed is tried again only where every other host refuses', () => {
    const failedAt = { m1: { h2: 'mig_0 failed there' } };
    const elsewhere = draftLike(three.slice(0, 1));
    elsewhere.plan.failedAt = failedAt;
    placeIn(elsewhere, factsLike(['m1']), [siteLike('h2'), siteLike('h3', { machines: 9 })]);
    expect(elsewhere.drain.machines[0]?.destination).toBe('h3');
    const nowhere = draftLike(three.slice(0, 1));
    nowhere.plan.failedAt = failedAt;
    placeIn(nowhere, factsLike(['m1']), [siteLike('h2'), siteLike('h3', { cordoned: true })]);
    expect(nowhere.drain.machines[0]?.destination).toBe('h2');
  });

  test('that nobody has is waited for, and the Machine parked after its time, with each reason', () => {
    const sites = [siteLike('h2', { cordoned: true })];
    const draft = draftLike(three.slice(0, 1));
    const facts = factsLike(['m1']);
    placeIn(draft, facts, sites);
    tellWaits(draft, facts, loadOf(draft, facts), limits);
    expect(draft.drain.machines[0]).toMatchObject({ state: WAITING, wait: { kind: 'capacity' } });
    draft.drain.machines[0]!.wait!.since = timestampFromMs(facts.nowMs - patienceMs);
    placeIn(draft, facts, sites);
    expect(draft.drain.machines[0]).toMatchObject({ state: PARKED, reason: 'no host can take it: h2: it is cordoned' });
  });
});

test('a Machine that came to the host meanwhile is taken up at the end of the order', () => {
  const draft = draftLike(three.slice(0, 2));
  const facts = factsLike(names);
  takeUp(draft, newcomers(draft, facts), placesLike(siteLike('h2')));
  expect(draft.drain.machines[2]).toMatchObject({ machineId: 'm3', state: WAITING, order: 3 });
  expect(newcomers(draft, facts)).toEqual([]);
});
