// Longer than usual: how a lost store comes back, in one place, from seeing the loss to opening the gate again.

import { clone } from '@bufbuild/protobuf';
import { type Handover, HandoverSchema } from '../../proto/gen/ferry/v1/handover_pb.ts';
import type { Permit } from '../../proto/gen/ferry/v1/lock_pb.ts';
import { HostStatus } from '../../proto/gen/ferry/v1/machine_pb.ts';
import type { Clock } from '../../shared/clock.ts';
import { toFerryError } from '../../shared/error.ts';
import type { Logger } from '../../shared/log.ts';
import { type Agents, isSilence } from '../agents.ts';
import type { Gate, Shut } from '../locks/gate.ts';
import { wantsLock } from '../locks/orphans.ts';
import { pause } from '../pause.ts';
import type { Roster } from '../roster.ts';
import type { MigrationRecord, Store, StoreIdentity } from '../store/store.ts';
import { type Found, foundOf, joined, type RestoreDefaults, restored } from './restore.ts';

/** Time between two looks at the store's identity, and between two rounds of questions. */
const lookMs = 1000;
/** An agent whose coordinator was away calls again within this. */
const reportMsMax = 3_000;
const askTimeoutMs = 2000;
/** Rounds in which a host of the roster may be silent before the rest goes on without its word. */
const silentRoundsMax = 3;
const namedMax = 10;

/** How the rebuild is made. */
export interface RebuildOptions {
  readonly store: Store;
  readonly agents: Agents;
  readonly roster: Roster;
  readonly clock: Clock;
  readonly log: Logger;
  readonly heartbeatIntervalMs: number;
  readonly defaults: () => Omit<RestoreDefaults, 'nowMs'>;
  /** Stops what is driven on the ground of the store as it was. */
  readonly onLost: () => void;
  /** What was driven here, as last known. */
  readonly remembered: () => readonly MigrationRecord[];
  /** Makes a drain known again from what a host's agent has kept of it; harmless when it is known. */
  readonly restoreDrain: (hostId: string, drain: Uint8Array) => Promise<void>;
}

/** Why not all is known. */
interface Unknown {
  readonly notBeforeMs: number;
  /** start: this process begins. failover: the last writes may be lost. lost: everything is. empty: perhaps. */
  readonly why: 'start' | 'failover' | 'lost' | 'empty';
}

const reasons: Readonly<Record<Unknown['why'], string>> = {
  start: 'this coordinator has just begun',
  failover: 'another server took the store over, and it may lack the last writes',
  lost: 'the store was lost and is rebuilt from what the agents know',
  empty: 'this store began empty, and a host that it does not know yet may hold a permit',
};

/** What one agent told. */
interface Told {
  readonly handovers: readonly Handover[];
  readonly permits: readonly Permit[];
}

/**
 * Watches which store this is. When it was lost, when another server took over (it may lack the last writes), and at each start,
 * all agents are asked what they know: open migrations, permits and drains are made known again. Until every host that any agent
 * remembers has reported, and those of the roster that answer were asked, the gate is shut: nothing new is granted.
 */
export class Rebuild implements Gate {
  readonly #options: RebuildOptions;
  #identity: StoreIdentity | undefined;
  /** Undefined once all is known again. */
  #open: Unknown | undefined = { notBeforeMs: 0, why: 'start' };
  readonly #told = new Map<string, Told>();
  readonly #silent = new Map<string, number>();
  /** Hosts that agents remember and the roster lacks, with who remembers them. */
  readonly #missing = new Map<string, string>();
  #kept: readonly MigrationRecord[] = [];

  constructor(options: RebuildOptions) {
    this.#options = options;
  }

  /** Generation of the store; empty before the first look. */
  get generation(): string {
    return this.#identity?.generation ?? '';
  }

  /** Hosts that are waited for: no coordinator has heard of them since the store was lost. */
  get missing(): readonly string[] {
    return [...this.#missing.keys()].sort();
  }

  /** What the rebuild waits for, in words; empty = it is done. */
  get waitsFor(): string {
    return this.shut()?.text ?? '';
  }

  /** The store was lost, and what was in it is not all known again: nothing new may be claimed. */
  get isLost(): boolean {
    return this.#open?.why === 'lost';
  }

  shut(overridden: readonly string[] = []): Shut | undefined {
    if (this.#open === undefined) return undefined;
    const waited = this.missing.filter((host) => !overridden.includes(host));
    const [first] = waited;
    if (first !== undefined) {
      const more = waited.length > 1 ? ` (and ${waited.slice(1, namedMax).join(', ')})` : '';
      return {
        kind: 'host',
        subject: first,
        text:
          `host ${first}${more} to report: the store forgot it, ${this.#missing.get(first)} remembers it, and it may have ` +
          'promised a network; if it will not come back: "ferry host remove"',
      };
    }
    // With all that are missing overridden, what is left is asked for and known in a moment.
    if (this.missing.length > 0 && this.#graceMs <= 0) return undefined;
    return { kind: 'store', subject: '', text: `all hosts to report: ${reasons[this.#open.why]}` };
  }

  get #graceMs(): number {
    return (this.#open?.notBeforeMs ?? 0) - this.#options.clock.nowMs();
  }

  /** The first look: a store without hosts may have been lost, any other may lack its last writes. */
  async start(): Promise<void> {
    const { store, log } = this.#options;
    try {
      this.#identity = await store.identity();
      this.#begin((await store.hosts()).length === 0 ? 'empty' : 'start');
    } catch (error) {
      log.warn({ err: error }, 'the store does not answer yet');
    }
  }

  get #reportMs(): number {
    return Math.max(reportMsMax, 3 * this.#options.heartbeatIntervalMs);
  }

  /** Goes round until `signal` aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#options;
    while (!signal.aborted) {
      try {
        await this.round(signal);
      } catch (error) {
        if (!signal.aborted) log.warn({ err: error }, 'a round of the rebuild broke off');
      }
      // The gate opens when the time to report is over, not up to a look later.
      await pause(clock, this.#graceMs > 0 ? Math.min(lookMs, this.#graceMs) : lookMs, signal);
    }
  }

  /** One look, and one round of questions while anything is not known. */
  async round(signal: AbortSignal): Promise<void> {
    const { store, log } = this.#options;
    const identity = await store.identity();
    const before = this.#identity;
    this.#identity = identity;
    if (before === undefined) {
      this.#begin((await store.hosts()).length === 0 ? 'empty' : 'start');
    } else if (before.generation !== identity.generation) {
      log.error({ generation: identity.generation }, 'the store was lost: it is rebuilt from what the agents know');
      this.#lose('lost');
    } else if (before.incarnation !== identity.incarnation) {
      log.warn(
        { incarnation: identity.incarnation },
        'another server took the store over: the last writes may be lost',
      );
      this.#lose('failover');
    }
    if (this.#open !== undefined) await this.#gather(signal);
  }

  /** An agent reports to a store of another generation than the one that it knows: what was there is lost. */
  heard(generation: string): void {
    if (this.#open?.why !== 'empty' || generation === '' || generation === this.generation) return;
    this.#open = { ...this.#open, why: 'lost' };
  }

  /** Waits for a host no longer; answers whether it was waited for. */
  forgive(hostId: string): boolean {
    return this.#missing.delete(hostId);
  }

  #lose(why: 'lost' | 'failover'): void {
    const { remembered, onLost } = this.#options;
    onLost();
    this.#kept = remembered();
    this.#begin(why);
  }

  #begin(why: Unknown['why']): void {
    this.#told.clear();
    this.#silent.clear();
    this.#missing.clear();
    const graceMs = isNew(why) ? this.#reportMs : 0;
    this.#open = { notBeforeMs: this.#options.clock.nowMs() + graceMs, why };
  }

  async #gather(signal: AbortSignal): Promise<void> {
    const { roster, log } = this.#options;
    const hosts = await roster.hosts();
    const asked = hosts.filter(({ id }) => !this.#told.has(id));
    await Promise.all(asked.map(({ id }) => this.#ask(id, signal)));
    for (const { id } of hosts) this.#missing.delete(id);
    // Nobody has reported who could tell that this is not a new cluster.
    if (hosts.length === 0 && isNew(this.#open?.why)) return;
    await this.#restore(signal);
    const unasked = hosts.filter(
      (host) =>
        !this.#told.has(host.id) &&
        roster.status(host) !== HostStatus.UNREACHABLE &&
        (this.#silent.get(host.id) ?? 0) < (this.#open?.why === 'start' ? 1 : silentRoundsMax),
    );
    if (unasked.length > 0 || this.#missing.size > 0 || this.#graceMs > 0) return;
    this.#open = undefined;
    this.#kept = [];
    log.info({ hosts: hosts.length, asked: this.#told.size }, 'all that the agents know is known here');
  }

  async #ask(host: string, signal: AbortSignal): Promise<void> {
    const { agents, roster, log, restoreDrain } = this.#options;
    const call = { signal, timeoutMs: askTimeoutMs };
    try {
      const { rememberedHosts } = await agents.machines(host, (client, options) => client.getHost({}, options), call);
      const { drain } = await agents.machines(host, (client, options) => client.getDrainRecord({}, options), call);
      const { handovers } = await agents.handover(
        host,
        (client, options) => client.listHandovers({ openOnly: true }, options),
        call,
      );
      const { permits } = await agents.handover(host, (client, options) => client.listPermits({}, options), call);
      const known = new Set((await roster.hosts()).map(({ id }) => id));
      // A roster that is whole lacks only what an operator removed.
      const asksForMore = this.#open !== undefined && this.#open.why !== 'start';
      for (const { id } of rememberedHosts) if (asksForMore && !known.has(id)) this.#missing.set(id, host);
      if (drain.length > 0) await restoreDrain(host, drain);
      this.#told.set(host, { handovers, permits });
    } catch (error) {
      signal.throwIfAborted();
      this.#silent.set(host, (this.#silent.get(host) ?? 0) + 1);
      if (!isSilence(toFerryError(error))) log.warn({ host, err: error }, 'what this host knows could not be read');
    }
  }

  /** Makes known again what is not in the store: first what this process still has in its hands, then what the agents tell. */
  async #restore(signal: AbortSignal): Promise<void> {
    const { store, log } = this.#options;
    for (const kept of [...this.#kept].sort((a, b) => (a.migration.id < b.migration.id ? -1 : 1))) {
      if ((await store.migration(kept.migration.id)) !== undefined || !(await this.#areKnown(kept.migration))) continue;
      const answer = await store.claimMigration({ ...kept, driver: '' });
      log.warn({ migration: kept.migration.id, answer: answer.kind }, 'a migration is known again: it was driven here');
      await this.#relock(kept);
    }
    const found = await this.#found(signal);
    // Those that a later one goes on under come first.
    for (const each of [...found].sort((a, b) => (a.id < b.id ? -1 : 1))) {
      if ((await store.migration(each.id)) !== undefined) continue;
      const { clock, defaults } = this.#options;
      const record = restored(each, found, { ...defaults(), nowMs: clock.nowMs() });
      record.plan.permitHosts = this.#permitHosts(record);
      const answer = await store.claimMigration(record);
      log.warn({ migration: each.id, answer: answer.kind }, 'a migration is known again: its agents told of it');
      if (answer.kind === 'claimed') await this.#relock(record);
    }
    for (const record of await store.openMigrations()) if (wantsLock(record)) await this.#relock(record);
  }

  /** All migrations that agents have open, or have promised a network to, as both their agents know them. */
  async #found(signal: AbortSignal): Promise<readonly Found[]> {
    const { store } = this.#options;
    const halves = new Map<string, Found>();
    for (const [host, { handovers }] of this.#told) {
      for (const handover of handovers) {
        const half = foundOf(host, handover);
        const other = halves.get(half.id);
        halves.set(half.id, other === undefined ? half : joined(other, half));
      }
    }
    const found: Found[] = [];
    for (const half of halves.values()) {
      if (!(await this.#areKnown(half))) continue;
      if ((await store.migration(half.id)) !== undefined) continue;
      const whole = await this.#whole(half, signal);
      if (whole !== undefined) found.push(whole);
    }
    return found;
  }

  /** Whether both hosts have reported since: before that an order to one would have no address. */
  async #areKnown({ source, destination }: { source: string; destination: string }): Promise<boolean> {
    const { store } = this.#options;
    return (await store.host(source)) !== undefined && (await store.host(destination)) !== undefined;
  }

  /** With what both hosts say now; undefined when that is nothing to drive. */
  async #whole(half: Found, signal: AbortSignal): Promise<Found | undefined> {
    const [atSource, atDestination] = await Promise.all([
      this.#standing(half.source, half.id, signal),
      this.#standing(half.destination, half.id, signal),
    ]);
    const whole = { ...half, atSource: atSource ?? half.atSource, atDestination: atDestination ?? half.atDestination };
    const active = [whole.atSource, whole.atDestination].some((each) => each?.standing === 'active');
    return active ? whole : undefined;
  }

  async #standing(host: string, migrationId: string, signal: AbortSignal): Promise<Handover | undefined> {
    try {
      const { handover } = await this.#options.agents.handover(
        host,
        (client, options) => client.getHandover({ migrationId }, options),
        { signal, timeoutMs: askTimeoutMs },
      );
      return handover === undefined || handover.role === 'unknown' ? undefined : clone(HandoverSchema, handover);
    } catch {
      signal.throwIfAborted();
      return undefined;
    }
  }

  #permitHosts({ plan }: MigrationRecord): string[] {
    return [...this.#told].flatMap(([host, { permits }]) =>
      permits.some((permit) => permit.migrationId === plan.lockHolder) ? [host] : [],
    );
  }

  /** The lock, from the permits that hosts gave for it: its fence is the highest of theirs. */
  async #relock({ migration, plan }: MigrationRecord): Promise<void> {
    const { store, clock, log } = this.#options;
    const { network, machineId, source, destination } = migration;
    const permits = [...this.#told.values()].flatMap((told) => told.permits);
    const own = permits.filter((permit) => permit.migrationId === plan.lockHolder && permit.network === network);
    if (own.length === 0 || (await store.lock(network)) !== undefined) return;
    const fence = own.reduce((highest, permit) => (permit.fence > highest ? permit.fence : highest), 0n);
    const answer = await store.acquireLock({
      network,
      migrationId: plan.lockHolder,
      machineId,
      source,
      destination,
      sinceMs: clock.nowMs(),
      priority: plan.priority,
      fenceAbove: fence - 1n,
    });
    log.warn({ network, migration: plan.lockHolder, answer: answer.kind }, 'a lock is known again: hosts promised it');
  }
}

/** Whether such a store knows no host but those that have reported since. */
function isNew(why: Unknown['why'] | undefined): boolean {
  return why === 'lost' || why === 'empty';
}
