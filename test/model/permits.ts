/**
 * The world of the network lock: two Machines of one network on two hosts, each to be moved to the other's host, and a third
 * host that has to be asked too. Coordinators keep to the procedure (mint a fence, ask every host in order, stop, release
 * when it is over) but their store forgets everything at any time, so both migrations may believe that they are alone. Every
 * order that was ever sent may arrive late, and again. Bytes and markers are the other model's; here writes are done at once.
 *
 * Longer than most files: one world, one list of its steps.
 */
import { markerFor, type Placement } from '../../agent/handover/boot.ts';
import type { DestinationEvent, DestinationState } from '../../agent/handover/destination.ts';
import type { Permit } from '../../agent/handover/permit.ts';
import type { SourceEvent, SourceState } from '../../agent/handover/source.ts';
import type { Rules } from './rules.ts';
import type { Model, Step } from './search.ts';
import { hostName, migrationName, textOf } from './world.ts';

const NETWORK = 'n';
const HOSTS = [0, 1, 2];
const MIGRATIONS = [0, 1];

interface Move {
  readonly source: SourceState;
  readonly sourcePlacement: Placement;
  readonly destination: DestinationState;
  readonly destinationPlacement: Placement;
  readonly running: boolean;
  /** What its coordinator remembers: its fence (0: none) and how many hosts gave their permit, in order. */
  readonly fence: number;
  readonly granted: number;
}

export interface LockBounds {
  readonly fenceMax: number;
  /** Whether grants too arrive late and again; releases and stops always do. */
  readonly lateGrants: boolean;
  /** Whether anything is stopped and moved; otherwise permits only come and go. */
  readonly moves: boolean;
}

interface Order {
  readonly type: 'grant' | 'release' | 'stop';
  readonly host: number;
  readonly migration: number;
  readonly fence: number;
}

export interface LockWorld {
  readonly permits: readonly (Permit | null)[];
  readonly moves: readonly Move[];
  /** Orders on the way, or arrived and able to arrive again: their numbers, sorted. */
  readonly sent: readonly number[];
}

export function lock(rules: Rules, bounds: LockBounds): Model<LockWorld> {
  return {
    initial: { permits: HOSTS.map(() => null), moves: MIGRATIONS.map(firstMove), sent: [] },
    key,
    steps: (world) => new LockSteps(rules, bounds, world).all(),
    broken,
    ended: null,
    picture,
  };
}

/** Whether its coordinator counts on every host's permit for a Machine that is not handed over yet. */
function believes({ granted, source }: Move): boolean {
  return (
    granted === HOSTS.length && (source.step === 'offered' || source.step === 'stopping' || source.step === 'stopped')
  );
}

/** I6 from the processes, I7 from the fences; and the lock's own promise, from what the coordinators were told. */
function broken(before: LockWorld, { next }: Step<LockWorld>): string | null {
  if (next.moves.every((move) => !move.running)) return 'I6: both Machines of the network are down';
  if (next.moves.every(believes)) return 'I6: both coordinators hold the permits of all hosts';
  for (const host of HOSTS) {
    if ((next.permits[host]?.fence ?? 0) < (before.permits[host]?.fence ?? 0))
      return `I7: the fence on ${hostName(host)} went back`;
  }
  return null;
}

class LockSteps {
  readonly #rules: Rules;
  readonly #bounds: LockBounds;
  readonly #world: LockWorld;
  readonly #steps: Step<LockWorld>[] = [];

  constructor(rules: Rules, bounds: LockBounds, world: LockWorld) {
    this.#rules = rules;
    this.#bounds = bounds;
    this.#world = world;
  }

  all(): readonly Step<LockWorld>[] {
    for (const migration of MIGRATIONS) {
      this.#coordinator(migration);
      if (this.#bounds.moves) this.#agents(migration);
    }
    for (const number of this.#world.sent) this.#arrive(orderOf(number));
    return this.#steps;
  }

  #coordinator(migration: number): void {
    const { fence, granted } = this.#move(migration);
    const name = migrationName(migration);
    if (fence === 0) {
      const seen = Math.max(...this.#world.permits.map((permit) => permit?.fence ?? 0));
      const lowest = this.#rules.executor.mintsAboveSeen ? seen + 1 : 1;
      for (let minted = lowest; minted <= Math.min(seen + 1, this.#bounds.fenceMax); minted++) {
        this.#add(`${name} mints fence ${minted}`, this.#change(this.#world, migration, { fence: minted }));
      }
    } else {
      this.#add(
        `the store forgets the lock of ${name}`,
        this.#change(this.#world, migration, { fence: 0, granted: 0 }),
      );
      const hosts = this.#rules.executor.asksAllHosts ? HOSTS : [migration];
      const next = hosts[granted];
      if (next !== undefined) this.#ask(migration, fence, next);
      else if (this.#bounds.moves) this.#send({ type: 'stop', host: migration, migration, fence });
      if (granted > 0 && this.#move(migration).source.step === 'offered') {
        this.#add(`${name} gives its permits back`, this.#givenBack(this.#world, migration));
      }
    }
    const standing = this.#rules.product.sourceStanding(this.#move(migration).source);
    const theirs = this.#rules.product.destinationStanding(this.#move(migration).destination);
    if (!this.#rules.product.isOver(standing, theirs)) return;
    for (const [host, permit] of this.#world.permits.entries()) {
      if (permit?.holder === name) this.#send({ type: 'release', host, migration, fence: permit.fence });
    }
  }

  /** Asks the next host. On a refusal everything is given back, each by an order that may be late. */
  #ask(migration: number, fence: number, host: number): void {
    const order: Order = { type: 'grant', host, migration, fence };
    const name = migrationName(migration);
    const outcome = this.#rules.product.grant(this.#world.permits[host] ?? null, {
      network: NETWORK,
      holder: name,
      fence,
    });
    const asked = this.#bounds.lateGrants ? this.#withSent(this.#world, order) : this.#world;
    if (outcome.ok) {
      const after = this.#permit(asked, host, outcome.permit);
      const granted = this.#move(migration).granted + 1;
      this.#add(`${hostName(host)} grants ${name} fence ${fence}`, this.#change(after, migration, { granted }));
    } else {
      this.#add(`${hostName(host)} refuses ${name}: ${outcome.refusal.reason}`, this.#givenBack(asked, migration));
    }
  }

  #givenBack(world: LockWorld, migration: number): LockWorld {
    const { fence, granted } = this.#move(migration);
    let after = this.#change(world, migration, { fence: 0, granted: 0 });
    for (let host = 0; host < granted; host++)
      after = this.#withSent(after, { type: 'release', host, migration, fence });
    return after;
  }

  #send(order: Order): void {
    const after = this.#withSent(this.#world, order);
    if (after !== this.#world)
      this.#add(`${order.type} is sent to ${hostName(order.host)} for ${migrationName(order.migration)}`, after);
  }

  #arrive({ type, host, migration, fence }: Order): void {
    const world = this.#world;
    const name = migrationName(migration);
    const label = `${type} of ${name} with fence ${fence} arrives at ${hostName(host)}`;
    if (type === 'stop') {
      this.#source(world, migration, { type: 'stop', term: 1, fence }, label);
      return;
    }
    const wish = { network: NETWORK, holder: name, fence };
    const held = world.permits[host] ?? null;
    const { grant, release } = this.#rules.product;
    const outcome = type === 'grant' ? grant(held, wish) : release(held, wish, this.#inUse(host, migration));
    this.#add(label, outcome.ok ? this.#permit(world, host, outcome.permit) : world);
  }

  /** Whether this host keeps the Machine of that migration down. Migration i goes from host i to the other. */
  #inUse(host: number, migration: number): boolean {
    const { source, destination } = this.#move(migration);
    if (host === migration) return this.#rules.product.sourceKeepsDown(source);
    return host === 1 - migration && this.#rules.product.destinationKeepsDown(destination);
  }

  #agents(migration: number): void {
    const move = this.#move(migration);
    const { source, destination, running } = move;
    const name = migrationName(migration);
    const world = this.#world;
    if (source.step === 'stopping') {
      const down = this.#change(world, migration, { running: false });
      const stopped = this.#afterSource(down, migration, { type: 'gone-observed' });
      const rooted = stopped && this.#afterSource(stopped, migration, { type: 'root-taken', root: 'r' });
      if (rooted) this.#add(`the process of ${name} is gone`, rooted);
    }
    const relinquish: SourceEvent = {
      type: 'relinquish',
      term: 1,
      root: 'r',
      recordDigest: 'd',
      processGone: !running,
    };
    this.#source(world, migration, relinquish, `relinquish ${name}`);
    this.#source(world, migration, { type: 'abort', term: 1, reason: 'ordered' }, `abort ${name}`);
    if (source.step === 'relinquished') {
      const ticket = { statement: source.ticket, signatureValid: true };
      this.#destination(world, migration, { type: 'accept', ticket, recordDigest: 'd' }, `${name} is accepted`);
    }
    if (destination.step === 'owner') {
      const settlement = { statement: destination.settlement, signatureValid: true };
      if (this.#rules.product.pendingDestination(destination).some((effect) => effect.do === 'deliver-settlement')) {
        this.#source(world, migration, { type: 'settled', settlement }, `the settlement of ${name} arrives`);
      }
      if (!running)
        this.#add(
          `the Machine of ${name} starts at its destination`,
          this.#change(world, migration, { running: true }),
        );
      else this.#destination(world, migration, { type: 'up' }, `the Machine of ${name} is up`);
    }
    if (source.step === 'aborted') {
      if (!running) this.#add(`the Machine of ${name} starts again`, this.#change(world, migration, { running: true }));
      else this.#source(world, migration, { type: 'up' }, `the Machine of ${name} is up again`);
    }
  }

  #source(world: LockWorld, migration: number, event: SourceEvent, label: string): void {
    const next = this.#afterSource(world, migration, event);
    if (next !== null) this.#add(label, next);
  }

  #afterSource(world: LockWorld, migration: number, event: SourceEvent): LockWorld | null {
    const move = world.moves[migration] as Move;
    const outcome = this.#rules.product.nextSource(move.source, event, {
      migrationId: migrationName(migration),
      host: hostName(migration),
      placement: move.sourcePlacement,
      seal: markerFor(move.sourcePlacement),
      journalWentBack: false,
      heldBy: null,
      permit: world.permits[migration] ?? null,
    });
    return outcome.ok
      ? this.#change(world, migration, { source: outcome.state, sourcePlacement: outcome.placement })
      : null;
  }

  #destination(world: LockWorld, migration: number, event: DestinationEvent, label: string): void {
    const move = this.#move(migration);
    const outcome = this.#rules.product.nextDestination(move.destination, event, {
      migrationId: migrationName(migration),
      host: hostName(1 - migration),
      placement: move.destinationPlacement,
      seal: markerFor(move.destinationPlacement),
      journalWentBack: false,
      receiving: true,
    });
    if (!outcome.ok) return;
    const change = { destination: outcome.state, destinationPlacement: outcome.placement };
    this.#add(label, this.#change(world, migration, change));
  }

  #add(label: string, next: LockWorld): void {
    this.#steps.push({ label, next, alone: false });
  }

  #withSent(world: LockWorld, order: Order): LockWorld {
    const number = numberOf(order);
    if (world.sent.includes(number)) return world;
    return { ...world, sent: [...world.sent, number].sort((a, b) => a - b) };
  }

  #permit(world: LockWorld, host: number, permit: Permit): LockWorld {
    return { ...world, permits: world.permits.with(host, permit) };
  }

  #change(world: LockWorld, migration: number, change: Partial<Move>): LockWorld {
    return { ...world, moves: world.moves.with(migration, { ...(world.moves[migration] as Move), ...change }) };
  }

  #move(migration: number): Move {
    return this.#world.moves[migration] as Move;
  }
}

const TYPES = ['grant', 'release', 'stop'] as const;

function numberOf({ type, host, migration, fence }: Order): number {
  return ((fence * 2 + migration) * 3 + host) * 3 + TYPES.indexOf(type);
}

function orderOf(number: number): Order {
  const rest = Math.floor(number / 9);
  const type = TYPES[number % 3] as Order['type'];
  return { type, host: Math.floor(number / 3) % 3, migration: rest % 2, fence: Math.floor(rest / 2) };
}

/** Offered, copied and verified: the lock is what comes next. */
function firstMove(migration: number): Move {
  const name = migrationName(migration);
  const subject = {
    migrationId: name,
    machineId: `m${migration}`,
    epoch: 2,
    source: hostName(migration),
    destination: hostName(1 - migration),
    volumeId: `v${migration}`,
  };
  return {
    source: { step: 'offered', offer: { ...subject, network: NETWORK, lockHolder: name }, term: 1 },
    sourcePlacement: { kind: 'owner', epoch: 1 },
    destination: { step: 'verified', subject, term: 1, root: 'r' },
    destinationPlacement: { kind: 'none' },
    running: true,
    fence: 0,
    granted: 0,
  };
}

function key({ permits, moves, sent }: LockWorld): string {
  const rows = moves.map(
    ({ source, destination, running, fence, granted }) =>
      `${textOf(source)}.${textOf(destination)}.${running ? 1 : 0}${fence}${granted}`,
  );
  return `${permits.map(textOf).join(',')}/${rows.join('/')}/${sent.join(',')}`;
}

function picture({ permits, moves }: LockWorld): string {
  const held = permits.map(
    (permit, host) => `  ${hostName(host)}: permit of ${permit?.holder ?? 'nobody'}, fence ${permit?.fence ?? 0}`,
  );
  const rows = moves.map(
    ({ source, destination, running }, migration) =>
      `  ${migrationName(migration)}: ${source.step} → ${destination.step}, ${running ? 'running' : 'DOWN'}`,
  );
  return [...held, ...rows].join('\n');
}
