import type { Clock } from '../../shared/clock.ts';

const AVERAGE_EVERY_MS = 200;

/** Bytes per second over the last seconds: an average in which a second ago counts half. */
export class Rate {
  readonly #clock: Clock;
  #bytes = 0;
  #average = 0;
  #atMs: number;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#atMs = clock.monotonicMs();
  }

  add(bytes: number): void {
    this.#bytes += bytes;
  }

  bytesPerSecond(): number {
    const nowMs = this.#clock.monotonicMs();
    const passedMs = nowMs - this.#atMs;
    if (passedMs >= AVERAGE_EVERY_MS) {
      const keep = this.#average === 0 ? 0 : 0.5 ** (passedMs / 1000);
      this.#average = this.#average * keep + (this.#bytes / passedMs) * 1000 * (1 - keep);
      this.#bytes = 0;
      this.#atMs = nowMs;
    }
    return Math.round(this.#average);
  }
}
