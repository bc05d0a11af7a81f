import { clone } from '@bufbuild/protobuf';
import { type Migration, MigrationSchema } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { FerryError } from '../../shared/error.ts';
import type { MigrationPlan, MigrationRecord, Store } from '../store/store.ts';
import { hasEnded, isFinal, MigrationFeed } from './feed.ts';

/** Writers that may be in each other's way before a write is given up; each failure means that another one succeeded. */
const conflictsMax = 100;

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
  readonly #feed = new MigrationFeed();
  #turn: Promise<void> = Promise.resolve();

  constructor(store: Store) {
    this.#store = store;
  }

  /** Runs one at a time what reads several migrations and then writes one of them. */
  exclusively<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work);
    this.#turn = turn.then(
      () => {},
      () => {},
    );
    return turn;
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

  /** Changes a migration durably. */
  async update(id: string, change: Change): Promise<MigrationRecord> {
    for (let conflicts = 0; conflicts < conflictsMax; conflicts += 1) {
      const { migration, plan, version, open, claim, driver } = await this.get(id);
      const draft: Draft = { migration: clone(MigrationSchema, migration), plan: structuredClone(plan), open, claim };
      change(draft);
      if (!(await this.#store.updateMigration({ ...draft, version, driver }))) continue;
      this.#feed.publish(draft.migration);
      return { ...draft, version: version + 1, driver };
    }
    throw new FerryError('overloaded', `migration ${id} is changed by too many at once`);
  }

  /** The migration now and at each change, until nothing will change any more or `signal` aborts. */
  async *watch(id: string, signal: AbortSignal): AsyncGenerator<Migration> {
    const changes = this.#feed.watch(id, signal);
    // Listening begins before reading, so that no change falls between the two.
    let next = changes.next();
    try {
      let { migration } = await this.get(id);
      for (;;) {
        yield migration;
        if (isFinal(migration)) return;
        const change = await next;
        if (change.done) return;
        migration = change.value;
        next = changes.next();
      }
    } finally {
      // A generator that waits for a change cannot be returned: it is left to end with the signal.
      void changes.return(undefined).catch(() => {});
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
