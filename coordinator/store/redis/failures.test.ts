// Longer than usual: each way in which a Redis server or the way to it fails.
import { create } from '@bufbuild/protobuf';
import { afterEach, describe, expect, test } from 'vitest';
import { MigrationSchema, MigrationState } from '../../../proto/gen/ferry/v1/migration_pb.ts';
import { systemRandom } from '../../../shared/random.ts';
import { Link, RedisServer, redisMissing } from '../../testing/redis-server.ts';
import type { LockRequest, MigrationRecord } from '../store.ts';
import { RedisStore } from './store.ts';

/** Deadline of operations that are meant to fail. */
const shortMs = 300;
const longMs = 3_600_000;
/** Tries of `eventually`; each waits for the store's own reconnecting. */
const triesMax = 200;

const wish = (migrationId: string): LockRequest => ({
  network: 'alpha',
  migrationId,
  machineId: 'm1',
  source: 'h1',
  destination: 'h2',
  sinceMs: 5,
  priority: 0,
  fenceAbove: 0n,
});

const session = (id: string) => ({ id, coordinator: id, address: '127.0.0.1:1', version: '' });

const migration = (id: string): MigrationRecord => ({
  migration: create(MigrationSchema, { id, machineId: `m-${id}`, state: MigrationState.RUNNING }),
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
});

describe.skipIf(redisMissing !== '')(`a Redis store in trouble${redisMissing}`, () => {
  const cleanups: (() => Promise<unknown>)[] = [];
  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  });

  const start = async (...flags: readonly string[]) => {
    const server = await RedisServer.start(...flags);
    cleanups.push(() => server.dispose());
    return server;
  };
  const link = async (server: RedisServer) => {
    const made = await Link.open(server.port);
    cleanups.push(() => made.close());
    return made;
  };
  const open = async ({ port }: { readonly port: number }, deadlineMs = 3000) => {
    const target = { host: '127.0.0.1', port, db: 0, username: '', password: '', tls: false };
    const store = await RedisStore.open({ target, prefix: 'ferry:', random: systemRandom, deadlineMs });
    cleanups.push(() => store.close());
    return store;
  };
  /** The first answer once the store can be reached again. */
  const eventually = async <T>(ask: () => Promise<T>): Promise<T> => {
    for (let tries = 1; ; tries += 1) {
      try {
        return await ask();
      } catch (error) {
        if ((error as { reason?: string }).reason !== 'store_unreachable' || tries === triesMax) throw error;
      }
    }
  };
  const rebuilding = expect.objectContaining({ reason: 'rebuilding', disposition: 'retry' });
  const unreachable = expect.objectContaining({ reason: 'store_unreachable', disposition: 'retry' });

  test('killed and restarted with its append-only file: everything is there, and it is the same store', async () => {
    const server = await start();
    const store = await open(server);
    const before = await store.identity();
    await store.claimMigration(migration('mig_1'));
    await store.acquireLock(wish('mig_1'));
    await store.renewSession(session('s1'), longMs);
    for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
      await server.kill(signal);
      await server.restart();
      expect(await eventually(() => store.lock('alpha'))).toMatchObject({ migrationId: 'mig_1', fence: 1n });
      expect(await store.migration('mig_1')).toMatchObject({ version: 1 });
      expect(await store.renewSession(session('s1'), longMs)).toBe(true);
      expect(await store.acquireLock(wish('mig_2'))).toMatchObject({ kind: 'waiting' });
      expect(await store.identity()).toEqual(before);
    }
    expect(await (await open(server)).identity()).toEqual(before);
  });

  test.each(['first', 'last'])(
    'restarted with an older copy of its data: another incarnation, also when who saw more comes %s',
    async (place) => {
      const server = await start('--appendonly', 'no');
      const [wire, otherWire] = [await link(server), await link(server)];
      const store = await open(wire);
      const ignorant = await open(otherWire);
      const before = await ignorant.identity();
      await server.ask('SAVE');
      await store.acquireLock(wish('mig_1'));
      await server.kill();
      const late = place === 'first' ? otherWire : wire;
      late.mode = 'refuse';
      await server.restart();
      if (place === 'last') {
        // Without whoever saw more nobody can know.
        expect(await eventually(() => ignorant.identity())).toEqual(before);
        expect(await ignorant.locks()).toEqual([]);
        late.mode = 'pass';
      }
      await expect(eventually(() => store.acquireLock(wish('mig_2')))).rejects.toEqual(rebuilding);
      const after = await store.identity();
      expect(after.generation).toBe(before.generation);
      expect(after.incarnation).not.toBe(before.incarnation);
      late.mode = 'pass';
      await expect(eventually(() => ignorant.acquireLock(wish('mig_2')))).rejects.toEqual(rebuilding);
      expect(await ignorant.identity()).toEqual(after);
      expect(await store.identity()).toEqual(after);
    },
  );

  test('a silent connection ends every operation within its deadline, and is replaced', async () => {
    const server = await start();
    const wire = await link(server);
    const store = await open(wire, shortMs);
    wire.mode = 'silent';
    const asked = [store.acquireLock(wish('mig_1')), store.locks(), store.renewSession(session('s1'), longMs)];
    for (const outcome of await Promise.allSettled(asked)) {
      expect(outcome).toEqual({ status: 'rejected', reason: unreachable });
    }
    expect(String(await server.ask('HLEN', 'ferry:locks'))).toBe('0');
    wire.mode = 'pass';
    expect(await eventually(() => store.acquireLock(wish('mig_1')))).toMatchObject({ kind: 'granted' });
    wire.mute();
    await expect(store.acquireLock(wish('mig_1'))).rejects.toEqual(unreachable);
    expect(await eventually(() => store.releaseLock('alpha', 'mig_1'))).toBe(true);
  });

  test('refused connections: store_unreachable; it goes on by itself', async () => {
    const server = await start();
    const wire = await link(server);
    const store = await open(wire, shortMs);
    wire.mode = 'refuse';
    wire.drop();
    await expect(store.locks()).rejects.toEqual(unreachable);
    await expect(store.identity()).rejects.toEqual(unreachable);
    wire.mode = 'pass';
    expect(await eventually(() => store.locks())).toEqual([]);
  });

  test('a reply that is lost after the work was done: repeating every operation is harmless', async () => {
    const server = await start();
    const wire = await link(server);
    const store = await open(wire, shortMs);
    const watcher = await open(server);
    const lost = async (ask: () => Promise<unknown>) => {
      const revision = async () => Number(await server.ask('HGET', 'ferry:store', 'revision'));
      const before = await revision();
      wire.mode = 'cut-replies';
      await expect(ask()).rejects.toEqual(unreachable);
      wire.mode = 'pass';
      expect(await revision()).toBe(before + 1);
      const answer = await eventually(ask);
      // Once lost, once repeated; the client sends nothing again by itself.
      expect(await revision()).toBe(before + 2);
      return answer;
    };
    expect(await lost(() => store.claimMigration(migration('mig_1')))).toEqual({ kind: 'claimed' });
    expect(await lost(() => store.acquireLock(wish('mig_1')))).toMatchObject({ kind: 'granted', lock: { fence: 1n } });
    expect(await lost(() => store.acquireLock(wish('mig_2')))).toMatchObject({ kind: 'waiting', ahead: [] });
    expect(await watcher.lockWaiters('alpha')).toHaveLength(1);
    expect(await lost(() => store.takeMigration('mig_1', 's1', 0n))).toMatchObject({
      kind: 'taken',
      record: { driver: 's1' },
    });
    const record = (await watcher.migration('mig_1'))!;
    record.migration.reason = 'written once';
    expect(await lost(() => store.updateMigration(record))).toBe(false);
    expect(await watcher.migration('mig_1')).toMatchObject({
      version: record.version + 1,
      migration: { reason: 'written once' },
    });
    const number = await lost(() => store.networkNumber('beta', 0));
    expect((await watcher.networks()).get('beta')).toBe(number);
    expect(await lost(() => store.releaseLock('alpha', 'mig_1'))).toBe(false);
    expect(await watcher.locks()).toEqual([]);
  });

  test('FLUSHALL: another generation; nothing is read or changed before the loss was looked at', async () => {
    const server = await start();
    const store = await open(server);
    const other = await open(server);
    const before = await store.identity();
    await store.claimMigration(migration('mig_1'));
    await server.ask('FLUSHALL');
    await expect(store.acquireLock(wish('mig_1'))).rejects.toEqual(rebuilding);
    await expect(store.migration('mig_1')).rejects.toEqual(rebuilding);
    expect(await store.renewSession(session('s1'), longMs)).toBe(true);
    const after = await store.identity();
    expect(after.generation).not.toBe(before.generation);
    expect(await store.acquireLock(wish('mig_1'))).toMatchObject({ kind: 'granted' });
    await expect(other.acquireLock(wish('mig_2'))).rejects.toEqual(rebuilding);
    expect(await other.identity()).toEqual(after);
    expect(await other.acquireLock(wish('mig_2'))).toMatchObject({ kind: 'waiting' });
  });

  test('a replica that lacks the last writes takes over: another incarnation; a first replica alone changes nothing', async () => {
    const primary = await start();
    const wire = await link(primary);
    const store = await open(wire);
    const other = await open(wire);
    const before = await store.identity();
    const replica = await start();
    const feed = await link(primary);
    await replica.follow(feed);
    expect(await store.identity()).toEqual(before);
    feed.mode = 'silent';
    await store.acquireLock(wish('mig_1'));
    await primary.kill();
    await replica.ask('REPLICAOF', 'NO', 'ONE');
    expect(String(await replica.ask('HLEN', 'ferry:locks'))).toBe('0');
    wire.target = replica.port;
    wire.drop();
    await expect(eventually(() => store.acquireLock(wish('mig_2')))).rejects.toEqual(rebuilding);
    const after = await store.identity();
    expect(after.generation).toBe(before.generation);
    expect(after.incarnation).not.toBe(before.incarnation);
    await expect(eventually(() => other.locks())).rejects.toEqual(rebuilding);
    expect(await other.identity()).toEqual(after);
    // A coordinator that starts now sees the same store.
    expect(await (await open(replica)).identity()).toEqual(after);
    // And the server that took over may restart.
    await replica.kill();
    await replica.restart();
    expect(await eventually(() => store.identity())).toEqual(after);
  });

  test('a fail-over of which nobody who is left lost anything is one, too', async () => {
    const primary = await start();
    const wire = await link(primary);
    const witness = await open(wire);
    const before = await witness.identity();
    const replica = await start();
    const feed = await link(primary);
    await replica.follow(feed);
    feed.mode = 'silent';
    const dead = await open(primary);
    await dead.acquireLock(wish('mig_1'));
    await dead.close();
    await primary.kill();
    await replica.ask('REPLICAOF', 'NO', 'ONE');
    wire.target = replica.port;
    wire.drop();
    const after = await eventually(() => witness.identity());
    expect(after.incarnation).not.toBe(before.incarnation);
  });

  test('another server that ran beside the one before is another incarnation, whatever it says of its history', async () => {
    const one = await start();
    const two = await start('--enable-debug-command', 'yes');
    const wire = await link(one);
    const store = await open(wire);
    await two.follow(one);
    // Its start is known to the second only.
    while (!/uptime_in_seconds:[3-9]/.test(String(await two.ask('INFO', 'server')))) await store.identity();
    await two.ask('REPLICAOF', 'NO', 'ONE');
    await two.ask('DEBUG', 'CHANGE-REPL-ID');
    expect(String(await two.ask('INFO', 'replication'))).toContain(`master_replid2:${'0'.repeat(40)}`);
    const before = await store.identity();
    wire.target = two.port;
    wire.drop();
    const after = await eventually(() => store.identity());
    expect(after.generation).toBe(before.generation);
    expect(after.incarnation).not.toBe(before.incarnation);
  });

  test('a primary that became a replica is not written to; promoted again it is another incarnation', async () => {
    const one = await start();
    const two = await start();
    const store = await open(one, shortMs);
    const before = await store.identity();
    await two.follow(one);
    await two.ask('REPLICAOF', 'NO', 'ONE');
    await one.follow(two);
    await expect(store.acquireLock(wish('mig_1'))).rejects.toEqual(unreachable);
    await expect(store.identity()).rejects.toEqual(unreachable);
    await one.ask('REPLICAOF', 'NO', 'ONE');
    await expect(eventually(() => store.acquireLock(wish('mig_1')))).rejects.toEqual(rebuilding);
    expect((await store.identity()).incarnation).not.toBe(before.incarnation);
  });

  test('scripts that the server forgot are sent again', async () => {
    const server = await start();
    const store = await open(server);
    await store.acquireLock(wish('mig_1'));
    await server.ask('SCRIPT', 'FLUSH');
    expect(await store.acquireLock(wish('mig_1'))).toMatchObject({ kind: 'granted' });
    await server.ask('SCRIPT', 'FLUSH');
    expect((await store.identity()).generation).not.toBe('');
    expect(await store.releaseLock('alpha', 'mig_1')).toBe(true);
  });
});
