import type { Clock } from './clock.ts';
import { type FerryError, toFerryError } from './error.ts';

/**
 * A small durable step engine. A run is a list of named steps in one expression that doubles as documentation:
 *
 *     const steps = [
 *       { name: 'prepare', run: prepare },
 *       { name: 'stop', run: stop },
 *     ];
 *
 * The intent is journalled before a step runs and its result after; finished steps are skipped when a run is resumed. The
 * reason of an error (never its text) decides: retry with a growing pause, abort (the caller compensates), or park.
 */
export interface Step<Context> {
  /** Unique in its list; what the journal remembers. */
  readonly name: string;
  /** Does it; must be harmless to repeat, because a crash right after it repeats it. Answers what it did, in words. */
  readonly run: (context: Context, pulse: Pulse) => Promise<string>;
  /** Time of failing tries in a row after which the step is given up like an abort; unlimited when left out. */
  readonly patienceMs?: number;
}

/** What a long step tells the engine. */
export interface Pulse {
  /** Something went well: the count of failures, and with it patience and pauses, begins anew. */
  beat(): void;
  /** Aborts when the run shall end: the process goes down, or the run is interrupted. */
  readonly signal: AbortSignal;
}

/** Where a run keeps what it did. */
export interface StepJournal {
  /** Names of the steps that are finished. */
  finished(): ReadonlySet<string>;
  /** One durable write: `done` is finished and `next` begins (either may be missing at the ends of the list). */
  advance(done: FinishedStep | undefined, next: string | undefined): Promise<void>;
  /** A try failed and the next one is due after `pauseMs`; made visible so that nothing waits silently. */
  failed(name: string, failure: StepFailure): Promise<void>;
}

/** A step that is done. */
export interface FinishedStep {
  readonly name: string;
  readonly message: string;
}

/** A try that failed. */
export interface StepFailure {
  /** From 1. */
  readonly attempt: number;
  readonly error: FerryError;
  readonly pauseMs: number;
}

/** How a run ended. On abort and park the step is not finished. */
export type StepsOutcome =
  | { readonly kind: 'done' }
  | { readonly kind: 'abort'; readonly step: string; readonly error: FerryError }
  | { readonly kind: 'park'; readonly step: string; readonly error: FerryError };

/** How a run is made. */
export interface StepsOptions {
  readonly journal: StepJournal;
  readonly clock: Clock;
  /** The process goes down: `runSteps` rejects with its reason and nothing more is journalled. */
  readonly signal: AbortSignal;
  /** The run is called off (a cancel): it ends as an abort with the signal's reason. */
  readonly interrupt?: AbortSignal;
  /** First pause after a failure; doubled each time. */
  readonly pauseMsMin?: number;
  /** Longest pause. */
  readonly pauseMsMax?: number;
}

type TryOutcome = { readonly kind: 'finished'; readonly message: string } | Exclude<StepsOutcome, { kind: 'done' }>;

/** Runs the steps that the journal does not have as finished, in order. */
export async function runSteps<Context>(
  steps: readonly Step<Context>[],
  context: Context,
  options: StepsOptions,
): Promise<StepsOutcome> {
  const { journal } = options;
  const skip = journal.finished();
  let done: FinishedStep | undefined;
  for (const step of steps) {
    if (skip.has(step.name)) continue;
    options.signal.throwIfAborted();
    await journal.advance(done, step.name);
    done = undefined;
    const outcome = await tryUntilDecided(step, context, options);
    if (outcome.kind !== 'finished') return outcome;
    done = { name: step.name, message: outcome.message };
  }
  if (done !== undefined) await journal.advance(done, undefined);
  return { kind: 'done' };
}

async function tryUntilDecided<Context>(
  step: Step<Context>,
  context: Context,
  options: StepsOptions,
): Promise<TryOutcome> {
  const { clock, journal, pauseMsMin = 250, pauseMsMax = 5000 } = options;
  const signal =
    options.interrupt === undefined ? options.signal : AbortSignal.any([options.signal, options.interrupt]);
  let failures = 0;
  let failingSinceMs = 0;
  const pulse: Pulse = {
    signal,
    beat: () => {
      failures = 0;
    },
  };
  for (;;) {
    try {
      signal.throwIfAborted();
      return { kind: 'finished', message: await step.run(context, pulse) };
    } catch (thrown) {
      options.signal.throwIfAborted();
      if (options.interrupt?.aborted) {
        return { kind: 'abort', step: step.name, error: toFerryError(options.interrupt.reason) };
      }
      const error = toFerryError(thrown);
      if (failures === 0) failingSinceMs = clock.monotonicMs();
      failures += 1;
      if (error.disposition !== 'retry') return { kind: error.disposition, step: step.name, error };
      if (step.patienceMs !== undefined && clock.monotonicMs() - failingSinceMs >= step.patienceMs) {
        return { kind: 'abort', step: step.name, error };
      }
      const pauseMs = Math.min(pauseMsMax, pauseMsMin * 2 ** Math.min(failures - 1, 20));
      await journal.failed(step.name, { attempt: failures, error, pauseMs });
      try {
        await clock.sleep(pauseMs, signal);
      } catch {
        // An abort during the pause is looked at, with its two meanings, at the top of the loop.
      }
    }
  }
}
