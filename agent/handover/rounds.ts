/**
 * When the copy of a running Machine has done enough: pure functions over the rounds so far. Round k copies what the
 * Machine wrote during round k - 1, so with a write rate w and a copy rate R the rounds shrink by w/R, or never.
 */

/** One round of the copy of a running Machine. */
export interface Round {
  /** From 1. */
  readonly number: number;
  /** Bytes that had changed since the round before; of the first: bytes of data. */
  readonly changedBytes: number;
  readonly bytesTransferred: number;
  /** Bytes that an earlier, broken try of this round had brought. */
  readonly bytesResumed: number;
  readonly durationMs: number;
  /** Time that the snapshot took. */
  readonly snapshotMs: number;
  /** When its snapshot was asked for, by this host's clock. */
  readonly askedAtMs: number;
}

/** How a copy ended; '' while it goes on. */
export type PrecopyEnd = '' | 'fits' | 'not_shrinking' | 'no_room' | 'too_many_extents' | 'not_supported' | 'cold';

/** What an agent remembers of the copy of a running Machine, at its destination. */
export interface PrecopyNote {
  readonly mode: string;
  readonly modeReason: string;
  /** Oldest first; the first and the newest ones. */
  readonly rounds: readonly Round[];
  readonly ended: PrecopyEnd;
  readonly endedReason: string;
  readonly predictedFinalMs: number;
  /** Set once the stopped volume is through. */
  readonly finalBytes: number | null;
  /** Root of the kept copy that this one began with; '' without one. */
  readonly baseRoot: string;
}

export const newNote: PrecopyNote = {
  mode: '',
  modeReason: '',
  rounds: [],
  ended: '',
  endedReason: '',
  predictedFinalMs: 0,
  finalBytes: null,
  baseRoot: '',
};

/** Rounds that a copy makes at most before it is stopped whatever is left. */
const roundsMax = 12;
/** A round that is not smaller than this share of the one before did not help. */
const shrinkShare = 0.8;
/** Rounds kept: the first, and the newest. */
const roundsKept = 32;
/** What each last copy takes besides its bytes: the map, the sync, reading it back, the root. */
const fixedMs = 40;
/** Assumed where nothing was measured: a round below this size says little about the rate. */
const measuredBytesMin = 4 * 1024 ** 2;
const assumedBytesPerSecond = 200 * 1024 ** 2;
/** Rate at which a source without snapshots reads its stopped volume to find what changed. */
const readBytesPerSecond = 800 * 1024 ** 2;
/** While a migration waits in line, no snapshot is taken more often than this. */
const repeatMsMin = 5_000;

/** Copy rate, from the rounds that were large enough to tell. */
export function rateOf(rounds: readonly Round[]): number {
  const telling = rounds.filter((round) => round.bytesTransferred >= measuredBytesMin && round.durationMs > 0);
  if (telling.length === 0) return assumedBytesPerSecond;
  return Math.max(...telling.map((round) => (round.bytesTransferred / round.durationMs) * 1000));
}

/** Time that the last copy would take if the Machine stopped now, in milliseconds. */
export function predictFinalMs(rounds: readonly Round[], mode: string, allocatedBytes: number, nowMs: number): number {
  const readMs = mode === 'live' ? (allocatedBytes / readBytesPerSecond) * 1000 : 0;
  return Math.round(fixedMs + readMs + (changedNow(rounds, nowMs) / rateOf(rounds)) * 1000);
}

/** Bytes that have changed since the last snapshot, as far as the rounds can tell. */
function changedNow(rounds: readonly Round[], nowMs: number): number {
  const last = rounds.at(-1);
  if (last === undefined) return 0;
  const before = rounds.at(-2);
  // After one round nobody knows how fast the Machine writes: all may have changed again.
  if (before === undefined) return last.changedBytes;
  const bytesPerMs = last.changedBytes / Math.max(1, last.askedAtMs - before.askedAtMs);
  return bytesPerMs * Math.max(0, nowMs - last.askedAtMs);
}

/** Whether the rounds have done enough, and why; `ended` is '' when another one is to be made. */
export function judge(
  rounds: readonly Round[],
  budgetMs: number,
  predictedMs: number,
): { readonly ended: '' | 'fits' | 'not_shrinking'; readonly reason: string } {
  const [before, last] = [rounds.at(-2), rounds.at(-1)];
  if (last === undefined) return { ended: '', reason: '' };
  const said = `the last copy is predicted to take ${predictedMs} ms, the budget is ${budgetMs} ms`;
  // The first round alone says nothing about what the Machine writes.
  if (before !== undefined && predictedMs <= budgetMs) return { ended: 'fits', reason: said };
  if (before !== undefined && last.changedBytes >= before.changedBytes * shrinkShare) {
    const text = `round ${last.number} found ${last.changedBytes} changed bytes, the one before ${before.changedBytes}`;
    return { ended: 'not_shrinking', reason: `${text}: the Machine writes as fast as it is copied; ${said}` };
  }
  if (last.number >= roundsMax) return { ended: 'not_shrinking', reason: `${roundsMax} rounds were made; ${said}` };
  return { ended: '', reason: '' };
}

/** Whether a copy that had ended is worth one more round now. */
export function isWorthARound(note: PrecopyNote, budgetMs: number, predictedMs: number, nowMs: number): boolean {
  const last = note.rounds.at(-1);
  if (last === undefined || note.ended !== 'fits') return false;
  return predictedMs > budgetMs && nowMs - last.askedAtMs >= repeatMsMin;
}

/** The note with one more round; what lies between the first and the newest is forgotten. */
export function withRound(note: PrecopyNote, round: Round): PrecopyNote {
  const rounds = [...note.rounds, round];
  const kept = rounds.length > roundsKept ? [rounds[0]!, ...rounds.slice(1 - roundsKept)] : rounds;
  return { ...note, rounds: kept };
}
