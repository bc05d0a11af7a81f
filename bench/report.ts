/** The middle value; of two middle ones the mean. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return sorted.length % 2 === 1 ? sorted[Math.floor(middle)]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** One comparison of times, ours and what it is held against. */
export interface Comparison {
  readonly name: string;
  /** Medians in milliseconds. */
  readonly oursMs: number;
  readonly peer: string;
  /** Null where the peer is missing. */
  readonly peerMs: number | null;
  /** Ours over the peer's: lower is better. */
  readonly ratio: number | null;
  /** What is asked for; null for a peer that is only shown. */
  readonly ratioMax: number | null;
}

/** Builds a comparison from the runs of both sides; `allowMs` is taken off ours before the ratio. */
export function compare(
  name: string,
  ours: readonly number[],
  peer: { readonly name: string; readonly ms: readonly number[] },
  { ratioMax = null as number | null, allowMs = 0 } = {},
): Comparison {
  const oursMs = median(ours);
  const peerMs = peer.ms.length === 0 ? null : median(peer.ms);
  const ratio = peerMs === null ? null : Number((Math.max(0, oursMs - allowMs) / peerMs).toFixed(3));
  return { name, oursMs: Math.round(oursMs), peer: peer.name, peerMs: peerMs && Math.round(peerMs), ratio, ratioMax };
}

/** What a benchmark answers: a document for programs, a table for people. */
export interface Report {
  readonly json: unknown;
  readonly text: string;
}

/** The comparisons as a table, with the lines that say how they were made. */
export function reportOf(comparisons: readonly Comparison[], facts: Readonly<Record<string, unknown>>): Report {
  const rows = comparisons.map(({ name, oursMs, peer, peerMs, ratio, ratioMax }) => [
    name,
    `${oursMs} ms`,
    peerMs === null ? `${peer}: missing` : `${peer}: ${peerMs} ms`,
    ratio === null ? '-' : String(ratio),
    ratioMax === null ? '' : `at most ${ratioMax}`,
    ratio === null || ratioMax === null ? '' : ratio <= ratioMax ? 'reached' : 'MISSED',
  ]);
  const table = [['', 'ours', 'against', 'ratio', 'asked', ''], ...rows];
  const widths = table[0]!.map((_, column) => Math.max(...table.map((row) => row[column]!.length)));
  const lines = table.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join('  ')
      .trimEnd(),
  );
  const told = Object.entries(facts).map(([name, value]) => `${name}: ${JSON.stringify(value)}`);
  return { json: { ...facts, comparisons }, text: [...lines, '', ...told].join('\n') };
}
