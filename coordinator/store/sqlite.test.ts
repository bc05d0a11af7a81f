import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { ManualClock } from '../../shared/clock.ts';
import { FerryError } from '../../shared/error.ts';
import { type Random, seededRandom } from '../../shared/random.ts';
import { describeStore, type StoreFixture } from './conformance.ts';
import { SqliteStore } from './sqlite.ts';

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
