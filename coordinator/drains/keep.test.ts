import { fromBinary, toBinary } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { DrainMachineState, DrainSchema, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import type { DrainRecord, Store } from '../store/store.ts';
import { keptForm, restoreDrain } from './keep.ts';
import { draftLike } from './testing.ts';

const { MOVED, PARKED } = DrainMachineState;

/** A store that knows these drains. */
function storeWith(...known: DrainRecord[]): { store: Store; created: DrainRecord[] } {
  const created: DrainRecord[] = [];
  const store = {
    drain: async (id: string) => known.find(({ drain }) => drain.id === id),
    createDrain: async (record: DrainRecord) => {
      created.push(record);
      return { kind: 'created' };
    },
  };
  return { store: store as unknown as Store, created };
}

test('what an agent keeps is enough to go on: what was ordered, what has moved, what is parked and why', async () => {
  const { drain } = draftLike([
    { machineId: 'm1', state: MOVED, migrationId: 'mig_1', refusedHosts: { h3: 'it is cordoned' } },
    { machineId: 'm2', state: PARKED, attempts: 3, reason: 'no room', nextAction: 'Free room.' },
  ]);
  const { store, created } = storeWith();
  expect(await restoreDrain(store, 'h1', keptForm(drain))).toBe(true);
  expect(created[0]).toMatchObject({ open: true, driver: '', drain: { id: 'drn_1', hostId: 'h1' } });
  expect(created[0]?.drain.machines[1]).toMatchObject({ state: PARKED, attempts: 3, reason: 'no room' });
  expect(created[0]?.drain.machines[0]).toMatchObject({ state: MOVED, migrationId: 'mig_1', refusedHosts: {} });
});

test('a drain that is known, has ended, or was cleared is not restored', async () => {
  const { drain, plan } = draftLike([]);
  const known = storeWith({ drain, plan, version: 1, open: true, driver: '' });
  expect(await restoreDrain(known.store, 'h1', keptForm(drain))).toBe(false);
  const { store, created } = storeWith();
  expect(await restoreDrain(store, 'h1', keptForm(draftLike([], { state: DrainState.DONE }).drain))).toBe(false);
  expect(await restoreDrain(store, 'h1', new Uint8Array())).toBe(false);
  expect(created).toEqual([]);
});

test('bytes that are no drain of that host are refused', async () => {
  const { store } = storeWith();
  const refusal = expect.objectContaining({ reason: 'invalid_argument', field: 'drain' });
  await expect(restoreDrain(store, 'h2', keptForm(draftLike([]).drain))).rejects.toEqual(refusal);
  await expect(restoreDrain(store, 'h1', new Uint8Array([255, 255, 255]))).rejects.toEqual(refusal);
});

test('a drain of very many Machines is kept without them: an agent keeps 1 MiB', () => {
  const many = Array.from({ length: 12_000 }, (_, index) => ({
    machineId: String(index).padStart(14, '0'),
    name: `machine-${index}`,
    app: 'a-rather-long-name-of-an-app',
    migrationId: 'mig_01ARZ3NDEKTSV4RRFFQ69G5FAV',
  }));
  const { drain } = draftLike(many);
  expect(toBinary(DrainSchema, drain).length).toBeGreaterThan(1024 * 1024);
  const kept = keptForm(drain);
  expect(kept.length).toBeLessThan(1024);
  expect(fromBinary(DrainSchema, kept)).toMatchObject({ id: 'drn_1', machines: [] });
});
