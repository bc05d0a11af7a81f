import type { DirectoryRow } from '../../proto/gen/ferry/v1/directory_pb.ts';
import type { Clock } from '../../shared/clock.ts';
import { toFerryError } from '../../shared/error.ts';
import type { Agents } from '../agents.ts';
import { pause } from '../pause.ts';
import type { LockAnswer, LockRow, Store } from '../store/store.ts';
import type { Gate } from './gate.ts';
import { type Orphans, wantsLock } from './orphans.ts';
import { askPermits, givePermitBack } from './permits.ts';

/** Longest time between two tries of a waiter; a release in this process wakes it at once. */
const retryMs = 1000;

/** A migration that needs the lock of its network. */
export interface LockSeeker {
  readonly network: string;
  readonly migrationId: string;
  /** Migration that the lock belongs to: itself, or the one whose lock it goes on under. */
  readonly holder: string;
  readonly machineId: string;
  readonly source: string;
  readonly destination: string;
  readonly term: bigint;
  readonly sinceMs: number;
  /** Higher goes first in line. */
  readonly priority: number;
  /** Reaches agents only while the seeker may order anything. */
  readonly agents: Agents;
  /** Hosts whose permit is not waited for, as of now. */
  overrides(): Promise<readonly string[]>;
  /** Made durable before the hosts are asked, so that their permits are asked back whatever happens. */
  asks(hosts: readonly string[]): Promise<void>;
  /** What it waits for: the kind, the migration, network or host, and the words. */
  waits(kind: 'lock' | 'permit' | 'host' | 'store', subject: string, text: string): Promise<void>;
}

/** The lock of a network and the permits behind it. */
export interface GrantedLock {
  readonly fence: bigint;
  /** Hosts that promised. */
  readonly hosts: readonly string[];
}

/** Where somebody stands in the line for a network's lock. */
interface Place extends Disposable {
  readonly network: string;
  /** How many were ahead when it was asked for last; 0 until then. */
  ahead: number;
  readonly woken: AbortController;
}

/**
 * The lock of a network: first the store's (the queue and the fast refusal), then a durable permit of every host that
 * holds a Machine of that network, and of source and destination, in the order of host numbers.
 */
export class NetworkLocks {
  readonly #store: Store;
  readonly #agents: Agents;
  readonly #orphans: Orphans;
  readonly #clock: Clock;
  readonly #gate: Gate;
  /** Those in this process that want a lock and do not have it yet. */
  readonly #seeking = new Set<Place>();

  /** Nothing is granted while the gate is shut: a store that was lost does not know yet who promised what. */
  constructor(options: { store: Store; agents: Agents; orphans: Orphans; clock: Clock; gate: Gate }) {
    this.#store = options.store;
    this.#agents = options.agents;
    this.#orphans = options.orphans;
    this.#clock = options.clock;
    this.#gate = options.gate;
  }

  /** Resolves once the lock is held and all hosts have promised. Repeating it is harmless. */
  async acquire(seeker: LockSeeker, signal: AbortSignal): Promise<GrantedLock> {
    const { network, holder, term, agents } = seeker;
    const silentSinceMs = new Map<string, number>();
    let fenceAbove = 0n;
    for (;;) {
      using place = this.#stand(network);
      const overridden = await seeker.overrides();
      const shut = this.#gate.shut(overridden);
      if (shut !== undefined) {
        await seeker.waits(shut.kind, shut.subject, shut.text);
        await this.#pause(signal, place);
        continue;
      }
      const answer = await this.#store.acquireLock({
        network,
        migrationId: holder,
        machineId: seeker.machineId,
        source: seeker.source,
        destination: seeker.destination,
        sinceMs: seeker.sinceMs,
        priority: seeker.priority,
        fenceAbove,
      });
      if (answer.kind === 'waiting') {
        place.ahead = answer.ahead.length;
        await seeker.waits('lock', answer.lock?.migrationId ?? network, waitingText(network, answer));
        if (await this.#clearTheWay(answer)) continue;
        await this.#pause(signal, place);
        continue;
      }
      const { fence } = answer.lock;
      // Source and destination promise always: the stop is refused without.
      const needed = (host: string) =>
        host === seeker.source || host === seeker.destination || !overridden.includes(host);
      const hosts = (await this.#hostsOf(seeker)).filter(needed);
      await seeker.asks(hosts);
      const outcome = await askPermits(agents, hosts, { network, holder, fence, term }, signal);
      switch (outcome.kind) {
        case 'granted':
          return { fence, hosts };
        case 'stale':
          fenceAbove = outcome.fence;
          continue;
        case 'refused':
          await seeker.waits(
            'permit',
            outcome.host,
            `host ${outcome.host} promised network ${network} to ${outcome.holder || 'another migration'}`,
          );
          await this.#orphans.releasePermits(outcome.host, signal).catch(() => signal.throwIfAborted());
          await this.#letPass(seeker, outcome.holder);
          break;
        case 'silent': {
          const sinceMs = silentSinceMs.get(outcome.host) ?? this.#clock.nowMs();
          silentSinceMs.set(outcome.host, sinceMs);
          await seeker.waits(
            'host',
            outcome.host,
            `host ${outcome.host} has not answered since ${new Date(sinceMs).toISOString()}: a Machine of network ` +
              `${network} may be down there; if you know that none is, override the host for this migration`,
          );
        }
      }
      await this.#pause(signal, place);
    }
  }

  /** Hosts of the network, with source and destination, in the order of host numbers. */
  async #hostsOf({ network, source, destination }: LockSeeker): Promise<string[]> {
    const placed = await this.#store.placements({ network });
    const wanted = new Set([source, destination, ...placed.map((placement) => placement.hostId)]);
    const hosts = (await this.#store.hosts()).filter((host) => wanted.has(host.id));
    return hosts.sort((a, b) => a.number - b.number).map((host) => host.id);
  }

  /**
   * A store that lost its last writes may give the lock to one migration while hosts have promised the network to another, which
   * needs the lock to go on: that one goes first.
   */
  async #letPass({ network, holder, migrationId }: LockSeeker, promisedTo: string): Promise<void> {
    if (holder !== migrationId || promisedTo === '') return;
    const record = await this.#store.migration(promisedTo);
    if (record === undefined || !wantsLock(record)) return;
    await this.#store.releaseLock(network, holder);
  }

  /** Releases an orphaned lock and takes the dead out of the line; answers whether trying again at once makes sense. */
  async #clearTheWay({ lock, ahead }: Extract<LockAnswer, { kind: 'waiting' }>): Promise<boolean> {
    if (lock !== undefined) return this.#orphans.releaseLock(lock);
    const first = ahead[0];
    if (first === undefined) return true;
    const record = await this.#store.migration(first.migrationId);
    if (record !== undefined && wantsLock(record)) return false;
    await this.#store.releaseLock(first.network, first.migrationId);
    return true;
  }

  #stand(network: string): Place {
    const place: Place = {
      network,
      ahead: 0,
      woken: new AbortController(),
      [Symbol.dispose]: () => this.#seeking.delete(place),
    };
    this.#seeking.add(place);
    return place;
  }

  async #pause(signal: AbortSignal, { woken }: Place): Promise<void> {
    await pause(this.#clock, retryMs, AbortSignal.any([signal, woken.signal]));
    signal.throwIfAborted();
  }

  /**
   * Gives permits and lock back. A host that does not answer, or that still keeps a Machine down, never blocks this:
   * those hosts are answered, to be asked again later. All of them are told where the Machine is now (`directory`).
   */
  async release(
    network: string,
    holder: string,
    hosts: readonly string[],
    signal: AbortSignal,
    directory?: DirectoryRow,
  ): Promise<string[]> {
    const left = await this.askBack(network, holder, hosts, signal, directory);
    await this.#store.releaseLock(network, holder);
    this.#wake(network);
    return left;
  }

  /** Asks hosts for their permits back; answers those that still have to be asked. */
  async askBack(
    network: string,
    holder: string,
    hosts: readonly string[],
    signal: AbortSignal,
    directory?: DirectoryRow,
  ): Promise<string[]> {
    const left = await Promise.all(
      hosts.map(async (host) => {
        try {
          await givePermitBack(this.#agents, host, { network, holder, directory }, signal);
          return [];
        } catch (error) {
          signal.throwIfAborted();
          return toFerryError(error).reason === 'unknown_host' ? [] : [host];
        }
      }),
    );
    return left.flat();
  }

  /** Leaves the line (and gives the lock back, should it be held). */
  async leave(network: string, holder: string): Promise<void> {
    await this.#store.releaseLock(network, holder);
    this.#wake(network);
  }

  /** Releases the locks that nobody has a right to any more. */
  async releaseOrphans(): Promise<void> {
    for (const lock of await this.#store.locks()) {
      if (await this.#orphans.releaseLock(lock)) this.#wake(lock.network);
    }
  }

  /** Wakes whoever is next: were all to ask at once, the next one would wait for the writes of all others. */
  #wake(network: string): void {
    const line = [...this.#seeking].filter((place) => place.network === network);
    const least = Math.min(...line.map(({ ahead }) => ahead));
    for (const { ahead, woken } of line) if (ahead === least) woken.abort();
  }
}

function waitingText(
  network: string,
  { lock, ahead }: { lock: LockRow | undefined; ahead: readonly unknown[] },
): string {
  const inLine = ahead.length === 0 ? '' : `; ${ahead.length} in line before it`;
  if (lock === undefined) return `the lock of network ${network}${inLine}`;
  return `the lock of network ${network}, held by ${lock.migrationId} (Machine ${lock.machineId})${inLine}`;
}
