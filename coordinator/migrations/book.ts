import { clone } from '@bufbuild/protobuf';
import { type Migration, MigrationSchema } from '../../proto/gen/ferry/v1/migration_pb.ts';
import type { Clock } from '../../shared/clock.ts';
import { FerryError, toFerryError } from '../../shared/error.ts';
import { pause } from '../pause.ts';
import type { MigrationPlan, MigrationRecord, Store } from '../store/store.ts';
import { hasEnded, isFinal, MigrationFeed } from './feed.ts';
import { shown } from './record.ts';

/** Writers that may be in each other's way before a write is given up; each failure means that another one succeeded. */
const conflictsMax = 100;
/** Time between two looks at a migration that another coordinator may drive. */
const pollMs = 500;

/** A migration while it is being changed. */
interface Draft {
  readonly migration: Migration;
  readonly plan: MigrationPlan;
  open: boolean;
  claim: boolean;
}

/** A change of a migration; may run more than once. */
export type Change = (draft: Draft) => void;

/** The migrations: every change goes through here, is durable when it returns, and is told to watchers. */
export class MigrationBook {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #feed = new MigrationFeed();

  constructor(store: Store, clock: Clock) {
    this.#store = store;
    this.#clock = clock;
  }

  /** Throws unknown_migration. */
  async get(id: string): Promise<MigrationRecord> {
    const record = await this.#store.migration(id);
    if (record !== undefined) return record;
    throw new FerryError('unknown_migration', `there is no migration ${id}`, {
      field: 'migration_id',
      facts: { migration: id },
    });
  }

  /**
   * Changes a migration durably. With `driver` only while that session drives it: throws stale_term once another one does, so
   * that what a driver of before still has in its hands never overwrites.
   */
  async update(id: string, change: Change, driver?: string): Promise<MigrationRecord> {
    for (let conflicts = 0; conflicts < conflictsMax; conflicts += 1) {
      const record = await this.get(id);
      requireDriver(record, driver);
      const changed = changedRecord(record, change);
      if (!(await this.#store.updateMigration(changed))) continue;
      const written = { ...changed, version: changed.version + 1 };
      this.#publish(written);
      return written;
    }
    throw new FerryError('overloaded', `migration ${id} is changed by too many at once`);
  }

  /** Changes a migration durably if it is still as it was read; answers whether it was. */
  async updateIfSame(record: MigrationRecord, change: Change): Promise<boolean> {
    const changed = changedRecord(record, change);
    if (!(await this.#store.updateMigration(changed))) return false;
    this.#publish({ ...changed, version: changed.version + 1 });
    return true;
  }

  #publish(record: MigrationRecord): void {
    this.#feed.publish({ migration: shown(record), version: record.version });
  }

  /**
   * The migration now and at each change, until nothing will change any more or `signal` aborts. What another coordinator
   * writes is seen within half a second.
   */
  async *watch(id: string, signal: AbortSignal): AsyncGenerator<Migration> {
    const over = new AbortController();
    const until = AbortSignal.any([signal, over.signal]);
    const changes = this.#feed.watch(id, until);
    // Listening begins before reading, so that no change falls between the two.
    let next = changes.next();
    try {
      const first = await this.get(id);
      let { version } = first;
      let migration = shown(first);
      for (;;) {
        yield migration;
        if (isFinal(migration)) return;
        for (const seen = version; seen === version; ) {
          const change = await this.#orPolled(next, until);
          if (signal.aborted || change?.done) return;
          if (change !== undefined) {
            next = changes.next();
            if (change.value.version > version) ({ migration, version } = change.value);
            continue;
          }
          const read = await this.#look(id);
          if (read !== undefined && read.version !== version) [migration, version] = [shown(read), read.version];
        }
      }
    } finally {
      over.abort();
      // A generator that waits for a change cannot be returned: it is left to end with the signal.
      void changes.return(undefined).catch(() => {});
    }
  }

  /** Undefined while the store does not answer: a watch outlives that. */
  async #look(id: string): Promise<MigrationRecord | undefined> {
    try {
      return await this.get(id);
    } catch (error) {
      if (toFerryError(error).disposition === 'retry') return undefined;
      throw error;
    }
  }

  /** The next change told in this process; undefined when it is time to look. */
  async #orPolled<T>(next: Promise<T>, signal: AbortSignal): Promise<T | undefined> {
    const told = new AbortController();
    const polled = pause(this.#clock, pollMs, AbortSignal.any([signal, told.signal])).then(() => undefined);
    try {
      return await Promise.race([next, polled]);
    } finally {
      told.abort();
    }
  }

  /** Resolves with the migration once it has ended; rejects when `signal` aborts first. */
  async ended(id: string, signal: AbortSignal): Promise<Migration> {
    const watching = new AbortController();
    const until = AbortSignal.any([signal, watching.signal]);
    try {
      for await (const migration of this.watch(id, until)) if (hasEnded(migration)) return migration;
    } finally {
      watching.abort();
    }
    signal.throwIfAborted();
    return (await this.get(id)).migration;
  }
}

function changedRecord(record: MigrationRecord, change: Change): MigrationRecord {
  const { version, driver, open, claim } = record;
  const migration = clone(MigrationSchema, record.migration);
  const draft: Draft = { migration, plan: structuredClone(record.plan), open, claim };
  change(draft);
  return { ...draft, version, driver };
}

function requireDriver({ migration, driver }: MigrationRecord, expected: string | undefined): void {
  if (expected === undefined || driver === expected) return;
  throw new FerryError('stale_term', `migration ${migration.id} is driven by ${driver || 'nobody'} now`);
}
