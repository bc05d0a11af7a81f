// Longer than usual: all that every implementation of the store has to do.
import { create } from '@bufbuild/protobuf';
import { afterEach, describe, expect, test } from 'vitest';
import { HostCapacitySchema } from '../../proto/gen/ferry/v1/host_pb.ts';
import { MachineSchema } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationState, MigrationStrategy } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { newRecord } from '../migrations/record.ts';
import type { HostReport, LockRequest, MigrationRecord, Placement, Store } from './store.ts';

/** A store under test: each `open` sees what an earlier one wrote. */
export interface StoreFixture {
  open(): Promise<Store>;
  dispose(): Promise<void>;
}

const report = (id: string, counter: bigint, changes: Partial<HostReport> = {}): HostReport => ({
  id,
  region: 'ams',
  address: `${id}:1`,
  agentVersion: '0.1.0',
  capacity: create(HostCapacitySchema, { cpus: 4, memoryMb: 1024n, volumeFreeBytes: 1n << 40n }),
  capabilities: ['reflink'],
  journalId: 'j1',
  journalCounter: counter,
  cordoned: false,
  copyLimits: undefined,
  dnsAddress: '',
  notes: [],
  rememberedNumber: 0,
  atMs: 1000,
  ...changes,
});

const placement = (machineId: string, hostId: string, epoch: bigint, changes: Partial<Placement> = {}): Placement => ({
  machineId,
  hostId,
  epoch,
  network: 'alpha',
  app: 'shop',
  machine: create(MachineSchema, { id: machineId, epoch, name: `on-${hostId}` }),
  seenMs: 1000,
  ...changes,
});

const wish = (migrationId: string, changes: Partial<LockRequest> = {}): LockRequest => ({
  network: 'alpha',
  migrationId,
  machineId: 'm1',
  source: 'h1',
  destination: 'h2',
  sinceMs: 5,
  priority: 0,
  fenceAbove: 0n,
  ...changes,
});

const migration = (id: string, machineId = 'm1'): MigrationRecord =>
  newRecord({
    id,
    machineId,
    network: 'alpha',
    source: 'h1',
    destination: 'h2',
    strategy: MigrationStrategy.COLD,
    startDeadlineMs: 1000,
    overrideHosts: [],
    lockHolder: id,
    permitHosts: [],
    returns: '',
    term: 1n,
    nowMs: 1,
  });

/** Runs the suite on one implementation. */
export function describeStore(name: string, makeFixture: () => StoreFixture): void {
  describe(name, () => {
    const fixtures: StoreFixture[] = [];

    afterEach(async () => {
      for (const fixture of fixtures.splice(0)) await fixture.dispose();
    });

    const fixture = () => {
      const made = makeFixture();
      fixtures.push(made);
      return made;
    };
    const open = () => fixture().open();

    test('a network has one number for ever; an agent may remember it', async () => {
      const store = await open();
      const number = await store.networkNumber('alpha', 0);
      expect(number).toBeGreaterThan(0);
      expect(number).toBeLessThan(2 ** 32);
      expect(await store.networkNumber('alpha', 77)).toBe(number);
      expect(await store.networkNumber('beta', 77)).toBe(77);
      expect(await store.networkNumber('gamma', 77)).not.toBe(77);
      expect([...(await store.networks()).keys()]).toEqual(['alpha', 'beta', 'gamma']);
    });

    test('a host keeps its number; a removed one leaves it used', async () => {
      const store = await open();
      const { host } = await store.recordHeartbeat(report('h1', 1n));
      expect(host).toMatchObject({ id: 'h1', address: 'h1:1', capabilities: ['reflink'], lastHeartbeatMs: 1000 });
      expect(host.capacity?.memoryMb).toBe(1024n);
      expect((await store.recordHeartbeat(report('h1', 2n))).host.number).toBe(host.number);
      expect(await store.removeHost('h1')).toBe(true);
      expect(await store.removeHost('h1')).toBe(false);
      const again = await store.recordHeartbeat(report('h1', 3n, { rememberedNumber: host.number }));
      expect(again.host.number).not.toBe(host.number);
    });

    test('a journal counter that falls stays marked until an operator says that the newer journal is back', async () => {
      const store = await open();
      expect((await store.recordHeartbeat(report('h1', 10n))).knownCounter).toBe(0n);
      const fallen = await store.recordHeartbeat(report('h1', 9n));
      expect(fallen.knownCounter).toBe(10n);
      expect(fallen.host).toMatchObject({ journalWentBack: true, cordoned: true });
      expect((await store.recordHeartbeat(report('h1', 11n))).host.journalWentBack).toBe(true);
      await store.recordHeartbeat(report('h1', 8n));
      await store.setCordon('h1', false);
      expect(await store.host('h1')).toMatchObject({ journalWentBack: true, cordoned: true });
      await store.recordHeartbeat(report('h1', 12n));
      await store.setCordon('h1', false);
      expect(await store.host('h1')).toMatchObject({ journalWentBack: false, cordoned: false });
    });

    test('another journal with a lower counter went back too; with a higher one it is the new one', async () => {
      const store = await open();
      await store.recordHeartbeat(report('h1', 10n));
      expect((await store.recordHeartbeat(report('h1', 1n, { journalId: 'j2' }))).host.journalWentBack).toBe(true);
      await store.recordHeartbeat(report('h2', 10n));
      const higher = await store.recordHeartbeat(report('h2', 11n, { journalId: 'j2' }));
      expect(higher.host).toMatchObject({ journalWentBack: false, journalId: 'j2' });
    });

    test("a cordon is the store's; the agent's own counts for an unknown host", async () => {
      const store = await open();
      expect((await store.recordHeartbeat(report('h1', 1n, { cordoned: true }))).host.cordoned).toBe(true);
      expect(await store.setCordon('h1', false)).toBe(true);
      expect((await store.recordHeartbeat(report('h1', 2n, { cordoned: true }))).host.cordoned).toBe(false);
      expect(await store.setCordon('h9', true)).toBe(false);
    });

    test('the higher epoch wins in the directory', async () => {
      const store = await open();
      await store.putPlacement(placement('m1', 'h2', 2n));
      await store.putPlacement(placement('m1', 'h1', 1n));
      expect(await store.placement('m1')).toMatchObject({ hostId: 'h2', epoch: 2n, machine: { name: 'on-h2' } });
      await store.putPlacement(placement('m1', 'h3', 2n));
      expect((await store.placement('m1'))?.hostId).toBe('h3');
    });

    test('what a host no longer lists is forgotten, but not at once, and not while it is moved', async () => {
      const store = await open();
      const rows = ['m1', 'm2', 'm3', 'm4'].map((id) => placement(id, 'h1', 1n, { seenMs: id === 'm4' ? 5000 : 1000 }));
      await store.putPlacements('h1', rows, 0);
      await store.claimMigration(migration('mig_1', 'm3'));
      await store.putPlacements('h1', [placement('m1', 'h1', 1n, { seenMs: 6000 })], 5000);
      expect((await store.placements({})).map((row) => row.machineId)).toEqual(['m1', 'm3', 'm4']);
      await store.removePlacement('m4');
      expect(await store.placement('m4')).toBeUndefined();
    });

    test('placements are found by app, host and network', async () => {
      const store = await open();
      await store.putPlacement(placement('m1', 'h1', 1n));
      await store.putPlacement(placement('m2', 'h1', 1n, { app: 'bank', network: 'beta' }));
      await store.putPlacement(placement('m3', 'h2', 1n));
      const ids = async (filter: Parameters<Store['placements']>[0]) =>
        (await store.placements(filter)).map((row) => row.machineId);
      expect(await ids({ app: 'shop' })).toEqual(['m1', 'm3']);
      expect(await ids({ hostId: 'h1' })).toEqual(['m1', 'm2']);
      expect(await ids({ hostId: 'h1', network: 'alpha' })).toEqual(['m1']);
    });

    test('a lock is held by one; others stand in line, first come first served', async () => {
      const store = await open();
      const granted = await store.acquireLock(wish('mig_1'));
      expect(granted).toMatchObject({ kind: 'granted', lock: { migrationId: 'mig_1', machineId: 'm1', sinceMs: 5 } });
      expect(await store.acquireLock(wish('mig_1'))).toEqual(granted);
      const second = await store.acquireLock(wish('mig_2'));
      expect(second).toMatchObject({ kind: 'waiting', lock: { migrationId: 'mig_1' }, ahead: [] });
      expect(await store.acquireLock(wish('mig_3'))).toMatchObject({ ahead: [{ migrationId: 'mig_2' }] });
      expect((await store.lockWaiters('alpha')).map((waiter) => waiter.migrationId)).toEqual(['mig_2', 'mig_3']);
      expect(await store.releaseLock('alpha', 'mig_1')).toBe(true);
      expect(await store.acquireLock(wish('mig_3'))).toMatchObject({ kind: 'waiting', lock: undefined });
      expect(await store.acquireLock(wish('mig_2'))).toMatchObject({ kind: 'granted' });
      expect(await store.lockWaiters('alpha')).toMatchObject([{ migrationId: 'mig_3' }]);
    });

    test('release is compare-and-delete, and leaves the line', async () => {
      const store = await open();
      await store.acquireLock(wish('mig_1'));
      await store.acquireLock(wish('mig_2'));
      expect(await store.releaseLock('alpha', 'mig_2')).toBe(false);
      expect(await store.lockWaiters('alpha')).toEqual([]);
      expect((await store.lock('alpha'))?.migrationId).toBe('mig_1');
      expect(await store.releaseLock('alpha', 'mig_1')).toBe(true);
      expect(await store.releaseLock('alpha', 'mig_1')).toBe(false);
      expect(await store.locks()).toEqual([]);
    });

    test('fences rise with each grant of a network, above any floor, also over a restart', async () => {
      const made = fixture();
      const store = await made.open();
      const fence = async (id: string, fenceAbove = 0n, network = 'alpha', from = store) => {
        const answer = await from.acquireLock(wish(id, { fenceAbove, network }));
        return answer.kind === 'granted' ? answer.lock.fence : undefined;
      };
      const first = (await fence('mig_1'))!;
      expect(await fence('mig_1', first)).toBe(first + 1n);
      expect(await fence('mig_1', 40n)).toBe(41n);
      expect(await fence('mig_1', 12n)).toBe(41n);
      expect((await store.lock('alpha'))?.sinceMs).toBe(5);
      await store.releaseLock('alpha', 'mig_1');
      expect(await fence('mig_2')).toBe(42n);
      expect(await fence('mig_3', 0n, 'beta')).toBe(1n);
      await store.releaseLock('alpha', 'mig_2');
      await store.close();
      expect(await fence('mig_4', 0n, 'alpha', await made.open())).toBe(43n);
    });

    test('a lock survives a restart: only its migration or an operator frees it', async () => {
      const made = fixture();
      const store = await made.open();
      await store.acquireLock(wish('mig_1'));
      await store.close();
      expect(await (await made.open()).locks()).toMatchObject([{ network: 'alpha', migrationId: 'mig_1' }]);
    });

    test('one migration a Machine; a move back takes the claim over', async () => {
      const store = await open();
      expect(await store.claimMigration(migration('mig_1'))).toEqual({ kind: 'claimed' });
      expect(await store.claimMigration(migration('mig_1'))).toEqual({ kind: 'claimed' });
      expect(await store.claimMigration(migration('mig_2'))).toEqual({ kind: 'busy', migrationId: 'mig_1' });
      expect(await store.claimMigration(migration('mig_3', 'm2'))).toEqual({ kind: 'claimed' });
      expect(await store.claimMigration(migration('mig_4'), { takesOver: 'mig_1' })).toEqual({ kind: 'claimed' });
      expect(await store.migration('mig_1')).toMatchObject({ claim: false });
      expect(await store.claimMigration(migration('mig_5'))).toEqual({ kind: 'busy', migrationId: 'mig_4' });
      expect(await store.migration('mig_5')).toBeUndefined();
    });

    test('a change names the version that it changes', async () => {
      const store = await open();
      await store.claimMigration(migration('mig_1'));
      const record = (await store.migration('mig_1'))!;
      record.migration.reason = 'first';
      expect(await store.updateMigration(record)).toBe(true);
      record.migration.reason = 'second';
      expect(await store.updateMigration(record)).toBe(false);
      expect(await store.migration('mig_1')).toMatchObject({
        version: record.version + 1,
        migration: { reason: 'first' },
        plan: { lockHolder: 'mig_1', direction: 'forward' },
      });
    });

    test('lists: newest first, open ones oldest first, unended ones; closed ones are pruned', async () => {
      const store = await open();
      for (const [index, state] of [
        MigrationState.MOVED,
        MigrationState.PARKED,
        MigrationState.MOVED_BACK,
        MigrationState.RUNNING,
      ].entries()) {
        await store.claimMigration(migration(`mig_${index}`, `m${index}`));
        const record = (await store.migration(`mig_${index}`))!;
        record.migration.state = state;
        const open = state === MigrationState.RUNNING || state === MigrationState.MOVED;
        await store.updateMigration({ ...record, open, claim: open });
      }
      const ids = (records: readonly MigrationRecord[]) => records.map((record) => record.migration.id);
      expect(ids(await store.migrations(2))).toEqual(['mig_3', 'mig_2']);
      expect(ids(await store.openMigrations())).toEqual(['mig_0', 'mig_3']);
      expect(ids(await store.unendedMigrations(10))).toEqual(['mig_3', 'mig_1']);
      await store.pruneMigrations(1);
      expect(ids(await store.migrations(10))).toEqual(['mig_3', 'mig_0']);
    });
  });
}
