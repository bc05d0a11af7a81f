import type { Clock } from '../shared/clock.ts';
import { FerryError, toFerryError } from '../shared/error.ts';
import { ulid } from '../shared/ids.ts';
import type { Logger } from '../shared/log.ts';
import type { Random } from '../shared/random.ts';
import { pause } from './pause.ts';
import type { SessionRow, Store } from './store/store.ts';

/** Time between two tries to begin a session. */
const retryMs = 1000;

/** One life of this coordinator as a driver. Once lost it never comes back: a new one begins. */
export interface Session {
  /** As the store keeps it. */
  readonly id: string;
  /** Aborts when the session is lost: nothing more is sent or written for it. */
  readonly lost: AbortSignal;
  /** Throws stale_term once the session is lost, or its time is over by this process's own clock. */
  require(): void;
}

/** How sessions are made. */
export interface SessionsOptions {
  readonly store: Store;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  /** Name of this coordinator; one process a name. */
  readonly coordinator: string;
  readonly version: string;
  /** Life of a session; renewed three times within. */
  readonly leaseMs: number;
}

/**
 * This coordinator's sessions. Another coordinator may take over what a session drives once the store sees it run out; so this
 * side stops earlier: it counts from before each renewal was sent, by its own monotonic clock, and asks that clock before each order.
 */
export class Sessions {
  readonly #options: SessionsOptions;
  #address = '';
  #current: LiveSession | undefined;
  /** Lost here, and perhaps still alive in the store. */
  #lost: string[] = [];
  #begun = new AbortController();

  constructor(options: SessionsOptions) {
    this.#options = options;
  }

  /** The session that drives now; undefined while there is none. */
  get current(): Session | undefined {
    return this.#current?.alive ? this.#current : undefined;
  }

  /** Time between two renewals. */
  get renewMs(): number {
    return this.#options.leaseMs / 3;
  }

  /** Begins the first session, as `address`; ends those that an earlier process of this name left. */
  async start(address: string): Promise<void> {
    this.#address = address;
    const { store, coordinator, log } = this.#options;
    try {
      for (const { id, coordinator: name, alive } of await store.sessions()) {
        if (alive && name === coordinator) await store.endSession(id);
      }
      await this.#begin();
    } catch (error) {
      log.warn({ err: error }, 'no session yet: the store does not answer');
    }
  }

  /** Renews until `signal` aborts; then ends the session, so that others take over at once. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, store, log } = this.#options;
    while (!signal.aborted) {
      await pause(clock, this.current === undefined ? Math.min(retryMs, this.renewMs) : this.renewMs, signal);
      if (signal.aborted) break;
      await this.#renew().catch((error: unknown) => log.warn({ err: error }, 'the session could not be renewed'));
    }
    const last = this.#current;
    this.lose('the coordinator is going down');
    if (last !== undefined) {
      await store
        .endSession(last.id)
        .catch((error: unknown) => log.info({ err: error }, 'the session runs out by itself'));
    }
  }

  /** Gives the session up: what it drives stops here. */
  lose(why: string): void {
    if (this.#current === undefined) return;
    this.#current.lose(new FerryError('stale_term', why));
    this.#lost.push(this.#current.id);
    this.#current = undefined;
  }

  /** Aborts when the next session has begun. */
  get begun(): AbortSignal {
    return this.#begun.signal;
  }

  async #renew(): Promise<void> {
    const { store, clock, leaseMs, log } = this.#options;
    const session = this.#current;
    if (session === undefined || !session.alive) return this.#begin();
    const askedMs = clock.monotonicMs();
    const kept = await store.renewSession(session.row, leaseMs);
    if (kept && session.alive) return session.extend(askedMs + leaseMs);
    log.warn({ session: session.id }, 'the session ran out; another coordinator may drive now');
    this.lose('the session ran out');
    await this.#begin();
  }

  async #begin(): Promise<void> {
    const { store, clock, random, leaseMs, log, coordinator, version } = this.#options;
    this.lose('the session ran out');
    for (const id of this.#lost) await store.endSession(id);
    this.#lost = [];
    const id = `${coordinator}/${ulid(clock.nowMs(), random)}`;
    const row: SessionRow = { id, coordinator, address: this.#address, version };
    const askedMs = clock.monotonicMs();
    if (!(await store.renewSession(row, leaseMs))) return;
    this.#current = new LiveSession(row, clock, askedMs + leaseMs, log);
    const begun = this.#begun;
    this.#begun = new AbortController();
    begun.abort();
    log.info({ session: id }, 'session begun');
  }
}

class LiveSession implements Session {
  readonly row: SessionRow;
  readonly #clock: Clock;
  readonly #lost = new AbortController();
  readonly #log: Logger;
  #untilMs: number;

  constructor(row: SessionRow, clock: Clock, untilMs: number, log: Logger) {
    this.row = row;
    this.#clock = clock;
    this.#untilMs = untilMs;
    this.#log = log;
    void this.#guard();
  }

  get id(): string {
    return this.row.id;
  }

  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  get alive(): boolean {
    return !this.#lost.signal.aborted && this.#clock.monotonicMs() < this.#untilMs;
  }

  require(): void {
    if (!this.alive) this.lose(new FerryError('stale_term', `session ${this.id} ran out`));
    this.#lost.signal.throwIfAborted();
  }

  extend(untilMs: number): void {
    this.#untilMs = untilMs;
  }

  lose(error: FerryError): void {
    if (this.#lost.signal.aborted) return;
    this.#log.info({ session: this.id }, `session lost: ${toFerryError(error).message}`);
    this.#lost.abort(error);
  }

  /** Ends with the session, at the moment when its time is over. */
  async #guard(): Promise<void> {
    while (this.alive) await pause(this.#clock, this.#untilMs - this.#clock.monotonicMs(), this.lost);
    this.lose(new FerryError('stale_term', `session ${this.id} could not be renewed in time`));
  }
}

/** Name of the coordinator that a session belongs to. */
export function coordinatorOf(sessionId: string): string {
  return sessionId.split('/')[0] ?? '';
}
