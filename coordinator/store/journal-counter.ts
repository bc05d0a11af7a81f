/** What is remembered of an agent's journal. */
export interface KnownJournal {
  readonly id: string;
  /** Highest counter that was ever reported. */
  readonly highest: bigint;
  /** Counter of the last report. */
  readonly reported: bigint;
  /** It was below the highest once; stays until an operator says that the newer journal is back. */
  readonly wentBack: boolean;
}

/**
 * Compares an agent's journal with what is remembered: a counter below the highest means that an older copy was put back.
 * Such a copy does not become good by writing on until its counter has caught up, so only `acknowledge` clears the mark.
 */
export function judgeJournal(known: KnownJournal | undefined, id: string, counter: bigint): KnownJournal {
  if (known === undefined) return { id, highest: counter, reported: counter, wentBack: false };
  const wentBack = known.wentBack || counter < known.highest;
  const highest = !wentBack && counter > known.highest ? counter : known.highest;
  return { id: wentBack ? known.id : id, highest, reported: counter, wentBack };
}

/** An operator says that the newer journal is back: believed if the last report had reached the highest counter. */
export function acknowledge(known: KnownJournal): KnownJournal {
  return known.reported >= known.highest ? { ...known, highest: known.reported, wentBack: false } : known;
}
