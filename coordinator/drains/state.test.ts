import { describe, expect, test } from 'vitest';
import { DrainMachineState, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { hasDrainEnded, nextOfDrain, nextOfMachine, stepOfMachine } from './state.ts';

const { WAITING, MOVING, MOVED, PARKED, GONE } = DrainMachineState;
const { RUNNING, PAUSED, CANCELLING, DONE, BLOCKED, CANCELLED } = DrainState;

describe('a Machine of a drain', () => {
  test.each([
    [WAITING, { begin: MOVING, park: PARKED, left: GONE }],
    [MOVING, { moved: MOVED, again: WAITING, park: PARKED, left: GONE }],
    [PARKED, { again: WAITING, left: GONE }],
    [MOVED, { back: WAITING }],
    [GONE, { back: WAITING }],
  ] as const)('from state %i has these ways and no others', (state, ways: Record<string, DrainMachineState>) => {
    for (const event of ['begin', 'moved', 'again', 'park', 'left', 'back'] as const) {
      expect(nextOfMachine(state, event)).toBe(ways[event]);
    }
  });

  test('has no other way, and that is our fault', () => {
    expect(() => stepOfMachine(MOVED, 'begin')).toThrow(expect.objectContaining({ reason: 'internal' }));
  });
});

describe('a drain', () => {
  test.each([
    [RUNNING, { pause: PAUSED, resume: RUNNING, cancel: CANCELLING, empty: DONE, stuck: BLOCKED }],
    [PAUSED, { pause: PAUSED, resume: RUNNING, cancel: CANCELLING, empty: DONE, stuck: BLOCKED }],
    [CANCELLING, { cancel: CANCELLING, 'wound-up': CANCELLED }],
    [DONE, {}],
    [BLOCKED, { resume: RUNNING }],
    [CANCELLED, {}],
  ] as const)('from state %i has these ways and no others', (state, ways: Record<string, DrainState>) => {
    for (const event of ['pause', 'resume', 'cancel', 'empty', 'stuck', 'wound-up'] as const) {
      expect(nextOfDrain(state, event)).toBe(ways[event]);
    }
  });

  test('has ended when it is done, blocked or cancelled', () => {
    const ended = [RUNNING, PAUSED, CANCELLING, DONE, BLOCKED, CANCELLED].filter(hasDrainEnded);
    expect(ended).toEqual([DONE, BLOCKED, CANCELLED]);
  });
});
