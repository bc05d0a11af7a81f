import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { type Drain, DrainMachineState, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import type { Machine } from '../../proto/gen/ferry/v1/machine_pb.ts';
import type { Clock } from '../../shared/clock.ts';
import { FerryError } from '../../shared/error.ts';
import { newDrainId } from '../../shared/ids.ts';
import type { Random } from '../../shared/random.ts';
import type { DrainRecord, Store } from '../store/store.ts';
import { type DrainBook, type DrainDraft, newPlan } from './book.ts';
import type { DrainEngine } from './engine.ts';
import { type FactSources, readBlocked, readPlaces } from './facts.ts';
import { reopen } from './finish.ts';
import { park, tryAgain } from './observe.ts';
import { type DrainWish, type PlanFacts, planDrain } from './plan.ts';
import { type ClusterLimits, limitsOf } from './rules.ts';
import { type DrainEvent, nextOfDrain } from './state.ts';

const homelessNamedMax = 20;

/** What ordering a drain needs. */
export interface DrainsOptions extends FactSources {
  readonly book: DrainBook;
  readonly engine: Pick<DrainEngine, 'wake'>;
  readonly clock: Clock;
  readonly random: Random;
  readonly limits: ClusterLimits;
}

/** Orders of operators about drains. Each is one durable write; whoever drives the drain acts on it. */
export class Drains {
  readonly #options: DrainsOptions;

  constructor(options: DrainsOptions) {
    this.#options = options;
  }

  /** What a drain would do. Nothing is changed. Throws unknown_host. */
  async preview(wish: DrainWish): Promise<Drain> {
    return planDrain(wish, await this.#facts(wish, ''));
  }

  /**
   * Orders a drain. Whatever can be refused is refused before anything is done: unknown_host, drain_exists, host_unreachable,
   * journal_went_back, and no_host with every Machine that has no place (unless `partial`: then those are parked).
   */
  async order(wish: DrainWish): Promise<Drain> {
    const { store, clock, random, engine } = this.#options;
    await this.#requireNone(store, wish.hostId);
    const facts = await this.#facts(wish, '');
    requireSource(facts);
    const drain = planDrain(wish, facts);
    const homeless = drain.machines.filter(({ destination }) => destination === '');
    if (homeless.length > 0 && !wish.options.partial) throw noRoom(drain);
    for (const machine of homeless) {
      const next = `Free room, add or uncordon a host; then "ferry drain resume ${wish.hostId}".`;
      park(machine, machine.blockers[0] ?? 'no host can take it', next);
    }
    const nowMs = clock.nowMs();
    drain.id = newDrainId(nowMs, random);
    drain.createdAt = timestampFromMs(nowMs);
    drain.machinesParked = homeless.length;
    drain.cordonedByDrain = !facts.source.cordoned;
    const answer = await store.createDrain({ drain, plan: newPlan(), version: 1, open: true, driver: '' });
    if (answer.kind === 'busy') throw drainExists(wish.hostId, answer.drainId);
    engine.wake();
    return drain;
  }

  /** Begins no further moves. Throws unknown_drain, drain_ended. */
  pause(drainOrHost: string): Promise<Drain> {
    return this.#change(drainOrHost, 'pause', () => {});
  }

  /** Goes on, also with Machines that were parked, and with a drain that was blocked. Throws unknown_drain, drain_ended. */
  resume(drainOrHost: string): Promise<Drain> {
    return this.#change(drainOrHost, 'resume', (draft) => {
      if (!draft.open) reopen(draft);
      for (const machine of draft.drain.machines) {
        if (machine.state !== DrainMachineState.PARKED) continue;
        tryAgain(machine, 0);
        machine.attempts = 0;
        delete machine.wait;
      }
      draft.plan.retryAtMs = {};
      draft.plan.failedAt = {};
    });
  }

  /** Ends a drain: what can be taken back is. Throws unknown_drain, drain_ended. */
  cancel(drainOrHost: string, uncordon: boolean): Promise<Drain> {
    return this.#change(drainOrHost, 'cancel', ({ plan }) => {
      plan.uncordonAfter ||= uncordon;
    });
  }

  async #change(drainOrHost: string, event: DrainEvent, change: (draft: DrainDraft) => void): Promise<Drain> {
    const { book, engine, store } = this.#options;
    const record = await book.find(drainOrHost);
    if (event === 'resume' && !record.open) await this.#requireNewest(store, record);
    const { drain } = await book.update(record.drain.id, (draft) => {
      const next = nextOfDrain(draft.drain.state, event);
      if (next === undefined) throw drainEnded(draft.drain);
      change(draft);
      draft.drain.state = next;
    });
    engine.wake();
    return drain;
  }

  /** A blocked drain goes on only while no newer one has taken its place. */
  async #requireNewest(store: Store, { drain }: DrainRecord): Promise<void> {
    const newest = await store.drainOfHost(drain.hostId);
    if (newest !== undefined && newest.drain.id !== drain.id) throw drainExists(drain.hostId, newest.drain.id);
  }

  async #requireNone(store: Store, hostId: string): Promise<void> {
    await this.#options.roster.host(hostId);
    const open = (await store.openDrains()).find(({ drain }) => drain.hostId === hostId);
    if (open !== undefined) throw drainExists(hostId, open.drain.id);
  }

  async #facts({ hostId, options }: DrainWish, drainId: string): Promise<PlanFacts> {
    const { store } = this.#options;
    const places = await readPlaces(this.#options, hostId, drainId);
    const machines: Machine[] = places.cluster.placements
      .filter((placement) => placement.hostId === hostId)
      .map(({ machine }) => machine);
    return { ...places, machines, blocked: await readBlocked(store), limits: limitsOf(options, this.#options.limits) };
  }
}

function requireSource({ source }: PlanFacts): void {
  const facts = { host: source.id };
  if (source.standing === 'unreachable') {
    const text = `host ${source.id} does not answer: nothing can be copied from it`;
    throw new FerryError('host_unreachable', text, { field: 'host_id', facts });
  }
  if (source.journalWentBack) {
    const text = `the journal of host ${source.id} went back: it gives no Machine away`;
    throw new FerryError('journal_went_back', text, { field: 'host_id', facts });
  }
}

function noRoom({ machines, blockers }: Drain): FerryError {
  const told = machines.flatMap(({ machineId, destination, blockers: own }) =>
    destination === '' ? [[machineId, own.join('; ')] as const] : [],
  );
  const named = told.slice(0, homelessNamedMax);
  const more = told.length > named.length ? `; and ${told.length - named.length} more` : '';
  const text = `${blockers.join('; ')}: ${named.map(([machine, why]) => `${machine}: ${why}`).join('; ')}${more}`;
  return new FerryError('no_host', text, {
    field: 'host_id',
    facts: Object.fromEntries(named),
    nextAction: 'Free room, add or uncordon a host; or order it with --partial: what has no place is parked.',
  });
}

function drainExists(hostId: string, drainId: string): FerryError {
  return new FerryError('drain_exists', `drain ${drainId} empties host ${hostId} already`, {
    field: 'host_id',
    facts: { host: hostId, drain: drainId },
  });
}

function drainEnded({ id, hostId, state, message }: Drain): FerryError {
  const how = state === DrainState.CANCELLING ? 'is being cancelled' : `has ended: ${message}`;
  return new FerryError('drain_ended', `drain ${id} of host ${hostId} ${how}`, {
    field: 'drain_id',
    facts: { drain: id, host: hostId },
  });
}
