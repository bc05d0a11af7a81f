import type { Clock } from '../../shared/clock.ts';

/** Decides when the next bytes may travel. */
export interface Limiter {
  /** Resolves when `bytes` may be sent; rejects with the signal's reason when it aborts first. */
  take(bytes: number, signal: AbortSignal): Promise<void>;
}

/** Longest sleep, so that a new rate is soon felt. */
const SLEEP_MS_MAX = 100;
/** Time whose bytes may travel at once after a pause. */
const BURST_MS = 250;

/** A token bucket whose rate may change at any time. One limiter can serve many copies: they share its rate. */
export class RateLimiter implements Limiter {
  readonly #clock: Clock;
  #bytesPerSecond: number | null;
  #tokens = 0;
  #filledAtMs: number;
  #turn: Promise<void> = Promise.resolve();

  /** `bytesPerSecond` null: unlimited. */
  constructor(options: { clock: Clock; bytesPerSecond: number | null }) {
    this.#clock = options.clock;
    this.#bytesPerSecond = options.bytesPerSecond;
    this.#filledAtMs = options.clock.monotonicMs();
  }

  get bytesPerSecond(): number | null {
    return this.#bytesPerSecond;
  }

  setRate(bytesPerSecond: number | null): void {
    this.#fill();
    this.#bytesPerSecond = bytesPerSecond;
  }

  take(bytes: number, signal: AbortSignal): Promise<void> {
    const mine = this.#turn.then(() => this.#wait(bytes, signal));
    this.#turn = mine.catch(() => {});
    return mine;
  }

  /** The bucket may go below zero: whoever comes next waits for it. So any size passes, whatever the rate. */
  async #wait(bytes: number, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    for (this.#fill(); this.#tokens < 0 && this.#bytesPerSecond !== null; this.#fill()) {
      const waitMs = (-this.#tokens / this.#bytesPerSecond) * 1000;
      await this.#clock.sleep(Math.min(waitMs, SLEEP_MS_MAX), signal);
    }
    if (this.#bytesPerSecond !== null) this.#tokens -= bytes;
  }

  #fill(): void {
    const nowMs = this.#clock.monotonicMs();
    if (this.#bytesPerSecond === null) this.#tokens = 0;
    else {
      const arrived = ((nowMs - this.#filledAtMs) / 1000) * this.#bytesPerSecond;
      this.#tokens = Math.min(this.#tokens + arrived, (this.#bytesPerSecond * BURST_MS) / 1000);
    }
    this.#filledAtMs = nowMs;
  }
}
