import { toFerryError } from '../../shared/error.ts';
import { pause } from '../pause.ts';
import type { Session, Sessions } from '../sessions.ts';
import { forgetEnded } from './keep.ts';
import { newMemory, type RoundMemory, type RoundOutcome, type RoundParts, round } from './round.ts';

/** Time between two looks for drains that nobody drives. */
const lookMs = 1000;
/** Time between two rounds of a drain. */
const roundMs = 250;
/** Time after which a round that broke off is repeated. */
const brokenMs = 2000;
/** Time between two looks for ended drains that agents still keep. */
const forgetMs = 30_000;

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
    let forgotMs = Number.NEGATIVE_INFINITY;
    while (!signal.aborted) {
      const woken = this.#wakeUp.signal;
      if (clock.monotonicMs() - forgotMs >= forgetMs) {
        forgotMs = clock.monotonicMs();
        await this.#forget();
      }
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

  async #forget(): Promise<void> {
    const { sessions, log } = this.#options;
    if (sessions.current === undefined) return;
    await forgetEnded(this.#options).catch((error: unknown) => {
      log.warn({ err: error }, 'ended drains could not be looked at');
    });
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
    const memory = newMemory();
    const signal = AbortSignal.any([stopping, session.lost]);
    try {
      if ((await this.#goRound(id, session, memory, signal)) !== 'ended') return;
    } finally {
      await Promise.all(memory.aside.values());
    }
    await this.#forget();
  }

  /** Round after round, until the drain has ended, another one drives it, or `signal` aborts. */
  async #goRound(id: string, session: Session, memory: RoundMemory, signal: AbortSignal): Promise<RoundOutcome> {
    const { clock, log } = this.#options;
    while (!signal.aborted) {
      const woken = this.#wakeUp.signal;
      let waitMs = roundMs;
      try {
        const outcome = await this.#inTurn(() => round(this.#options, id, session, memory));
        if (outcome !== 'on') return outcome;
      } catch (thrown) {
        const error = toFerryError(thrown);
        if (signal.aborted || error.reason === 'stale_term' || error.reason === 'unknown_drain') return 'lost';
        log.warn({ drain: id, err: thrown }, 'a round of a drain broke off; it is repeated');
        waitMs = brokenMs;
      }
      await pause(clock, waitMs, AbortSignal.any([signal, woken]));
    }
    return 'lost';
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work);
    this.#turn = turn.catch(() => {});
    return turn;
  }
}
