import { type DrainMachine, DrainMachineState, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import type { Machine } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { choose } from '../placement/choose.ts';
import { type Load, type MoveLimits, nextToBegin, noLoad, slotRefusal, withMove } from '../placement/order.ts';
import { refusalOf } from '../placement/refusal.ts';
import { type Need, promised, released, type Site } from '../placement/site.ts';
import type { DrainDraft } from './book.ts';
import type { PlaceFacts, RoundFacts } from './facts.ts';
import { begun, park } from './observe.ts';
import { describe, listOf, needIn, othersThan, rateOf, wordsOf } from './plan.ts';
import { patienceMs } from './rules.ts';
import { stepOfMachine } from './state.ts';
import { blockerOf, otherMigration, waitedMs } from './waits.ts';

const { WAITING, MOVING } = DrainMachineState;
const refusalsKept = 32;

/** A move that is to begin: it is written down already. */
export interface Begin {
  readonly machineId: string;
  readonly migrationId: string;
  readonly destination: string;
}

/** The moves under way, as the limits count them. */
export function loadOf({ drain }: Pick<DrainDraft, 'drain'>, { running }: RoundFacts): Load {
  const toDestination = new Map<string, number>();
  for (const { destination } of running) toDestination.set(destination, (toDestination.get(destination) ?? 0) + 1);
  const moving = drain.machines.filter(({ state }) => state === MOVING);
  return {
    fromSource: running.filter(({ source }) => source === drain.hostId).length,
    total: running.filter(({ drainId }) => drainId !== '').length,
    toDestination,
    ofNetwork: moving.reduce((load, machine) => withMove(load, machine), noLoad).ofNetwork,
  };
}

/** Whether there is anything to place or to begin, so that the whole cluster has to be looked at. */
export function wantsPlaces(draft: DrainDraft, facts: RoundFacts, load: Load, limits: MoveLimits): boolean {
  const { drain } = draft;
  if (drain.state !== DrainState.RUNNING || facts.standing !== 'ok') return false;
  if (newcomers(draft, facts).length > 0) return true;
  const anywhere = { network: '', destination: '' };
  return (
    slotRefusal(anywhere, load, limits) === undefined && drain.machines.some((each) => isReady(each, draft, facts))
  );
}

/** Machines that came to the host after the drain was planned. */
export function newcomers({ drain }: DrainDraft, { here }: RoundFacts): Machine[] {
  const known = new Set(drain.machines.map(({ machineId }) => machineId));
  return [...here.values()].filter(({ machineId }) => !known.has(machineId)).map(({ machine }) => machine);
}

/** Takes up Machines that came meanwhile. Changes the draft. */
export function takeUp({ drain }: DrainDraft, arrived: readonly Machine[], places: PlaceFacts): void {
  for (const machine of arrived) {
    const told = describe(machine, places, drain.options!, rateOf(places));
    told.order = drain.machines.length + 1;
    told.reason = 'it came to this host after the drain was ordered';
    drain.machines.push(told);
  }
}

function isReady(machine: DrainMachine, { plan }: DrainDraft, facts: RoundFacts): boolean {
  const { machineId, state } = machine;
  if (state !== WAITING || !facts.here.has(machineId)) return false;
  if ((plan.retryAtMs[machineId] ?? 0) > facts.nowMs) return false;
  return otherMigration(machineId, facts) === undefined && blockerOf(machine, facts) === undefined;
}

/**
 * Gives each Machine that waits a place that it can have now, and begins as many moves as the limits allow. Changes the
 * draft; answers what has begun.
 */
export function place(
  draft: DrainDraft,
  facts: RoundFacts,
  places: PlaceFacts,
  load: Load,
  limits: MoveLimits,
  newId: () => string,
): Begin[] {
  const { drain } = draft;
  const ready = [...drain.machines].sort((a, b) => a.order - b.order).filter((each) => isReady(each, draft, facts));
  const needs = new Map(ready.map((each) => [each.machineId, needOf(each, draft, facts, places)]));
  let sites = othersThan(places.source, places.cluster);
  for (const machine of drain.machines) {
    if (machine.state !== WAITING) continue;
    const need = needs.get(machine.machineId) ?? needOf(machine, draft, facts, places);
    if (need !== undefined) sites = withPromise(sites, machine.destination, need);
  }
  for (const machine of ready) {
    const need = needs.get(machine.machineId)!;
    sites = settle(machine, need, draft, withoutPromise(sites, machine.destination, need), facts.nowMs);
  }
  return begin(
    ready.filter(({ state, destination }) => state === WAITING && destination !== ''),
    load,
    limits,
    newId,
  );
}

function needOf(machine: DrainMachine, { drain }: DrainDraft, facts: RoundFacts, places: PlaceFacts): Need | undefined {
  const known = facts.here.get(machine.machineId)?.machine;
  return known === undefined ? undefined : needIn(drain.options!, known, places);
}

type Sites = ReadonlyMap<string, Site>;

function withPromise(sites: Sites, host: string, need: Need): Sites {
  const site = sites.get(host);
  return site === undefined ? sites : new Map(sites).set(host, promised(site, need));
}

function withoutPromise(sites: Sites, host: string, need: Need): Sites {
  const site = sites.get(host);
  return site === undefined ? sites : new Map(sites).set(host, released(site, need));
}

/** Keeps the place of a Machine if it can still have it, else finds another; answers what is left then. */
function settle(machine: DrainMachine, need: Need, { drain, plan }: DrainDraft, sites: Sites, nowMs: number): Sites {
  const failedAt = new Map(Object.entries(plan.failedAt[machine.machineId] ?? {}));
  const elsewhere: Need = { ...need, not: new Map([...need.not, ...failedAt]) };
  const planned = sites.get(machine.destination);
  if (planned !== undefined && refusalOf(planned, elsewhere) === undefined) {
    return withPromise(sites, planned.id, need);
  }
  const fresh = choose(sites.values(), elsewhere);
  // Where every other host refuses, one at which it failed before is better than none.
  const { site, refused } =
    fresh.site === undefined ? { ...choose(sites.values(), need), refused: fresh.refused } : fresh;
  machine.destination = site?.id ?? '';
  machine.refusedHosts = wordsOf(refused, refusalsKept);
  if (site !== undefined) return withPromise(sites, site.id, need);
  if (waitedMs(machine.wait, { kind: 'capacity', subject: machine.machineId }, nowMs) >= patienceMs) {
    const next = `Free room, add or uncordon a host; then "ferry drain resume ${drain.hostId}".`;
    park(machine, `no host can take it: ${listOf(machine.refusedHosts)}`, next);
  }
  return sites;
}

function begin(ready: readonly DrainMachine[], load: Load, limits: MoveLimits, newId: () => string): Begin[] {
  const begins: Begin[] = [];
  let now = load;
  for (let waiting = [...ready]; ; ) {
    const next = nextToBegin(waiting, now, limits);
    if (next === undefined) return begins;
    waiting = waiting.filter((each) => each !== next);
    now = withMove(now, next);
    next.state = stepOfMachine(next.state, 'begin');
    begun(next, newId());
    begins.push({ machineId: next.machineId, migrationId: next.migrationId, destination: next.destination });
  }
}
