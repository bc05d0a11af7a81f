import { expect, test } from 'vitest';
import { MigrationStrategy, MoveReason } from '../proto/gen/ferry/v1/migration_pb.ts';
import { hostList, parseMoveOptions } from './options.ts';
import { parseRate } from './output/units.ts';

test('what is not given is left to the coordinator; who orders is the person behind sudo, else the user', () => {
  const nothing = { reason: MoveReason.UNSPECIFIED, strategy: MigrationStrategy.UNSPECIFIED, priority: 0 };
  expect(parseMoveOptions({}, {})).toEqual({ ...nothing, orderedBy: '', downtimeBudgetMs: undefined });
  expect(parseMoveOptions({}, { USER: 'root' }).orderedBy).toBe('root');
  expect(parseMoveOptions({}, { USER: 'root', SUDO_USER: 'alice' }).orderedBy).toBe('alice');
  expect(parseMoveOptions({ by: 'bob' }, { USER: 'root', SUDO_USER: 'alice' }).orderedBy).toBe('bob');
});

test('what is given', () => {
  const given = { reason: 'overcrowded', by: 'bob', downtimeBudget: '1.5s', priority: '-100', strategy: 'precopy' };
  expect(parseMoveOptions(given, {})).toEqual({
    reason: MoveReason.OVERCROWDED,
    orderedBy: 'bob',
    downtimeBudgetMs: 1500,
    priority: -100,
    strategy: MigrationStrategy.PRECOPY,
  });
  expect(hostList('--to')('host-1, host-2', ['host-3'])).toEqual(['host-3', 'host-1', 'host-2']);
});

test.each([
  [{ reason: 'boredom' }, '--reason: is "boredom"; expected one of overcrowded, deprecated, maintenance, failing'],
  [{ reason: 'constructor' }, '--reason: is "constructor"'],
  [{ strategy: 'warm' }, '--strategy: is "warm"; expected one of precopy, cold'],
  [{ priority: '101' }, '--priority: is "101"; expected a whole number from -100 to 100'],
  [{ priority: '1e1' }, '--priority: is "1e1"'],
  [{ downtimeBudget: '300' }, '--downtime-budget: is "300"'],
  [{ downtimeBudget: '0ms' }, '--downtime-budget: is "0ms"; expected a time from 10ms to 10m'],
  [{ by: '' }, '--by: is ""'],
  [{ by: 'a\u001bb' }, '--by: is'],
  [{ by: 'x'.repeat(201) }, '--by: is'],
])('refused: %j', (options, message) => {
  expect(() => parseMoveOptions(options, {})).toThrow(message);
});

test('rates', () => {
  expect(parseRate('50MB', '--send')).toBe(50n << 20n);
  expect(parseRate('1.5GiB/s', '--send')).toBe(1536n << 20n);
  expect(parseRate('off', '--send')).toBe(0n);
  for (const text of ['', '50', 'fast', '-1MB', '0MB', '1MB/h']) {
    expect(() => parseRate(text, '--send')).toThrow(`--send: is ${JSON.stringify(text)}; expected bytes a second`);
  }
});
