import { type Entry, hashOf } from './ledger.ts';

const noHash = '0'.repeat(64);
const requestMsMax = 30_000;
const problemsMax = 20;

/** What was found. */
export interface Verdict {
  readonly acknowledged: number;
  /** Acknowledged entries that are not in the ledger as they were acknowledged. */
  readonly lost: number;
  /** Entries in the ledger. */
  readonly entries: number;
  /** What is wrong, in words; at most 20. */
  readonly problems: readonly string[];
}

/**
 * Reads the whole ledger at `url` and checks it against what it acknowledged: each acknowledged entry is there, once, in
 * the order of the acknowledgements, with its payload; and each entry's checksum and place in the chain are right.
 */
export async function verifyLedger(url: string, acknowledgements: readonly Entry[]): Promise<Verdict> {
  const problems: string[] = [];
  const complain = (problem: string) => {
    if (problems.length < problemsMax) problems.push(problem);
  };
  const wanted = new Map(acknowledgements.map((entry) => [entry.key, entry]));
  if (wanted.size < acknowledgements.length) complain('a key was acknowledged twice');
  const keys = new Set<string>();
  const found = new Set<string>();
  let previous = noHash;
  let index = 0;
  for await (const entry of entriesOf(url)) {
    if (entry.index !== index || entry.previous !== previous) complain(`entry ${index} does not follow the one before`);
    if (hashOf(entry) !== entry.hash) complain(`entry ${index} is broken: its checksum is wrong`);
    if (keys.has(entry.key)) complain(`entry ${index} repeats the key ${entry.key}`);
    keys.add(entry.key);
    const acknowledged = wanted.get(entry.key);
    if (acknowledged?.index === index && acknowledged.payload === entry.payload && acknowledged.hash === entry.hash) {
      found.add(entry.key);
    }
    previous = entry.hash;
    index += 1;
  }
  for (let at = 1; at < acknowledgements.length; at += 1) {
    const [before, after] = [acknowledgements[at - 1]!, acknowledgements[at]!];
    if (after.index <= before.index) complain(`${after.key} was acknowledged after ${before.key} but stands before it`);
  }
  const lost = acknowledgements.filter(({ key }) => !found.has(key));
  for (const { key, index: at } of lost) complain(`entry ${at} (${key}) was acknowledged and is not there`);
  return { acknowledged: acknowledgements.length, lost: lost.length, entries: index, problems };
}

/** "acknowledged N, lost 0", and what is wrong. */
export function renderVerdict({ acknowledged, lost, entries, problems }: Verdict): string {
  const wrong = problems.map((problem) => `\n  ${problem}`).join('');
  return `acknowledged ${acknowledged}, lost ${lost} (ledger of ${entries} entries, all read back and checked)${wrong}`;
}

async function* entriesOf(url: string): AsyncIterable<Entry> {
  for (let from = 0; ; ) {
    const response = await fetch(`${url}/entries?from=${from}`, { signal: AbortSignal.timeout(requestMsMax) });
    if (!response.ok) throw new Error(`the ledger cannot be read from entry ${from} on: ${await response.text()}`);
    const { entries } = (await response.json()) as { entries: Entry[] };
    if (entries.length === 0) return;
    yield* entries;
    from += entries.length;
  }
}
