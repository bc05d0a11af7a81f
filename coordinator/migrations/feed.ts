import { type Migration, MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';

/** Changes that one slow watcher may be behind; older ones are dropped, the newest never is. */
const queueMax = 64;

/** A migration as it was written. */
export interface Written {
  readonly migration: Migration;
  readonly version: number;
}

/** Tells watchers about changes of migrations that this process writes. */
export class MigrationFeed {
  readonly #watchers = new Map<string, Set<(written: Written) => void>>();

  /** Tells all watchers of this migration. */
  publish(written: Written): void {
    for (const tell of this.#watchers.get(written.migration.id) ?? []) tell(written);
  }

  /** Each change of a migration from now on, until `signal` aborts. */
  async *watch(migrationId: string, signal: AbortSignal): AsyncGenerator<Written> {
    const queue: Written[] = [];
    let wake = () => {};
    const tell = (written: Written) => {
      queue.push(written);
      if (queue.length > queueMax) queue.shift();
      wake();
    };
    const watchers = this.#watchers.get(migrationId) ?? new Set();
    this.#watchers.set(migrationId, watchers.add(tell));
    const aborted = () => wake();
    signal.addEventListener('abort', aborted);
    try {
      for (;;) {
        const next = queue.shift();
        if (next !== undefined) yield next;
        else if (signal.aborted) return;
        else {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
      }
    } finally {
      signal.removeEventListener('abort', aborted);
      watchers.delete(tell);
      if (watchers.size === 0) this.#watchers.delete(migrationId);
    }
  }
}

/** Whether it has ended: moved, moved back or parked. */
export function hasEnded(migration: Migration): boolean {
  return migration.state !== MigrationState.RUNNING;
}

/** Whether nothing will change any more without an operator. */
export function isFinal(migration: Migration): boolean {
  return migration.state === MigrationState.MOVED ? migration.settled : hasEnded(migration);
}
