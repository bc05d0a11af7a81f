/**
 * Who may start a Machine, told from what is on this host's disk alone.
 *
 * An agent writes ownership down twice: in its journal (`Placement`) and, outside the journal, in a marker file beside
 * each volume (`Marker`; a Machine without a volume has the same file alone). The order of the two writes is always
 *
 *     journal transaction  →  marker (rename, then fsync of the directory)  →  anything seen outside this host
 *
 * so the marker never runs ahead of the journal. After a crash between the two the journal is ahead: finish the rename.
 * If the marker is ahead, the journal was put back to an older copy: start nothing, sign nothing, say so.
 *
 * Both are ranked on one scale: owning epoch e, then having given epoch e up, then owning a higher epoch. This works because the
 * epoch rises each time that a Machine comes back to run after it was held for a hand-over (abort, decline, move back).
 * Markers outlive their volumes: deleting a volume's bytes leaves its marker file.
 */

/** What the journal says about one Machine on this host. Never removed: it holds the highest epoch ever owned here. */
export type Placement =
  | { readonly kind: 'none' }
  | { readonly kind: 'owner'; readonly epoch: number }
  | {
      readonly kind: 'relinquished';
      readonly epoch: number;
      readonly migrationId: string;
      readonly destination: string;
    }
  | { readonly kind: 'tombstone'; readonly epoch: number; readonly migrationId: string; readonly destination: string };

/** What the file beside one volume says. `receiving`: a copy being filled for that epoch; nobody's yet. */
export interface Marker {
  readonly state: 'receiving' | 'owned' | 'relinquished';
  readonly epoch: number;
}

/** The highest of a Machine's markers on this host that speaks of ownership. */
export interface Seal {
  readonly state: 'owned' | 'relinquished';
  readonly epoch: number;
}

export type Agreement =
  | { readonly kind: 'agree' }
  /** A crash came between the two writes: write this marker now, then go on. */
  | { readonly kind: 'finish'; readonly marker: Seal }
  /** The journal went back. */
  | { readonly kind: 'journal-behind'; readonly reason: string };

export type MayStart = { readonly allowed: true } | { readonly allowed: false; readonly reason: string };

/**
 * Copies whose marker says `receiving` though no row is filling them: their row declined, or the journal went back. To be run at
 * agent start before any order is answered; the markers go, then the bytes.
 * @param receiving volume IDs whose marker says `receiving`
 * @param wanted volume IDs of all rows that are `prepared` or `verified`
 */
export function strayCopies(receiving: readonly string[], wanted: ReadonlySet<string>): readonly string[] {
  return receiving.filter((volumeId) => !wanted.has(volumeId));
}

/** Highest ownership among all markers of one Machine on this host, or null. */
export function sealOf(markers: readonly Marker[]): Seal | null {
  let highest: Seal | null = null;
  for (const { state, epoch } of markers) {
    if (state === 'receiving') continue;
    const seal: Seal = { state, epoch };
    if (rankOfSeal(seal) > rankOfSeal(highest)) highest = seal;
  }
  return highest;
}

/** The marker that belongs to a placement, or null where the Machine never was. */
export function markerFor(placement: Placement): Seal | null {
  if (placement.kind === 'none') return null;
  return { state: placement.kind === 'owner' ? 'owned' : 'relinquished', epoch: placement.epoch };
}

/** Compares journal and markers of one Machine. Run at agent start for each Machine, before anything else. */
export function reconcile(placement: Placement, seal: Seal | null): Agreement {
  const wanted = markerFor(placement);
  const ahead = rankOfSeal(wanted) - rankOfSeal(seal);
  if (ahead === 0) return { kind: 'agree' };
  if (ahead > 0 && wanted !== null) return { kind: 'finish', marker: wanted };
  return {
    kind: 'journal-behind',
    reason: `the journal says ${inWords(wanted)}, but the marker beside the volume says ${inWords(seal)}: the journal was put back to an older copy`,
  };
}

/**
 * The boot rule: an agent starts only a Machine that its journal owns, whose volume agrees, and that no hand-over holds.
 * @param heldBy the migration whose source row is `stopping` or `stopped` for this Machine, or null
 * @param journalWentBack the coordinator remembers a higher journal counter than this journal has
 */
export function mayStart(
  placement: Placement,
  seal: Seal | null,
  heldBy: string | null,
  journalWentBack: boolean,
): MayStart {
  if (journalWentBack)
    return no("this host's journal went back to an older copy; restore the newest journal or remove the host");
  if (placement.kind === 'none') return no('this host does not own the Machine');
  if (placement.kind !== 'owner') {
    return no(`this host gave the Machine up to ${placement.destination} by migration ${placement.migrationId}`);
  }
  const agreement = reconcile(placement, seal);
  if (agreement.kind === 'journal-behind') return no(agreement.reason);
  if (agreement.kind === 'finish') return no('the marker beside the volume is not renamed yet');
  if (heldBy !== null) return no(`migration ${heldBy} holds the Machine stopped`);
  return { allowed: true };
}

function rankOfSeal(seal: Seal | null): number {
  if (seal === null) return -1;
  return seal.epoch * 2 + (seal.state === 'relinquished' ? 1 : 0);
}

function inWords(seal: Seal | null): string {
  if (seal === null) return 'never owned here';
  return seal.state === 'owned' ? `owned at epoch ${seal.epoch}` : `given up after epoch ${seal.epoch}`;
}

function no(reason: string): MayStart {
  return { allowed: false, reason };
}
