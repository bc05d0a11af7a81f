import type { Journal } from '../journal.ts';

/**
 * The newest copy of a Machine's volume that this host kept when the Machine moved away, with its root, or null. A new copy of
 * the same size can begin with it; the kept one itself is only read.
 */
export function keptCopy(
  journal: Pick<Journal, 'handoversOf'>,
  machineId: string,
  sizeBytes: number,
): { readonly volumeId: string; readonly root: string } | null {
  if (sizeBytes === 0) return null;
  for (const row of journal.handoversOf(machineId)) {
    if (row.role !== 'source' || !('ticket' in row.state)) continue;
    // One that differs has other bytes than were signed for, whatever an operator said of it.
    if (row.state.step === 'parked' || 'accepted' in row.state || row.detail.volumeSizeBytes !== sizeBytes) continue;
    return { volumeId: row.detail.sourceVolumeId, root: row.state.ticket.root };
  }
  return null;
}
