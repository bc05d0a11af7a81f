import { FerryError } from '../shared/error.ts';

/** A bounded number of places, with a bounded line before them; first come first served. */
export class Slots {
  readonly #max: number;
  readonly #waitingMax: number;
  #taken = 0;
  readonly #line: (() => void)[] = [];

  constructor(max: number, waitingMax: number) {
    this.#max = max;
    this.#waitingMax = waitingMax;
  }

  /** Whether one more would have to wait. */
  get full(): boolean {
    return this.#taken >= this.#max;
  }

  /** Throws overloaded when the line is full too. */
  requireRoom(): void {
    if (this.full && this.#line.length >= this.#waitingMax) {
      throw new FerryError('overloaded', `${this.#max} migrations run and ${this.#waitingMax} wait`);
    }
  }

  /** Resolves with a function that gives the place back (twice is harmless); rejects when the signal aborts first. */
  async take(signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    if (this.full) await this.#wait(signal);
    else this.#taken += 1;
    let given = false;
    return () => {
      if (given) return;
      given = true;
      const next = this.#line.shift();
      if (next === undefined) this.#taken -= 1;
      else next();
    };
  }

  #wait(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const turn = () => {
        signal.removeEventListener('abort', leave);
        resolve();
      };
      const leave = () => {
        this.#line.splice(this.#line.indexOf(turn), 1);
        reject(signal.reason);
      };
      this.#line.push(turn);
      signal.addEventListener('abort', leave, { once: true });
    });
  }
}
