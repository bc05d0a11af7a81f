import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Job, type Speeds, simulate } from './simulate.ts';

const speeds = (changes: Partial<Speeds> = {}): Speeds => ({
  perSource: 4,
  perDestination: 4,
  total: 16,
  sourceBytesPerSecond: 1000,
  destinationBytesPerSecond: () => 1000,
  ...changes,
});
const job = (machineId: string, changes: Partial<Job> = {}): Job => ({
  machineId,
  network: 'x',
  destination: 'a',
  phase: 'waiting',
  copyBytes: 1000,
  copyMs: 0,
  lockedBytes: 0,
  lockedMs: 500,
  ...changes,
});

test('one move: its copy, then its time under the lock', () => {
  const { courses, totalMs } = simulate([job('1')], speeds());
  expect(courses.get('1')).toEqual({ beginsMs: 0, copiedMs: 1000, lockedMs: 1000, doneMs: 1500 });
  expect(totalMs).toBe(1500);
});

test('copies share the line; stops of one network follow one another', () => {
  const { courses, totalMs } = simulate([job('1'), job('2')], speeds());
  expect(courses.get('1')).toMatchObject({ copiedMs: 2000, lockedMs: 2000, doneMs: 2500 });
  expect(courses.get('2')).toMatchObject({ copiedMs: 2000, lockedMs: 2500, doneMs: 3000 });
  expect(totalMs).toBe(3000);
});

test('different networks stop at the same time', () => {
  expect(simulate([job('1'), job('2', { network: 'y' })], speeds()).totalMs).toBe(2500);
});

test('a slow destination does not slow the others', () => {
  const slow = speeds({ destinationBytesPerSecond: (host) => (host === 'a' ? 100 : 1000) });
  const { courses } = simulate([job('1'), job('2', { destination: 'b', network: 'y' })], slow);
  expect(courses.get('1')?.copiedMs).toBe(10_000);
  expect(courses.get('2')?.copiedMs).toBe(2000);
});

test('a cold move copies under the lock', () => {
  const cold = job('1', { copyBytes: 0, lockedBytes: 1000 });
  expect(simulate([cold, { ...cold, machineId: '2' }], speeds()).totalMs).toBe(3000);
});

test('what is under way goes on from where it is', () => {
  const jobs = [
    job('1', { phase: 'locked', copyBytes: 0 }),
    job('2', { phase: 'queued', copyBytes: 0 }),
    job('3', { phase: 'copying', copyBytes: 500 }),
  ];
  const { courses } = simulate(jobs, speeds());
  expect(courses.get('1')?.doneMs).toBe(500);
  expect(courses.get('2')?.doneMs).toBe(1000);
  expect(courses.get('3')).toMatchObject({ copiedMs: 500, doneMs: 1500 });
});

test('limits and locks are kept at any time, and all get done', () => {
  const drawn = fc.record({
    network: fc.constantFrom('x', 'y', 'z'),
    destination: fc.constantFrom('a', 'b', 'c'),
    copyBytes: fc.nat(5000),
    copyMs: fc.nat(500),
    lockedBytes: fc.nat(500),
    lockedMs: fc.nat(900),
  });
  const limits = {
    perSource: fc.integer({ min: 1, max: 4 }),
    perDestination: fc.integer({ min: 1, max: 3 }),
    total: fc.integer({ min: 1, max: 5 }),
  };
  fc.assert(
    fc.property(fc.array(drawn, { maxLength: 20 }), fc.record(limits), (some, given) => {
      const jobs = some.map((each, index) => job(`m${index}`, each));
      const { courses, totalMs } = simulate(jobs, speeds(given));
      for (const { machineId, network } of jobs) {
        const { beginsMs, copiedMs, lockedMs, doneMs } = courses.get(machineId)!;
        expect(beginsMs <= copiedMs && copiedMs <= lockedMs && lockedMs <= doneMs && doneMs <= totalMs).toBe(true);
        const middleMs = (lockedMs + doneMs) / 2;
        const during = (other: Job) => {
          const course = courses.get(other.machineId)!;
          return course.lockedMs < middleMs && middleMs < course.doneMs;
        };
        expect(jobs.filter((other) => other.network === network && during(other)).length).toBeLessThanOrEqual(1);
        const underWay = jobs.filter((other) => {
          const course = courses.get(other.machineId)!;
          return course.beginsMs <= beginsMs && beginsMs < course.doneMs;
        });
        expect(underWay.length).toBeLessThanOrEqual(Math.min(given.perSource, given.total));
        for (const host of ['a', 'b', 'c']) {
          expect(underWay.filter(({ destination }) => destination === host).length).toBeLessThanOrEqual(
            given.perDestination,
          );
        }
      }
    }),
  );
});

test('what a copy takes besides its bytes shares no line with the others', () => {
  const { courses } = simulate([job('1', { copyMs: 400 }), job('2', { copyMs: 400, network: 'y' })], speeds());
  expect(courses.get('1')?.copiedMs).toBe(2400);
  expect(courses.get('2')?.copiedMs).toBe(2400);
});
