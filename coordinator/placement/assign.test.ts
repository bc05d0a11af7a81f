import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { assign, type Seeker } from './assign.ts';
import { moveOrder, nextToBegin, noLoad, withMove } from './order.ts';
import { less, type Room } from './room.ts';
import { needLike, siteLike, sitesLike } from './testing.ts';

const seeker = (machineId: string, room: Partial<Room>, app = 'shop'): Seeker => ({
  machineId,
  need: needLike({ app, room }),
});
const withMemory = (id: string, memoryMb: number) => siteLike(id, { left: { ...siteLike(id).total, memoryMb } });

describe('places for a whole host', () => {
  test('Machines of an app are spread', () => {
    const assigned = assign(
      [seeker('1', {}), seeker('2', {}), seeker('3', {})],
      sitesLike(siteLike('a'), siteLike('b'), siteLike('c')),
    );
    expect(new Set([...assigned.values()].map(({ site }) => site))).toEqual(new Set(['a', 'b', 'c']));
  });

  test('the big one gets the host that only it fits', () => {
    const seekers = [seeker('1', { memoryMb: 100 }), seeker('2', { memoryMb: 100 }), seeker('3', { memoryMb: 1000 })];
    const assigned = assign(seekers, sitesLike(withMemory('big', 1000), withMemory('small', 200)));
    expect([...assigned].map(([id, { site }]) => [id, site])).toEqual(
      expect.arrayContaining([
        ['3', 'big'],
        ['1', 'small'],
        ['2', 'small'],
      ]),
    );
  });

  test('where spreading leaves one without a place they are packed tightly instead', () => {
    const seekers = [
      seeker('1', { memoryMb: 400 }),
      seeker('2', { memoryMb: 400 }),
      seeker('3', { memoryMb: 200 }),
      seeker('4', { memoryMb: 200 }),
      seeker('5', { memoryMb: 600 }),
    ];
    const sites = sitesLike(withMemory('a', 1000), withMemory('b', 800));
    expect([...assign(seekers, sites).values()].filter(({ site }) => site === undefined)).toEqual([]);
  });

  test('one without a place is told of every host; the rest gets theirs', () => {
    const assigned = assign(
      [seeker('1', { memoryMb: 9000 }), seeker('2', { memoryMb: 10 })],
      sitesLike(siteLike('a'), siteLike('b')),
    );
    expect(assigned.get('1')?.site).toBeUndefined();
    expect([...assigned.get('1')!.refused.keys()].sort()).toEqual(['a', 'b']);
    expect(assigned.get('2')?.site).toBeDefined();
  });

  test('no room is ever promised twice, and no host takes more than it has', () => {
    const room = fc.record({ cpuShares: fc.nat(64), memoryMb: fc.nat(4096), diskBytes: fc.nat(60 * 1024 ** 3) });
    fc.assert(
      fc.property(
        fc.array(room, { maxLength: 30 }),
        fc.array(room, { minLength: 1, maxLength: 5 }),
        (wanted, given) => {
          const sites = sitesLike(...given.map((left, index) => siteLike(`h${index}`, { left })));
          const seekers = wanted.map((each, index) => seeker(`m${index}`, each, `app${index % 3}`));
          const assigned = assign(seekers, sites);
          expect(assigned.size).toBe(seekers.length);
          for (const { id, left } of sites.values()) {
            const there = seekers.filter(({ machineId }) => assigned.get(machineId)?.site === id);
            const rest = there.reduce((sum, { need }) => less(sum, need.room), left);
            for (const key of ['cpuShares', 'memoryMb', 'diskBytes'] as const) {
              if (there.some(({ need }) => need.room[key] > 0)) expect(rest[key]).toBeGreaterThanOrEqual(0);
            }
          }
          expect(assign([...seekers].reverse(), sites)).toEqual(assigned);
        },
      ),
    );
  });
});

describe('the order of moves', () => {
  const movable = (machineId: string, network: string, bytes: number) => ({ machineId, network, bytes });

  test('networks take turns, the longest line first; within a network the small ones go first', () => {
    const machines = [
      movable('1', 'x', 30),
      movable('2', 'x', 10),
      movable('3', 'x', 20),
      movable('4', 'a', 5),
      movable('5', 'a', 1),
    ];
    expect(moveOrder(machines).map(({ machineId }) => machineId)).toEqual(['2', '5', '3', '4', '1']);
  });

  test('is complete and the same for any order given', () => {
    const machine = fc.record({ machineId: fc.uuid(), network: fc.constantFrom('a', 'b', 'c'), bytes: fc.nat(9) });
    fc.assert(
      fc.property(fc.uniqueArray(machine, { selector: ({ machineId }) => machineId }), (machines) => {
        const ordered = moveOrder(machines);
        expect([...ordered].map(({ machineId }) => machineId).sort()).toEqual(
          machines.map(({ machineId }) => machineId).sort(),
        );
        expect(moveOrder([...machines].reverse())).toEqual(ordered);
      }),
    );
  });

  test('the next to begin is of the network with the fewest under way, within every limit', () => {
    const limits = { perSource: 3, perDestination: 1, total: 4 };
    const one = { network: 'x', destination: 'a' };
    const load = withMove(noLoad, one);
    const waiting = [
      { network: 'x', destination: 'b' },
      { network: 'y', destination: 'a' },
      { network: 'z', destination: 'c' },
    ];
    expect(nextToBegin(waiting, load, limits)).toBe(waiting[2]);
    expect(nextToBegin(waiting, load, { ...limits, perSource: 1 })).toBeUndefined();
    expect(nextToBegin(waiting, load, { ...limits, total: 1 })).toBeUndefined();
    expect(nextToBegin(waiting.slice(1, 2), load, limits)).toBeUndefined();
  });
});
