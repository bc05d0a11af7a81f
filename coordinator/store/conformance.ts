// Longer than usual: all that every implementation of the store has to do.
import { create } from '@bufbuild/protobuf';
import { afterEach, describe, expect, test } from 'vitest';
import { DrainSchema } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { CopyLimitsSchema, HostCapacitySchema } from '../../proto/gen/ferry/v1/host_pb.ts';
import { MachineSchema } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationSchema, MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import type {
  DrainRecord,
  HostReport,
  LockRequest,
  MigrationRecord,
  Placement,
  SessionRow,
  Store,
  TakeAnswer,
} from './store.ts';

/** A store under test: each `open` sees what an earlier one wrote. */
export interface StoreFixture {
  open(): Promise<Store>;
  /** Two coordinators' stores; the same twice where only one coordinator can have it open. */
  pair(): Promise<readonly [Store, Store]>;
  /** Lets time pass by the store's clock. */
  pass(ms: number): Promise<void>;
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

const migration = (id: string, machineId = 'm1', changes: Partial<MigrationRecord> = {}): MigrationRecord => ({
  migration: create(MigrationSchema, {
    id,
    machineId,
    network: 'alpha',
    source: 'h1',
    destination: 'h2',
    state: MigrationState.RUNNING,
  }),
  plan: {
    direction: 'forward',
    finished: [],
    lockHolder: id,
    startDeadlineMs: 1000,
    overrideHosts: [],
    permitHosts: [],
    downtimeBudgetMs: 300,
    priority: 0,
    turnedBecause: null,
    turns: 0,
    declineOwed: false,
  },
  version: 1,
  open: true,
  claim: true,
  driver: '',
  ...changes,
});

const drain = (id: string, hostId = 'h1', changes: Partial<DrainRecord> = {}): DrainRecord => ({
  drain: create(DrainSchema, { id, hostId }),
  plan: { retryAtMs: {}, uncordonAfter: false, failedAt: {}, calledOff: [], forgetOwed: false },
  version: 1,
  open: true,
  driver: '',
  ...changes,
});

const session = (id: string): SessionRow => ({ id, coordinator: `of-${id}`, address: `${id}:7400`, version: '0.1.0' });

const longMs = 3_600_000;
const shortMs = 40;

/** Runs the suite on one implementation. */
export function describeStore(name: string, makeFixture: () => StoreFixture, skipped = false): void {
  describe.skipIf(skipped)(name, () => {
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

    const taken = <T>(answer: TakeAnswer<T>): T => {
      if (answer.kind !== 'taken') throw new Error(`not taken: ${JSON.stringify(answer)}`);
      return answer.record;
    };

    test('a store has a name for ever, and says what it is', async () => {
      const made = fixture();
      const first = await made.open();
      const identity = await first.identity();
      expect(identity.generation).toMatch(/^[0-9a-f]{32}$/);
      expect(await first.identity()).toEqual(identity);
      expect(first.describe().where).toMatch(/^(sqlite \/|redis:\/\/)/);
      await first.close();
      expect(await (await made.open()).identity()).toEqual(identity);
    });

    test('a session lives while it is renewed; one that ran out never comes back', async () => {
      const made = fixture();
      const store = await made.open();
      expect(await store.renewSession(session('s1'), shortMs)).toBe(true);
      expect(await store.renewSession(session('s2'), longMs)).toBe(true);
      expect(await store.renewSession(session('s2'), longMs)).toBe(true);
      await made.pass(shortMs + 1);
      expect(await store.renewSession(session('s1'), longMs)).toBe(false);
      expect(await store.sessions()).toEqual([
        { ...session('s1'), alive: false },
        { ...session('s2'), alive: true },
      ]);
      await store.endSession('s2');
      await store.endSession('s9');
      expect(await store.renewSession(session('s2'), longMs)).toBe(false);
      expect((await store.sessions()).map(({ id, alive }) => [id, alive])).toEqual([
        ['s1', false],
        ['s2', false],
      ]);
    });

    test('what a live session drives is its own; what a dead one drove is taken under a higher term', async () => {
      const made = fixture();
      const [a, b] = await made.pair();
      await a.renewSession(session('s1'), longMs);
      await b.renewSession(session('s2'), longMs);
      await a.claimMigration(migration('mig_1'));
      const first = taken(await a.takeMigration('mig_1', 's1', 0n));
      expect(first).toMatchObject({ version: 2, driver: 's1', open: true, claim: true });
      expect(first.migration.term).toBeGreaterThan(0n);
      expect(await a.migration('mig_1')).toEqual(first);
      expect(await b.takeMigration('mig_1', 's2', 0n)).toEqual({ kind: 'driven', by: 's1' });
      expect(await b.takeMigration('mig_9', 's2', 0n)).toEqual({ kind: 'unknown' });
      await b.leaveMigration('mig_1', 's2');
      expect(await b.takeMigration('mig_1', 's2', 0n)).toEqual({ kind: 'driven', by: 's1' });
      await a.endSession('s1');
      const second = taken(await b.takeMigration('mig_1', 's2', 0n));
      expect(second.driver).toBe('s2');
      expect(second.migration.term).toBeGreaterThan(first.migration.term);
      expect(await a.updateMigration(first)).toBe(false);
      await b.leaveMigration('mig_1', 's2');
      const left = (await b.migration('mig_1'))!;
      expect(left).toMatchObject({ driver: '', version: second.version + 1 });
      await a.renewSession(session('s3'), longMs);
      expect(taken(await a.takeMigration('mig_1', 's3', 0n)).driver).toBe('s3');
    });

    test('a session that ran out loses what it drove; taking again by the same session is harmless', async () => {
      const made = fixture();
      const store = await made.open();
      await store.renewSession(session('s1'), shortMs);
      await store.renewSession(session('s2'), longMs);
      await store.claimMigration(migration('mig_1'));
      await store.createDrain(drain('drn_1'));
      const first = taken(await store.takeMigration('mig_1', 's1', 0n));
      const again = taken(await store.takeMigration('mig_1', 's1', 0n));
      expect(again.migration.term).toBeGreaterThan(first.migration.term);
      taken(await store.takeDrain('drn_1', 's1'));
      await made.pass(shortMs + 1);
      expect(taken(await store.takeMigration('mig_1', 's2', 0n)).driver).toBe('s2');
      expect(taken(await store.takeDrain('drn_1', 's2')).driver).toBe('s2');
    });

    test('terms rise above all before and above any floor, over migrations and restarts, below 2^53, at random in 16 bits', async () => {
      const made = fixture();
      const store = await made.open();
      const lows = new Set<bigint>();
      let last = 0n;
      for (let index = 0; index < 12; index += 1) {
        await store.claimMigration(migration(`mig_${index}`, `m${index}`));
        const { term } = taken(await store.takeMigration(`mig_${index}`, 's1', 0n)).migration;
        expect(term).toBeGreaterThan(last);
        lows.add(term & 0xffffn);
        last = term;
      }
      expect(lows.size).toBeGreaterThan(6);
      const floor = 7n << 40n;
      const above = taken(await store.takeMigration('mig_1', 's1', floor)).migration.term;
      expect(above).toBeGreaterThan(floor);
      await store.close();
      const next = taken(await (await made.open()).takeMigration('mig_2', 's1', 0n)).migration.term;
      expect(next).toBeGreaterThan(above);
      expect(next).toBeLessThan(1n << 53n);
    });

    test('a term that would not fit is refused', async () => {
      const store = await open();
      await store.claimMigration(migration('mig_1'));
      for (const above of [(1n << 53n) - 1n, 1n << 60n]) {
        await expect(store.takeMigration('mig_1', 's1', above)).rejects.toMatchObject({ reason: 'internal' });
      }
      expect(await store.migration('mig_1')).toMatchObject({ version: 1, driver: '' });
    });

    test('of many that take, claim, lock or change at once exactly one wins', async () => {
      const made = fixture();
      const [a, b] = await made.pair();
      const many = Array.from({ length: 20 }, (_, index) => ({ index, store: index % 2 === 0 ? a : b }));
      const count = <T>(answers: readonly T[], won: (answer: T) => boolean) => answers.filter(won).length;

      const claims = await Promise.all(many.map(({ index, store }) => store.claimMigration(migration(`mig_${index}`))));
      expect(count(claims, ({ kind }) => kind === 'claimed')).toBe(1);
      const id = (await a.migrations(5))[0]!.migration.id;

      await Promise.all(many.map(({ index, store }) => store.renewSession(session(`s${index}`), longMs)));
      const takes = await Promise.all(many.map(({ index, store }) => store.takeMigration(id, `s${index}`, 0n)));
      expect(count(takes, ({ kind }) => kind === 'taken')).toBe(1);

      const record = (await b.migration(id))!;
      const writes = await Promise.all(many.map(({ store }) => store.updateMigration(record)));
      expect(count(writes, (written) => written)).toBe(1);

      const locks = await Promise.all(many.map(({ index, store }) => store.acquireLock(wish(`mig_${index}`))));
      expect(count(locks, ({ kind }) => kind === 'granted')).toBe(1);
      expect(await a.lockWaiters('alpha')).toHaveLength(19);

      const drains = await Promise.all(many.map(({ index, store }) => store.createDrain(drain(`drn_${index}`))));
      expect(count(drains, ({ kind }) => kind === 'created')).toBe(1);

      const numbers = await Promise.all(many.map(({ index, store }) => store.networkNumber(`n${index}`, 9)));
      expect(new Set(numbers).size).toBe(20);
      const same = await Promise.all(many.map(({ store }) => store.networkNumber('same', 0)));
      expect(new Set(same).size).toBe(1);

      const beats = await Promise.all(
        many.map(({ index, store }) => store.recordHeartbeat(report('h1', BigInt(index + 1)))),
      );
      expect(new Set(beats.map(({ host }) => host.number)).size).toBe(1);

      const beat = ({ store }: { readonly store: Store }) => store.recordHeartbeat(report('h2', 9n));
      await beat(many[0]!);
      await Promise.all([...many.slice(0, 10).map(beat), b.setCordon('h2', true), ...many.slice(10).map(beat)]);
      expect(await a.host('h2')).toMatchObject({ cordoned: true, journalWentBack: false });
    });

    test('the line goes by priority, then first come first served; asking again with another priority moves', async () => {
      const store = await open();
      const line = async () =>
        (await store.lockWaiters('alpha')).map(({ migrationId, priority }) => [migrationId, priority]);
      await store.acquireLock(wish('mig_0'));
      for (const [id, priority] of [
        ['mig_1', 0],
        ['mig_2', 5],
        ['mig_3', -100],
        ['mig_4', 5],
        ['mig_5', 100],
      ] as const) {
        await store.acquireLock(wish(id, { priority }));
      }
      expect(await line()).toEqual([
        ['mig_5', 100],
        ['mig_2', 5],
        ['mig_4', 5],
        ['mig_1', 0],
        ['mig_3', -100],
      ]);
      const asked = await store.acquireLock(wish('mig_3', { priority: 5 }));
      expect(asked).toMatchObject({ ahead: [{ migrationId: 'mig_5' }, { migrationId: 'mig_2' }] });
      await store.releaseLock('alpha', 'mig_0');
      expect(await store.acquireLock(wish('mig_2', { priority: 5 }))).toMatchObject({
        kind: 'waiting',
        lock: undefined,
      });
      // One that comes late and goes before all others need not stand in line first.
      expect(await store.acquireLock(wish('mig_6', { priority: 101 }))).toMatchObject({ kind: 'granted' });
      expect((await line()).map(([id]) => id)).toEqual(['mig_5', 'mig_2', 'mig_3', 'mig_4', 'mig_1']);
    });

    test('a host tells its limits, its resolver and its notes', async () => {
      const store = await open();
      const copyLimits = create(CopyLimitsSchema, { sendBytesPerSecond: 5n, receiveBytesPerSecond: 6n });
      await store.recordHeartbeat(report('h1', 1n, { copyLimits, dnsAddress: '127.0.0.1:53', notes: ['low'] }));
      expect(await store.host('h1')).toMatchObject({ copyLimits, dnsAddress: '127.0.0.1:53', notes: ['low'] });
      await store.recordHeartbeat(report('h1', 2n));
      expect(await store.host('h1')).toMatchObject({ copyLimits: undefined, dnsAddress: '', notes: [] });
      expect(await store.hosts()).toEqual([await store.host('h1')]);
      expect(await store.host('h9')).toBeUndefined();
    });

    test('a claim that goes on under a parked lock is refused once that migration was changed', async () => {
      const store = await open();
      await store.claimMigration(migration('mig_1'));
      const parked = (await store.migration('mig_1'))!;
      await store.updateMigration({ ...parked, claim: false });
      const { version } = (await store.migration('mig_1'))!;
      const inherits = { migrationId: 'mig_1', version: version - 1 };
      expect(await store.claimMigration(migration('mig_2'), { inherits })).toEqual({ kind: 'changed' });
      expect(
        await store.claimMigration(migration('mig_2'), { inherits: { ...inherits, migrationId: 'mig_9' } }),
      ).toEqual({
        kind: 'changed',
      });
      expect(await store.migration('mig_2')).toBeUndefined();
      const right = { inherits: { migrationId: 'mig_1', version } };
      expect(await store.claimMigration(migration('mig_2'), right)).toEqual({ kind: 'claimed' });
      expect(await store.claimMigration(migration('mig_2'), right)).toEqual({ kind: 'claimed' });
      // Whoever was about to free the lock looks again.
      expect(await store.updateMigration({ ...parked, version })).toBe(false);
      expect(await store.claimMigration(migration('mig_3'), right)).toEqual({ kind: 'busy', migrationId: 'mig_2' });
    });

    test('a change leaves driver and term alone, and cannot claim what another migration has', async () => {
      const store = await open();
      await store.claimMigration(migration('mig_1'));
      const record = taken(await store.takeMigration('mig_1', 's1', 0n));
      await store.updateMigration({ ...record, driver: 'nobody', claim: false });
      expect(await store.migration('mig_1')).toMatchObject({
        driver: 's1',
        migration: { term: record.migration.term },
      });
      expect(await store.claimMigration(migration('mig_2'))).toEqual({ kind: 'claimed' });
      await expect(store.updateMigration({ ...record, version: record.version + 1 })).rejects.toThrow();
      expect(await store.migration('mig_1')).toMatchObject({ claim: false });
    });

    test('one open drain a host; each is changed by version and driven by one', async () => {
      const store = await open();
      await store.renewSession(session('s1'), longMs);
      await store.renewSession(session('s2'), longMs);
      expect(await store.createDrain(drain('drn_1'))).toEqual({ kind: 'created' });
      expect(await store.createDrain(drain('drn_1'))).toEqual({ kind: 'created' });
      expect(await store.createDrain(drain('drn_2'))).toEqual({ kind: 'busy', drainId: 'drn_1' });
      expect(await store.createDrain(drain('drn_3', 'h2'))).toEqual({ kind: 'created' });
      const record = taken(await store.takeDrain('drn_1', 's1'));
      expect(record).toMatchObject({ version: 2, driver: 's1' });
      expect(await store.takeDrain('drn_1', 's2')).toEqual({ kind: 'driven', by: 's1' });
      expect(await store.takeDrain('drn_9', 's2')).toEqual({ kind: 'unknown' });
      record.drain.message = 'first';
      const plan = { ...record.plan, failedAt: { m1: { h2: 'no room' } } };
      expect(await store.updateDrain({ ...record, plan, driver: '' })).toBe(true);
      expect(await store.updateDrain(record)).toBe(false);
      expect(await store.drain('drn_1')).toMatchObject({ version: 3, driver: 's1', drain: { message: 'first' }, plan });
      const ids = (records: readonly DrainRecord[]) => records.map((each) => each.drain.id);
      expect(ids(await store.openDrains())).toEqual(['drn_1', 'drn_3']);
      await store.updateDrain({ ...record, version: 3, open: false });
      expect(ids(await store.openDrains())).toEqual(['drn_3']);
      expect(await store.createDrain(drain('drn_4'))).toEqual({ kind: 'created' });
      await expect(store.updateDrain({ ...record, version: 4 })).rejects.toThrow();
      expect((await store.drainOfHost('h1'))?.drain.id).toBe('drn_4');
      expect(await store.drainOfHost('h9')).toBeUndefined();
      expect(ids(await store.drains(2))).toEqual(['drn_4', 'drn_3']);
      expect(await store.drain('drn_9')).toBeUndefined();
    });

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

    test('placements that moved are found where they are now; an empty host forgets what it had', async () => {
      const store = await open();
      await store.putPlacements('h1', [placement('m1', 'h1', 9n), placement('m2', 'h1', 10n)], 0);
      await store.putPlacements('h2', [placement('m1', 'h2', 10n, { network: 'beta' }), placement('m2', 'h2', 9n)], 0);
      const where = async (filter: Parameters<Store['placements']>[0]) =>
        (await store.placements(filter)).map(({ machineId, hostId }) => `${machineId} ${hostId}`);
      expect(await where({})).toEqual(['m1 h2', 'm2 h1']);
      expect(await where({ hostId: 'h1' })).toEqual(['m2 h1']);
      expect(await where({ network: 'beta' })).toEqual(['m1 h2']);
      await store.putPlacements('h1', [], longMs);
      await store.removePlacement('m1');
      await store.removePlacement('m9');
      expect(await where({})).toEqual([]);
      expect(await where({ network: 'beta' })).toEqual([]);
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
