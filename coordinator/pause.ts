import type { Clock } from '../shared/clock.ts';

/** Waits `ms`, or quietly less when the signal aborts: the caller looks at the signal next. */
export async function pause(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  try {
    await clock.sleep(ms, signal);
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
