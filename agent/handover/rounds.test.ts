import { describe, expect, it } from 'vitest';
import {
  isWorthARound,
  judge,
  newNote,
  type PrecopyNote,
  predictFinalMs,
  type Round,
  rateOf,
  withRound,
} from './rounds.ts';

const mib = 1024 ** 2;

/** Rounds with these changed MiB, copied at 100 MiB/s, one right after the other. */
function rounds(...changedMib: number[]): Round[] {
  let askedAtMs = 0;
  return changedMib.map((changed, index) => {
    const durationMs = changed * 10;
    const round = {
      number: index + 1,
      changedBytes: changed * mib,
      bytesTransferred: changed * mib,
      bytesResumed: 0,
      durationMs,
      snapshotMs: 1,
      askedAtMs,
    };
    askedAtMs += durationMs;
    return round;
  });
}

const nowAfter = (made: readonly Round[]) => made.at(-1)!.askedAtMs + made.at(-1)!.durationMs;
const verdict = (made: readonly Round[], budgetMs = 300) =>
  judge(made, budgetMs, predictFinalMs(made, 'snapshots', 0, nowAfter(made))).ended;

describe('the rounds', () => {
  it('go on until what is left fits the budget', () => {
    // A Machine that writes a tenth of what is copied.
    expect(verdict(rounds(1000))).toBe('');
    expect(verdict(rounds(1000, 100))).toBe('fits');
    expect(verdict(rounds(1000, 100), 100)).toBe('');
    expect(verdict(rounds(1000, 100, 10), 100)).toBe('fits');
  });

  it('never end after the first, which says nothing about what the Machine writes', () => {
    expect(verdict(rounds(1))).toBe('');
    expect(verdict(rounds(1, 0))).toBe('fits');
  });

  it('end when they do not shrink, or when there were enough', () => {
    expect(verdict(rounds(1000, 900))).toBe('not_shrinking');
    expect(verdict(rounds(1000, 400, 390))).toBe('not_shrinking');
    const many = rounds(...Array.from({ length: 12 }, (_, index) => 1e6 * 0.7 ** index));
    expect(verdict(many)).toBe('not_shrinking');
  });
});

it('predicts by the rate that was measured, or by an assumed one', () => {
  expect(rateOf(rounds(1000))).toBe(100 * mib);
  expect(rateOf(rounds(1))).toBe(200 * mib);
  const made = rounds(1000, 100);
  // 100 MiB in 10 s is 10 MiB/s: in the 1 s of the last round 10 MiB, copied in 100 ms, and 40 ms besides.
  expect(predictFinalMs(made, 'snapshots', 0, nowAfter(made))).toBe(140);
  // One more second of waiting in line is as much again.
  expect(predictFinalMs(made, 'snapshots', 0, nowAfter(made) + 1000)).toBe(240);
  // Without snapshots the whole volume is read besides.
  expect(predictFinalMs(made, 'live', 800 * mib, nowAfter(made))).toBe(1140);
});

it('makes one more round while it waits in line, when much has changed and not too often', () => {
  const note: PrecopyNote = { ...newNote, mode: 'snapshots', rounds: rounds(1000, 100), ended: 'fits' };
  const worth = (waitedMs: number, given = note) => {
    const nowMs = nowAfter(note.rounds) + waitedMs;
    return isWorthARound(given, 300, predictFinalMs(given.rounds, 'snapshots', 0, nowMs), nowMs);
  };
  expect(worth(1000)).toBe(false);
  expect(worth(3000)).toBe(false); // much has changed, but the snapshot is not old enough
  expect(worth(10_000)).toBe(true);
  expect(worth(10_000, { ...note, ended: 'not_shrinking' })).toBe(false);
  expect(worth(10_000, { ...note, ended: 'no_room' })).toBe(false);
});

it('keeps the first and the newest rounds', () => {
  let note = newNote;
  for (const round of rounds(...Array.from({ length: 100 }, () => 1))) note = withRound(note, round);
  expect(note.rounds).toHaveLength(32);
  expect([note.rounds[0]!.number, note.rounds.at(-1)!.number]).toEqual([1, 100]);
});
