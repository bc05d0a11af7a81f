import type { Clock } from '../../shared/clock.ts';
import { toFerryError } from '../../shared/error.ts';
import type { Agents } from '../agents.ts';
import { pause } from '../pause.ts';
import type { LockAnswer, LockRow, Store } from '../store/store.ts';
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
  /** Hosts whose permit is not waited for, as of now. */
  overrides(): Promise<readonly string[]>;
  /** Made durable before the hosts are asked, so that their permits are asked back whatever happens. */
  asks(hosts: readonly string[]): Promise<void>;
  /** What it waits for, in words. */
  waits(text: string): Promise<void>;
}

/** The lock of a network and the permits behind it. */
export interface GrantedLock {
  readonly fence: bigint;
  /** Hosts that promised. */
  readonly hosts: readonly string[];
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
  readonly #openAtMs: number;
  /** Wakes all that wait for a lock. */
  #changed = new AbortController();

  /** Nothing is granted before `openAtMs`: until then hosts report to a store that began empty. */
  constructor(options: { store: Store; agents: Agents; orphans: Orphans; clock: Clock; openAtMs: number }) {
    this.#store = options.store;
    this.#agents = options.agents;
    this.#orphans = options.orphans;
    this.#clock = options.clock;
    this.#openAtMs = options.openAtMs;
  }

  /** Resolves once the lock is held and all hosts have promised. Repeating it is harmless. */
  async acquire(seeker: LockSeeker, signal: AbortSignal): Promise<GrantedLock> {
    const { network, holder, term } = seeker;
    const silentSinceMs = new Map<string, number>();
    let fenceAbove = 0n;
    await this.#untilOpen(seeker, signal);
    for (;;) {
      const changed = this.#changed.signal;
      const answer = await this.#store.acquireLock({ ...seeker, migrationId: holder, fenceAbove });
      if (answer.kind === 'waiting') {
        await seeker.waits(waitingText(network, answer));
        if (await this.#clearTheWay(answer)) continue;
        await this.#pause(signal, changed);
        continue;
      }
      const { fence } = answer.lock;
      const overridden = await seeker.overrides();
      // Source and destination promise always: the stop is refused without.
      const needed = (host: string) =>
        host === seeker.source || host === seeker.destination || !overridden.includes(host);
      const hosts = (await this.#hostsOf(seeker)).filter(needed);
      await seeker.asks(hosts);
      const outcome = await askPermits(this.#agents, hosts, { network, holder, fence, term }, signal);
      switch (outcome.kind) {
        case 'granted':
          return { fence, hosts };
        case 'stale':
          fenceAbove = outcome.fence;
          continue;
        case 'refused':
          await seeker.waits(
            `host ${outcome.host} promised network ${network} to ${outcome.holder || 'another migration'}`,
          );
          await this.#orphans.releasePermits(outcome.host, signal).catch(() => signal.throwIfAborted());
          break;
        case 'silent': {
          const sinceMs = silentSinceMs.get(outcome.host) ?? this.#clock.nowMs();
          silentSinceMs.set(outcome.host, sinceMs);
          await seeker.waits(
            `host ${outcome.host} has not answered since ${new Date(sinceMs).toISOString()}: a Machine of network ` +
              `${network} may be down there; if you know that none is, override the host for this migration`,
          );
        }
      }
      await this.#pause(signal, changed);
    }
  }

  async #untilOpen(seeker: LockSeeker, signal: AbortSignal): Promise<void> {
    const leftMs = this.#openAtMs - this.#clock.nowMs();
    if (leftMs <= 0) return;
    await seeker.waits(
      'all hosts to report: this store began empty, and a host that it does not know yet may hold a permit',
    );
    await pause(this.#clock, leftMs, signal);
    signal.throwIfAborted();
  }

  /** Hosts of the network, with source and destination, in the order of host numbers. */
  async #hostsOf({ network, source, destination }: LockSeeker): Promise<string[]> {
    const placed = await this.#store.placements({ network });
    const wanted = new Set([source, destination, ...placed.map((placement) => placement.hostId)]);
    const hosts = (await this.#store.hosts()).filter((host) => wanted.has(host.id));
    return hosts.sort((a, b) => a.number - b.number).map((host) => host.id);
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

  async #pause(signal: AbortSignal, changed: AbortSignal): Promise<void> {
    await pause(this.#clock, retryMs, AbortSignal.any([signal, changed]));
    signal.throwIfAborted();
  }

  /**
   * Gives permits and lock back. A host that does not answer, or that still keeps a Machine down, never blocks this:
   * those hosts are answered, to be asked again later.
   */
  async release(network: string, holder: string, hosts: readonly string[], signal: AbortSignal): Promise<string[]> {
    const left = await this.askBack(network, holder, hosts, signal);
    await this.#store.releaseLock(network, holder);
    this.#wake();
    return left;
  }

  /** Asks hosts for their permits back; answers those that still have to be asked. */
  async askBack(network: string, holder: string, hosts: readonly string[], signal: AbortSignal): Promise<string[]> {
    const left = await Promise.all(
      hosts.map(async (host) => {
        try {
          await givePermitBack(this.#agents, host, { network, holder }, signal);
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
    this.#wake();
  }

  /** Releases the locks that nobody has a right to any more. */
  async releaseOrphans(): Promise<void> {
    for (const lock of await this.#store.locks()) {
      if (await this.#orphans.releaseLock(lock)) this.#wake();
    }
  }

  #wake(): void {
    const changed = this.#changed;
    this.#changed = new AbortController();
    changed.abort();
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
