import type { Clock } from '../../shared/clock.ts';

const clientsMax = 4096;

/** How many queries one client may send: so many at once, so many a second after that. */
export class QueryRate {
  readonly #clock: Clock;
  readonly #perSecond: number;
  readonly #burst: number;
  /** Least recently seen first. */
  readonly #clients = new Map<string, { left: number; atMs: number }>();

  constructor(clock: Clock, perSecond: number, burst: number) {
    this.#clock = clock;
    this.#perSecond = perSecond;
    this.#burst = burst;
  }

  /** Counts a query of this client; false when it is one too many. */
  allows(client: string): boolean {
    const nowMs = this.#clock.monotonicMs();
    const known = this.#clients.get(client);
    this.#clients.delete(client);
    const earned = known === undefined ? this.#burst : ((nowMs - known.atMs) / 1000) * this.#perSecond;
    const left = Math.min(this.#burst, (known?.left ?? 0) + earned);
    const isAllowed = left >= 1;
    this.#clients.set(client, { left: isAllowed ? left - 1 : left, atMs: nowMs });
    if (this.#clients.size > clientsMax) this.#clients.delete(this.#clients.keys().next().value!);
    return isAllowed;
  }
}
