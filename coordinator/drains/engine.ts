import { toFerryError } from '../../shared/error.ts';
import { pause } from '../pause.ts';
import type { Session, Sessions } from '../sessions.ts';
import { type RoundMemory, type RoundParts, round } from './round.ts';

/** Time between two looks for drains that nobody drives. */
const lookMs = 1000;
/** Time between two rounds of a drain. */
const roundMs = 250;
/** Time after which a round that broke off is repeated. */
const brokenMs = 2000;

/** How the engine is made. */
export interface DrainEngineOptions extends RoundParts {
  readonly sessions: Pick<Sessions, 'current'>;
}

/**
 * Drives drains: takes each open one that no live session drives, and goes round it until it has ended. All that it has
 * to remember is in the store, so another coordinator may go on at any point.
 */
export class DrainEngine {
  readonly #options: DrainEngineOptions;
  readonly #drives = new Map<string, Promise<void>>();
  #wakeUp = new AbortController();
  /** Rounds of several drains go one after another: limits that they share are counted and used in one go. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: DrainEngineOptions) {
    this.#options = options;
  }

  /** Drives until `signal` aborts; resolves when nothing runs any more. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#options;
    while (!signal.aborted) {
      const woken = this.#wakeUp.signal;
      await this.#take(signal).catch((error: unknown) => {
        log.warn({ err: error }, 'open drains could not be looked at');
      });
      await pause(clock, lookMs, AbortSignal.any([signal, woken]));
    }
    await Promise.all(this.#drives.values());
  }

  /** Looks now: a drain was ordered, paused, resumed or cancelled. */
  wake(): void {
    const woken = this.#wakeUp;
    this.#wakeUp = new AbortController();
    woken.abort();
  }

  async #take(signal: AbortSignal): Promise<void> {
    const { store, sessions, log } = this.#options;
    const session = sessions.current;
    if (session === undefined) return;
    for (const { drain } of await store.openDrains()) {
      if (this.#drives.has(drain.id) || signal.aborted) continue;
      const answer = await store.takeDrain(drain.id, session.id);
      if (answer.kind !== 'taken') continue;
      log.info({ drain: drain.id, host: drain.hostId }, 'drives this drain');
      const driving = this.#drive(drain.id, session, signal).finally(() => this.#drives.delete(drain.id));
      this.#drives.set(drain.id, driving);
    }
  }

  async #drive(id: string, session: Session, stopping: AbortSignal): Promise<void> {
    const { clock, log } = this.#options;
    const memory: RoundMemory = { writtenMs: 0, keptMark: '', calledOffMs: new Map() };
    const signal = AbortSignal.any([stopping, session.lost]);
    while (!signal.aborted) {
      const woken = this.#wakeUp.signal;
      let waitMs = roundMs;
      try {
        const outcome = await this.#inTurn(() => round(this.#options, id, session, memory));
        if (outcome !== 'on') return;
      } catch (thrown) {
        const error = toFerryError(thrown);
        if (signal.aborted || error.reason === 'stale_term' || error.reason === 'unknown_drain') return;
        log.warn({ drain: id, err: thrown }, 'a round of a drain broke off; it is repeated');
        waitMs = brokenMs;
      }
      await pause(clock, waitMs, AbortSignal.any([signal, woken]));
    }
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work);
    this.#turn = turn.catch(() => {});
    return turn;
  }
}
