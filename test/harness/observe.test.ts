import { expect, test } from 'vitest';
import { networksDownAtOnce, twoDown } from './observe.ts';

const report = (...looks: string[][]) => ({
  samples: looks.length,
  longestBlindMs: 0,
  sightings: looks.map((ids, atMs) => ({ atMs, alive: ids.map((id) => `${id} agent`) })),
});
const networks = { one: ['a', 'b'], two: ['c', 'd'] };

test('two of one network down are found, before all were seen not', () => {
  expect(twoDown(report(['c'], ['a', 'b', 'c', 'd'], ['a', 'c', 'd'], ['b', 'd']), networks)).toEqual([]);
  expect(twoDown(report(['a', 'b'], ['a'], []), networks)).toEqual(['one at 2: a, b']);
});

test('networks that are down at once are counted', () => {
  expect(networksDownAtOnce(report(['a', 'b', 'c', 'd'], ['a', 'b', 'd'], ['a', 'b', 'c', 'd']), networks)).toBe(1);
  expect(networksDownAtOnce(report([], ['a', 'b', 'c', 'd'], ['a', 'd']), networks)).toBe(2);
});
