import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { expect, test } from 'vitest';
import { betweenMs, formatBytes, formatLeft, formatMs, formatTime, parseBytes } from './units.ts';

test.each([
  [0n, '0 B'],
  [1023n, '1023 B'],
  [1024n, '1.0 KiB'],
  [1536 * 1024, '1.5 MiB'],
  [3n * 1024n ** 5n, '3072.0 TiB'],
])('%s bytes', (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text);
});

test.each([
  ['10', 10n * 1024n ** 3n],
  ['10GiB', 10n * 1024n ** 3n],
  ['512 MiB', 512n * 1024n ** 2n],
  ['1.5g', 1536n * 1024n ** 2n],
  ['4KB', 4096n],
  ['2T', 2n * 1024n ** 4n],
])('size %s', (text, bytes) => {
  expect(parseBytes(text, '--size')).toBe(bytes);
});

test.each(['', '0', '-1', 'ten', '1e9', '10PiB', '1.2.3G', '999999999T'])('no size: %s', (text) => {
  expect(() => parseBytes(text, '--size')).toThrow('--size: is');
});

test.each([
  [0, '0 ms'],
  [999n, '999 ms'],
  [1234, '1.234 s'],
  [125_000, '2 min 05 s'],
])('%s ms', (ms, text) => {
  expect(formatMs(ms)).toBe(text);
});

test('time left and times', () => {
  expect(formatLeft(500)).toBe('0:01');
  expect(formatLeft(65_000n)).toBe('1:05');
  expect(formatLeft(3_723_000)).toBe('1:02:03');
  process.env.TZ = 'America/St_Johns';
  expect(formatTime(timestampFromMs(Date.UTC(2026, 0, 2, 3, 4, 5, 6)))).toBe('2026-01-01T23:34:05.006-03:30');
  process.env.TZ = 'UTC';
  expect(formatTime(new Date(0))).toBe('1970-01-01T00:00:00.000+00:00');
  expect(formatTime(undefined)).toBe('');
  expect(betweenMs(timestampFromMs(5), timestampFromMs(7))).toBe(2);
  expect(betweenMs(timestampFromMs(5), undefined)).toBeUndefined();
});
