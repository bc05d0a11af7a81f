import { toFerryError } from '../shared/error.ts';
import type { CallOptions } from '../shared/rpc/client.ts';
import type { Session } from './context.ts';
import { exitCodes } from './output/errors.ts';

/** A watch is ended by the server after an hour; it is begun again before. */
const watchMsMax = 3_000_000;
/** How long coordinators that went away are waited for. */
const awayMsMax = 60_000;
const retryMs = 500;

/** Something that goes on at the coordinators and is followed here. */
export interface Followed<T> {
  /** Begins the stream, again after a break. */
  readonly stream: (options: CallOptions) => AsyncIterable<T>;
  readonly show: (response: T) => void;
  /** The exit code once nothing more comes; undefined while it goes on. */
  readonly exitCode: (streamEnded: boolean) => number | undefined;
  /** Leaves the terminal as other output expects it; called more than once. */
  readonly finish: () => void;
  /** What ctrl-C answers: that nothing was stopped, and how to go on. */
  readonly farewell: () => string;
}

/**
 * Follows something to its end and answers the exit code. A coordinator that goes away meanwhile is waited for, and the
 * others are asked in turn. ctrl-C ends the watch, not what is watched.
 */
export async function follow<T>(
  session: Session,
  followed: Followed<T>,
  interrupted = session.terminal.interrupted(),
): Promise<number> {
  const { terminal } = session;
  let awaySinceMs: number | undefined;

  while (!interrupted.aborted) {
    try {
      await session.findAwake(interrupted);
      for await (const response of followed.stream({ timeoutMs: watchMsMax, signal: interrupted })) {
        awaySinceMs = undefined;
        followed.show(response);
        const code = followed.exitCode(false);
        if (code !== undefined) return ended(followed, code);
      }
      const code = followed.exitCode(true);
      if (code !== undefined) return ended(followed, code);
    } catch (thrown) {
      if (interrupted.aborted) break;
      const { reason } = toFerryError(thrown);
      if (!isAway.has(reason)) throw session.typed(thrown);
      const nowMs = terminal.clock.monotonicMs();
      if (awaySinceMs === undefined) {
        awaySinceMs = nowMs;
        followed.finish();
        if (reason !== 'deadline') {
          terminal.err(`ferry: the coordinator at ${session.coordinator} went away; the hosts go on, waiting for it\n`);
        }
      }
      if (nowMs - awaySinceMs > awayMsMax) throw session.typed(thrown);
      session.next();
    }
    await terminal.clock.sleep(retryMs, interrupted).catch(() => undefined);
  }
  followed.finish();
  terminal.err(followed.farewell());
  return exitCodes.interrupted;
}

/** Reasons for which a watch is begun again. */
const isAway: ReadonlySet<string> = new Set([
  'unreachable',
  'deadline',
  'cancelled',
  'store_unreachable',
  'rebuilding',
]);

function ended<T>({ finish }: Followed<T>, exitCode: number): number {
  finish();
  return exitCode;
}
