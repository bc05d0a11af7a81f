import { type Timestamp, timestampDate } from '@bufbuild/protobuf/wkt';
import { invalidArgument } from '../../shared/error.ts';

const binaryUnits = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

/** "512 B", "1.0 KiB", "1.5 GiB". */
export function formatBytes(bytes: bigint | number): string {
  let value = Number(bytes);
  let unit = 0;
  while (value >= 1024 && unit < binaryUnits.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${binaryUnits[unit]}`;
}

/** Reads "10GiB", "512MiB", "1.5TiB", "10G" or a bare number of GiB; answers bytes. Throws invalid_argument. */
export function parseBytes(text: string, field: string): bigint {
  const match = /^(\d{1,9}(?:\.\d{1,6})?)\s*(?:([KMGT])(?:i?B)?)?$/i.exec(text.trim());
  const power = match === null ? 0 : 'KMGT'.indexOf((match[2] ?? 'G').toUpperCase()) + 1;
  const bytes = match === null ? 0 : Math.round(Number(match[1]) * 1024 ** power);
  if (bytes <= 0 || !Number.isSafeInteger(bytes)) {
    throw invalidArgument(
      field,
      `is ${JSON.stringify(text)}`,
      'a size such as "10GiB" or "512MiB" (a bare number is GiB)',
    );
  }
  return BigInt(bytes);
}

/** Reads "50MB", "1GiB/s" or "off"; answers bytes a second, 0 for no limit. Throws invalid_argument. */
export function parseRate(text: string, field: string): bigint {
  if (text === 'off') return 0n;
  const amount = text.trim().replace(/\/s$/i, '');
  // A bare number of GiB, as sizes have it, would be a surprising rate.
  if (/[a-z]$/i.test(amount)) {
    try {
      return parseBytes(amount, field);
    } catch {
      // The error below says what a rate looks like.
    }
  }
  throw invalidArgument(field, `is ${JSON.stringify(text)}`, 'bytes a second, such as "50MB" or "1GiB", or "off"');
}

/** "100.0 MiB/s"; "unlimited" for 0. */
export function formatRate(bytesPerSecond: bigint): string {
  return bytesPerSecond === 0n ? 'unlimited' : `${formatBytes(bytesPerSecond)}/s`;
}

/** Milliseconds as "12 ms", "1.234 s" or "3 min 05 s". */
export function formatMs(ms: bigint | number): string {
  const value = Math.round(Number(ms));
  if (value < 1000) return `${value} ms`;
  if (value < 120_000) return `${(value / 1000).toFixed(3)} s`;
  const seconds = Math.round(value / 1000);
  return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, '0')} s`;
}

/** A predicted time, no finer than it deserves: "450 ms", "12.3 s" or "3 min 05 s". */
export function formatRoughMs(ms: bigint | number): string {
  const value = Number(ms);
  if (value < 1000) return `${Math.round(value)} ms`;
  if (value < 59_950) return `${(value / 1000).toFixed(1)} s`;
  const seconds = Math.round(value / 1000);
  return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, '0')} s`;
}

/** Time left as "0:07" or "1:02:03". */
export function formatLeft(ms: bigint | number): string {
  const seconds = Math.ceil(Number(ms) / 1000);
  const two = (value: number) => String(value).padStart(2, '0');
  const hours = Math.floor(seconds / 3600);
  const minutes = Math.floor((seconds % 3600) / 60);
  return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}

/** "1 Machine", "3 Machines". */
export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

/** RFC 3339 in local time with milliseconds, for example "2026-11-22T21:56:03.120+01:00"; "" when unset. */
export function formatTime(time: Timestamp | Date | undefined): string {
  if (time === undefined) return '';
  const date = time instanceof Date ? time : timestampDate(time);
  const offsetMinutes = -date.getTimezoneOffset();
  const local = new Date(date.getTime() + offsetMinutes * 60_000).toISOString().slice(0, -1);
  const hours = String(Math.floor(Math.abs(offsetMinutes) / 60)).padStart(2, '0');
  const minutes = String(Math.abs(offsetMinutes) % 60).padStart(2, '0');
  return `${local}${offsetMinutes < 0 ? '-' : '+'}${hours}:${minutes}`;
}

/** Milliseconds between two times; undefined when either is unset. */
export function betweenMs(from: Timestamp | undefined, to: Timestamp | undefined): number | undefined {
  if (from === undefined || to === undefined) return undefined;
  return Math.max(0, timestampDate(to).getTime() - timestampDate(from).getTime());
}

/** The word of an enum value: (MachineState, 3) is "started", (VolumeState, 4) "pending_destroy". */
export function word(values: Readonly<Record<string, number>>, value: number): string {
  return (Object.keys(values).find((key) => values[key] === value) ?? 'unknown').toLowerCase();
}
