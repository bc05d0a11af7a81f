import type { Duration } from '@bufbuild/protobuf/wkt';
import { durationToMs } from '../../shared/duration.ts';
import { invalidArgument } from '../../shared/error.ts';
import { checkId } from '../../shared/ids.ts';

const priorityMax = 100;

/** A name, or empty. */
export function optionalName(text: string, field: string): string {
  return text === '' ? '' : checkId('name', text, field);
}

/** A time within bounds, or the fallback when it is unset. */
export function boundedMs(
  duration: Duration | undefined,
  field: string,
  bounds: { readonly msMin: number; readonly msMax: number; readonly fallbackMs: number },
): number {
  const ms = durationToMs(duration);
  if (ms === undefined) return bounds.fallbackMs;
  if (ms >= bounds.msMin && ms <= bounds.msMax) return ms;
  throw invalidArgument(field, `is ${ms / 1000} s`, `${bounds.msMin / 1000} s to ${bounds.msMax / 1000} s`);
}

/** A list that is not too long. */
export function boundedList<T>(list: readonly T[], field: string, max: number): readonly T[] {
  if (list.length <= max) return list;
  throw invalidArgument(field, `has ${list.length} entries`, `at most ${max}`);
}

/** A text that is not too long. */
export function boundedText(text: string, field: string, max: number): string {
  if (text.length <= max) return text;
  throw invalidArgument(field, `has ${text.length} characters`, `at most ${max}`);
}

/** Who goes first in line for a network. */
export function boundedPriority(priority: number, field: string): number {
  if (priority >= -priorityMax && priority <= priorityMax) return priority;
  throw invalidArgument(field, `is ${priority}`, `-${priorityMax} to ${priorityMax}`);
}
