import type { Handover } from '../../proto/gen/ferry/v1/handover_pb.ts';
import { type CopyProgress, type Migration, MigrationStrategy } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { durationFromMs } from '../../shared/duration.ts';
import { FerryError, toFerryError } from '../../shared/error.ts';
import { isReason } from '../../shared/reasons.ts';
import type { Pulse } from '../../shared/steps.ts';
import { type Journey, present } from './journey.ts';

/** Time between two looks at a copy: what a progress bar shows. */
const roundMs = 500;
/** The call's deadline leaves some room above what the agent is asked to wait. */
const roomMs = 10_000;
/** A copy of the running Machine that brings nothing for so long turns the migration back, before anything is stopped. */
const stuckMs = 30_000;
/** More rounds than these are no help any more. */
const roundsMax = 30;
/** The network is locked for the last round: not for longer than this. */
const lastRoundMsMax = 10_000;

/** What the destination's disk says about itself: a cold copy would meet it too, with the Machine down. */
const destinationUnfit: readonly string[] = ['no_space', 'io_error', 'copy_corrupt'];

/**
 * Copies while the Machine runs, until the rest fits the downtime budget or more rounds do not help. A pre-copy that is refused
 * or fails never fails the migration: it goes on cold, and says why. What a cold copy would meet as well (a full disk, a silent
 * or stuck destination) turns it back here, while the Machine still runs.
 */
export async function precopy(journey: Journey, pulse: Pulse): Promise<string> {
  const { migration, plan, parts } = journey;
  const { destination, strategy, returns } = migration;
  if (strategy === MigrationStrategy.COLD) return 'stops first, as ordered';
  if (returns !== '') return 'none: the Machine is down, or not healthy, and what it left behind is still there';
  let seen = '';
  let aliveMs = parts.clock.monotonicMs();
  for (;;) {
    let handover: Handover;
    try {
      handover = await orderRound(journey, pulse.signal);
    } catch (thrown) {
      pulse.signal.throwIfAborted();
      return goesOnCold(journey, toFerryError(thrown));
    }
    refuseDeadEnd(handover, destination);
    const { progress, precopy: report } = handover;
    journey.learn((draft) => reportOf(draft.migration, handover));
    if (report !== undefined && report.ended !== '') return endedText(report.ended, report.endedReason);
    const nowMs = parts.clock.monotonicMs();
    const now = `${report?.rounds.length} ${progress?.phase} ${progress?.bytesDone} ${progress?.bytesTransferred}`;
    if (now !== seen || progress?.phase === 'verifying') {
      seen = now;
      aliveMs = nowMs;
      pulse.beat();
    }
    if (nowMs - aliveMs > stuckMs) {
      throw new FerryError('copy_stuck', `no byte has arrived at ${destination} for ${stuckMs / 1000} s`, {
        facts: { host: destination },
      });
    }
    const rounds = report?.rounds ?? [];
    if (rounds.length >= roundsMax) return `went on after ${rounds.length} rounds: the Machine writes too fast`;
    if (rounds.length > 1 && report !== undefined) {
      await journey.waits(
        'budget',
        destination,
        `what is left to fit the downtime budget: ${report.predictedFinalMs} ms predicted after round ${rounds.length}, ` +
          `${plan.downtimeBudgetMs} ms allowed`,
      );
    } else if (progress !== undefined) await waitsForCopy(journey, progress, 'the copy of the running Machine');
  }
}

/** Orders a round; answers where it stands after a moment. */
async function orderRound(journey: Journey, signal: AbortSignal, lastRound = false): Promise<Handover> {
  const { destination } = journey.migration;
  const waitMs = lastRound ? lastRoundMsMax / 2 : roundMs;
  const { handover } = await journey.parts.agents.handover(
    destination,
    (client, options) =>
      client.precopy(
        {
          header: journey.header,
          wait: durationFromMs(waitMs),
          downtimeBudgetMs: BigInt(journey.plan.downtimeBudgetMs),
          lastRound,
        },
        options,
      ),
    { signal, timeoutMs: waitMs + roomMs },
  );
  return present(handover, destination);
}

/** Throws what a cold copy would meet too; anything else costs only downtime. */
function goesOnCold(journey: Journey, error: FerryError): string {
  const { reason, disposition, message } = error;
  const over = ['burnt', 'too_late', 'stale_term', 'unknown_migration', 'other_role'].includes(reason);
  if (disposition === 'retry' || over || destinationUnfit.includes(reason)) throw error;
  journey.learn(({ migration }) => {
    migration.precopy = {
      $typeName: 'ferry.v1.PrecopyReport',
      mode: 'none',
      modeReason: message,
      rounds: migration.precopy?.rounds ?? [],
      ended: 'cold',
      endedReason: message,
      predictedFinalMs: 0n,
      baseRoot: migration.precopy?.baseRoot ?? '',
    };
  });
  return `goes on cold: ${message}`;
}

function endedText(ended: string, reason: string): string {
  const texts: Record<string, string> = {
    fits: 'what is left fits the downtime budget',
    not_shrinking: 'further rounds would not shrink what is left',
    cold: 'goes on cold',
  };
  const text = texts[ended] ?? `ended with ${ended}`;
  return reason === '' ? text : `${text}: ${reason}`;
}

/** One more round while a migration waits in line, so that little is left to copy when its turn comes. Never fails. */
export async function freshen(journey: Journey, signal: AbortSignal): Promise<void> {
  if (!hasRounds(journey.migration)) return;
  try {
    const handover = await orderRound(journey, signal);
    journey.learn((draft) => reportOf(draft.migration, handover));
  } catch (thrown) {
    if (signal.aborted) return;
    journey.parts.log.info({ migration: journey.id, err: thrown }, 'the copy could not be kept fresh');
  }
}

/** The network is locked: one more round, however small, bounded in time. Never fails; answers what it did, in words. */
export async function lastRound(journey: Journey, pulse: Pulse): Promise<string> {
  if (!hasRounds(journey.migration)) return '';
  const { clock } = journey.parts;
  const deadlineMs = clock.monotonicMs() + lastRoundMsMax;
  try {
    for (;;) {
      // An answer comes when the round is done, at once if nothing has changed.
      const handover = await orderRound(journey, pulse.signal, true);
      journey.learn((draft) => reportOf(draft.migration, handover));
      const phase = handover.progress?.phase ?? '';
      if (phase === '' || phase === 'done') return 'last round done';
      if (clock.monotonicMs() >= deadlineMs) {
        return `the last round took longer than ${lastRoundMsMax / 1000} s and was not waited for`;
      }
      await journey.waits('copy', journey.migration.destination, 'the last round of the copy, under the lock');
    }
  } catch (thrown) {
    pulse.signal.throwIfAborted();
    const error = toFerryError(thrown);
    if (error.reason === 'stale_term') throw error;
    return `without a last round: ${error.message}`;
  }
}

/** Whether the copy of the running Machine is one that further rounds can better. */
function hasRounds({ precopy: report }: Readonly<Migration>): boolean {
  return report !== undefined && report.mode === 'snapshots' && ['', 'fits', 'not_shrinking'].includes(report.ended);
}

/** Keeps what the destination says of the copy of the running Machine. */
export function reportOf(migration: Migration, { precopy: report, progress }: Handover): void {
  if (report !== undefined) migration.precopy = report;
  if (progress !== undefined) migration.progress = progress;
}

/** Says that a copy is waited for, and what slows it down. */
export async function waitsForCopy(journey: Journey, progress: CopyProgress, what: string): Promise<void> {
  const { source, destination } = journey.migration;
  const limit = progress.limitBytesPerSecond;
  const slowed = limit > 0n && progress.phase === 'copying';
  const message = slowed
    ? `${what} at ${destination}, held to ${limit} bytes a second by the limits of ${source} and ${destination}`
    : `${what} at ${destination} (${progress.phase})`;
  await journey.waits(slowed ? 'rate' : 'copy', destination, message, ({ migration }) => {
    migration.progress = progress;
  });
}

/** A hand-over that has ended at an agent will never reach the step that is waited for. */
export function refuseDeadEnd(handover: Handover | undefined, host: string): void {
  const { step, reason, failure } = present(handover, host);
  if (['aborted', 'returned', 'declined', 'parked', 'tombstoned'].includes(step)) {
    const known = isReason(failure) ? failure : 'burnt';
    throw new FerryError(known, reason || `the hand-over is ${step} at ${host}`, { facts: { host } });
  }
}
