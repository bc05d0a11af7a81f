import { expect, it } from 'vitest';
import type { HandoverRow, VolumeRow } from '../journal.ts';
import { differenceOf, isDiffering, keptAfter, refuseDiffering } from './differing-copy.ts';

const ticket = { root: 'r1' };
const offer = { source: 'host-a', destination: 'host-b' };
const volume: VolumeRow = { id: 'vol', name: '', machineId: 'm', sizeBytes: 1, createdAtMs: 0, kept: null };

function row(migrationId: string, step: string, more: object = {}): HandoverRow {
  const state = { step, offer, ...(step === 'returned' ? {} : { ticket }), retainedRoot: 'r2' };
  return { migrationId, machineId: 'm', role: 'source', state, detail: { sourceVolumeId: 'vol' }, ...more } as never;
}

const after = (...rows: HandoverRow[]) => keptAfter({ handoversOf: () => rows }, volume);

it('finds the hand-over that left a volume, and none of another volume, of the other side or that came back', () => {
  expect(after(row('mig_1', 'relinquished'))?.migrationId).toBe('mig_1');
  expect(after(row('mig_1', 'returned'))).toBeNull();
  expect(after(row('mig_1', 'tombstoned', { role: 'destination' }))).toBeNull();
  expect(after(row('mig_1', 'tombstoned', { detail: { sourceVolumeId: 'other' } }))).toBeNull();
  expect(keptAfter({ handoversOf: () => [row('mig_1', 'tombstoned')] }, { ...volume, machineId: '' })).toBeNull();
});

it('tells a copy that differs, and refuses to let it go with what would be lost and how to say so', () => {
  for (const step of ['relinquished', 'settled', 'tombstoned'])
    expect(isDiffering(after(row('mig_1', step)))).toBe(false);
  const differing = after(row('mig_1', 'parked'));
  if (!isDiffering(differing)) throw new Error('it differs');
  expect(differenceOf(differing)).toBe(
    'it is what host-a kept of Machine m after mig_1: read again its root is r2, what moved to host-b has r1',
  );
  expect(() => refuseDiffering(differing)).toThrow(
    expect.objectContaining({
      reason: 'root_mismatch',
      facts: { migration: 'mig_1', machine: 'm', volume: 'vol' },
      message: expect.stringContaining('Bytes that only this copy has would be lost'),
      nextAction: expect.stringContaining('ferry volume destroy vol --force'),
    }),
  );
});
