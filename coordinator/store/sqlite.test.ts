import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create, toBinary } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { MigrationSchema, MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { ManualClock } from '../../shared/clock.ts';
import { Database } from '../../shared/database.ts';
import { FerryError } from '../../shared/error.ts';
import { type Random, seededRandom } from '../../shared/random.ts';
import { describeStore, type StoreFixture } from './conformance.ts';
import { SqliteStore, schema } from './sqlite.ts';

function sqliteFixture(random: Random = seededRandom(3)): StoreFixture & { readonly path: string } {
  const directory = mkdtempSync(join(tmpdir(), 'ferry-store-'));
  const path = join(directory, 'coordinator.db');
  const opened: SqliteStore[] = [];
  const clock = new ManualClock();
  return {
    path,
    open: async () => {
      const store = new SqliteStore({ path, random, clock });
      opened.push(store);
      return store;
    },
    async pair() {
      const store = await this.open();
      return [store, store] as const;
    },
    pass: async (ms) => clock.advance(ms),
    dispose: async () => {
      for (const store of opened) await store.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

describeStore('SQLite', sqliteFixture);

test('a second coordinator on the same file is refused', async () => {
  const fixture = sqliteFixture();
  try {
    await fixture.open();
    const second = await fixture.open().catch((error: unknown) => error);
    expect(second).toBeInstanceOf(FerryError);
    expect(second).toMatchObject({ reason: 'store_locked' });
  } finally {
    await fixture.dispose();
  }
});

test('0 and numbers that were used are drawn again', async () => {
  const draws = [0, 5, 5, 9];
  const random: Random = {
    bytes: (count) => {
      const bytes = Buffer.alloc(count);
      if (count !== 4) return bytes;
      bytes.writeUInt32BE(draws.shift()!);
      return bytes;
    },
  };
  const fixture = sqliteFixture(random);
  try {
    const store = await fixture.open();
    expect(await store.networkNumber('alpha', 0)).toBe(5);
    expect(await store.networkNumber('beta', 0)).toBe(9);
  } finally {
    await fixture.dispose();
  }
});

test('a database of 0.1.0 is taken over with all that is in it', async () => {
  const fixture = sqliteFixture();
  try {
    const old = new Database(fixture.path, [schema[0]!]);
    const migration = create(MigrationSchema, { id: 'mig_1', machineId: 'm1', state: MigrationState.PARKED, term: 7n });
    const plan = { direction: 'forward', finished: ['plan'], lockHolder: 'mig_1', permitHosts: ['h1'] };
    old.run("INSERT INTO counters VALUES ('term', 7)");
    old.run("INSERT INTO numbers VALUES ('network', 77, 'alpha', 1), ('host', 5, 'h1', 1)");
    old.run(
      "INSERT INTO hosts VALUES ('h1', 5, 'ams', 'h1:1', '0.1.0', 1, NULL, '[\"reflink\"]', 'j1', 9, 8, 0, 1000)",
    );
    old.run("INSERT INTO placements VALUES ('m1', 'h1', 3, 'alpha', 'shop', x'', 1000)");
    old.run("INSERT INTO locks VALUES ('alpha', 'mig_1', 'm1', 'h1', 'h2', 5, 12)");
    old.run("INSERT INTO fences VALUES ('alpha', 12)");
    old.run(
      "INSERT INTO lock_waiters (network, migration_id, machine_id, since_ms) VALUES ('alpha', 'mig_2', 'm2', 6)",
    );
    const message = toBinary(MigrationSchema, migration);
    old.run("INSERT INTO migrations VALUES ('mig_1', 'm1', 4, 1, 0, 0, ?, ?)", message, JSON.stringify(plan));
    old.close();

    const store = await fixture.open();
    expect((await store.identity()).generation).toMatch(/^[0-9a-f]{32}$/);
    expect(await store.host('h1')).toMatchObject({
      number: 5,
      cordoned: true,
      capabilities: ['reflink'],
      journalCounter: 9n,
      copyLimits: undefined,
      dnsAddress: '',
      notes: [],
    });
    expect(await store.networkNumber('alpha', 0)).toBe(77);
    expect(await store.placement('m1')).toMatchObject({ hostId: 'h1', epoch: 3n });
    expect(await store.migration('mig_1')).toMatchObject({
      migration: { term: 7n },
      plan: { ...plan, downtimeBudgetMs: 300, priority: 0 },
      version: 4,
      open: true,
      claim: false,
      driver: '',
    });
    expect(await store.lockWaiters('alpha')).toMatchObject([{ migrationId: 'mig_2', priority: 0 }]);
    expect(await store.lock('alpha')).toMatchObject({ migrationId: 'mig_1', fence: 12n });
    const taken = await store.takeMigration('mig_1', 's1', 0n);
    expect(taken.kind === 'taken' && taken.record.migration.term > 7n).toBe(true);
  } finally {
    await fixture.dispose();
  }
});

test('whoever drove before the file was opened again drives no longer', async () => {
  const fixture = sqliteFixture();
  try {
    const store = await fixture.open();
    const session = { coordinator: 'c', address: 'c:1', version: '0.1.0' };
    await store.renewSession({ ...session, id: 's1' }, 3_600_000);
    await store.close();
    const next = await fixture.open();
    expect(await next.sessions()).toEqual([{ ...session, id: 's1', alive: false }]);
    expect(await next.renewSession({ ...session, id: 's1' }, 3_600_000)).toBe(false);
  } finally {
    await fixture.dispose();
  }
});
