import { create } from '@bufbuild/protobuf';
import { type Duration, DurationSchema } from '@bufbuild/protobuf/wkt';
import { invalidArgument } from './error.ts';

const unitMs: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Reads "10s", "1m30s", "500ms", "7d", or a number of nanoseconds (as the Machines API has it); answers milliseconds. */
export function parseDurationMs(value: unknown, field: string): number {
  if (typeof value === 'number' && Number.isFinite(value) && value >= 0) return value / 1e6;
  if (typeof value === 'string' && /^(\d+(\.\d+)?(ms|s|m|h|d))+$/.test(value)) {
    let totalMs = 0;
    for (const [, amount, unit] of value.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d)/g))
      totalMs += Number(amount) * unitMs[unit!]!;
    return totalMs;
  }
  throw invalidArgument(field, `is ${JSON.stringify(value)}`, 'a time such as "10s", "1m30s" or "500ms"');
}

/** A protobuf Duration of so many milliseconds. */
export function durationFromMs(ms: number): Duration {
  const seconds = Math.floor(ms / 1000);
  return create(DurationSchema, { seconds: BigInt(seconds), nanos: Math.round((ms - seconds * 1000) * 1e6) });
}

/** Milliseconds of a protobuf Duration; undefined stays undefined. */
export function durationToMs(duration: Duration): number;
export function durationToMs(duration: Duration | undefined): number | undefined;
export function durationToMs(duration: Duration | undefined): number | undefined {
  return duration === undefined ? undefined : Number(duration.seconds) * 1000 + duration.nanos / 1e6;
}
