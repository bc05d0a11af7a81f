import { FerryError } from '../../shared/error.ts';
import type { Journal, VolumeRow } from '../journal.ts';
import type { SourceRow } from './handovers.ts';
import type { SourceState } from './source.ts';

/** A copy that its re-read has shown to differ from what moved. */
export type DifferingCopy = SourceRow & { readonly state: SourceState & { readonly step: 'parked' } };

/** The hand-over after which this host keeps a volume, or null. */
export function keptAfter(journal: Pick<Journal, 'handoversOf'>, volume: VolumeRow): SourceRow | null {
  const rows = volume.machineId === '' ? [] : journal.handoversOf(volume.machineId);
  const row = rows.find(
    ({ role, detail, state }) => role === 'source' && detail.sourceVolumeId === volume.id && 'ticket' in state,
  );
  return (row as SourceRow | undefined) ?? null;
}

/** Whether the copy that a hand-over left differs from what moved, and no operator has let it go. */
export function isDiffering(row: SourceRow | null): row is DifferingCopy {
  return row?.state.step === 'parked';
}

/** What is known of the difference, in words. */
export function differenceOf({ migrationId, machineId, state }: DifferingCopy): string {
  const { retainedRoot, ticket, offer } = state;
  return (
    `it is what ${offer.source} kept of Machine ${machineId} after ${migrationId}: read again its root is ${retainedRoot}, ` +
    `what moved to ${offer.destination} has ${ticket.root}`
  );
}

/** Throws root_mismatch: nobody has said that the difference is accepted. */
export function refuseDiffering(row: DifferingCopy): never {
  const volume = row.detail.sourceVolumeId;
  const nextAction =
    `Compare it with the Machine's volume ("ferry volume export"). If what moved is right: "ferry volume destroy ${volume} ` +
    `--force"; it is kept for the retention time even then. Else leave it: nothing deletes it.`;
  const text = `volume ${volume} differs from what moved: ${differenceOf(row)}. Bytes that only this copy has would be lost`;
  throw new FerryError('root_mismatch', text, {
    field: 'volume_id',
    nextAction,
    facts: { migration: row.migrationId, machine: row.machineId, volume },
  });
}
