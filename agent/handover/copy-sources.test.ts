import { expect, it } from 'vitest';
import { createLog } from '../../shared/log.ts';
import type { HandoverRow } from '../journal.ts';
import { CopySources, type VolumeSource } from './copy-sources.ts';
import type { SourceRow } from './handovers.ts';
import { keptCopy } from './kept-copy.ts';

const ticket = { root: 'r1' };

function row(migrationId: string, step: string, more: object = {}): SourceRow {
  const state = step === 'relinquished' || step === 'tombstoned' || step === 'parked' ? { step, ticket } : { step };
  const detail = { sourceVolumeId: 'vol', volumeSizeBytes: 4096, ...more };
  return { migrationId, machineId: 'm', role: 'source', state, detail } as never;
}

function setUp({ stuck = '' } = {}) {
  const rows = new Map<string, SourceRow>();
  const did: string[] = [];
  const left = [{ name: 'mig_1-1' }, { name: 'mig_2-1' }];
  const sources = new CopySources({
    handovers: { row: (id) => rows.get(id) },
    open: async ({ migrationId }) => {
      did.push(`open ${migrationId}`);
      return {
        openExport: async (snapshot: string) => did.push(`export ${snapshot}`),
        root: async () => 'r1',
        end: async (keepAs?: string) => {
          did.push(`end ${migrationId} ${keepAs ?? '-'}`);
        },
      } as never as VolumeSource;
    },
    volumes: {
      list: async () => ({ volumes: [{ volumeId: 'vol' }], strange: [] }) as never,
      snapshots: async () => left as never,
      dropSnapshot: async (_: string, name: string) => {
        if (name === stuck) throw new Error('input/output error');
        did.push(`drop ${name}`);
      },
    },
    log: createLog('agent', 'silent'),
  });
  const at = (migrationId: string, step: string) => {
    rows.set(migrationId, row(migrationId, step));
    return rows.get(migrationId)!;
  };
  return { sources, did, at };
}

it('opens one source for a migration, whoever asks', async () => {
  const { sources, did, at } = setUp();
  const offered = at('mig_1', 'offered');
  await Promise.all([sources.of(offered), sources.of(offered), sources.root(offered, AbortSignal.timeout(1000))]);
  await sources.openExport('mig_1', 's1');
  expect(did).toEqual(['open mig_1', 'export s1']);
});

it('ends with its migration, once: with the sums of a volume that was given up, without those of one that runs on', async () => {
  const { sources, did, at } = setUp();
  for (const id of ['mig_1', 'mig_2', 'mig_3']) await sources.of(at(id, 'offered'));
  await sources.sweep();
  expect(did).toHaveLength(3);
  at('mig_1', 'aborted');
  at('mig_2', 'tombstoned');
  at('mig_3', 'relinquished');
  await sources.sweep();
  await sources.sweep();
  await sources.end(at('mig_2', 'tombstoned'));
  expect(did.slice(3)).toEqual(['end mig_1 -', 'end mig_2 r1']);
  await expect(sources.openExport('mig_1', 's1')).rejects.toMatchObject({ reason: 'unknown_export' });
});

it('remembers an end for as long as its hand-over may ask for it again', async () => {
  const { sources, did, at } = setUp();
  for (const id of ['mig_1', 'mig_2', 'mig_3']) await sources.end(at(id, 'relinquished'));
  await sources.end(at('mig_1', 'relinquished'));
  await sources.sweep();
  expect(sources.endedCount).toBe(3);
  at('mig_1', 'settled');
  at('mig_2', 'parked');
  at('mig_3', 'aborted');
  await sources.sweep();
  // The Machine of the third one is not up again.
  expect(sources.endedCount).toBe(1);
  expect(did.filter((what) => what.startsWith('end'))).toHaveLength(3);
});

it('drops at the start what a killed agent left, and nothing that a migration needs', async () => {
  const { sources, did, at } = setUp();
  await sources.recover([at('mig_1', 'stopped'), at('mig_2', 'aborted')]);
  expect(did).toEqual(['drop mig_2-1']);
});

it('drops the other snapshots when one cannot be dropped', async () => {
  const { sources, did } = setUp({ stuck: 'mig_1-1' });
  await sources.recover([]);
  expect(did).toEqual(['drop mig_2-1']);
});

it('begins a copy with the newest kept one of the same size, never with a parked one', () => {
  const find = (...rows: HandoverRow[]) => keptCopy({ handoversOf: () => rows }, 'm', 4096);
  const kept = { volumeId: 'vol', root: 'r1' };
  expect(find(row('mig_3', 'tombstoned'))).toEqual(kept);
  expect(find(row('mig_3', 'relinquished'))).toEqual(kept);
  expect(find(row('mig_4', 'offered'), row('mig_3', 'tombstoned'))).toEqual(kept);
  expect(find(row('mig_3', 'parked'))).toBeNull();
  const accepted = row('mig_3', 'tombstoned');
  expect(find({ ...accepted, state: { ...accepted.state, accepted: {} } } as never)).toBeNull();
  expect(find(row('mig_3', 'tombstoned', { volumeSizeBytes: 8192 }))).toBeNull();
  expect(find(row('mig_3', 'aborted'), row('mig_2', 'returned'))).toBeNull();
  expect(keptCopy({ handoversOf: () => [row('mig_3', 'tombstoned')] }, 'm', 0)).toBeNull();
});
