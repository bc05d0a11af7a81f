import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { FerryError } from '../../shared/error.ts';
import type { MigrationRecord } from '../store/store.ts';
import { hasEnded } from './feed.ts';
import type { JourneyParts } from './journey.ts';

/** Others that may be in the way before it is given up. */
const triesMax = 20;

/**
 * Frees the network that parked migrations keep locked, and says why on each of them. A migration that goes on under that
 * lock keeps it: throws machine_busy.
 */
export async function freeLock(
  parts: Pick<JourneyParts, 'store' | 'book' | 'locks'>,
  lockHolder: string,
  signal: AbortSignal,
  why: string,
): Promise<void> {
  const { book, locks } = parts;
  const holding = await markFreed(parts, lockHolder, why);
  const network = holding[0]?.migration.network;
  if (network === undefined) return;
  const left = await locks.release(network, lockHolder, [...new Set(holding.flatMap(hostsOf))], signal);
  for (const { migration } of holding) {
    await book.update(migration.id, (draft) => {
      draft.plan.permitHosts = left;
      draft.open = left.length > 0 || draft.plan.declineOwed;
    });
  }
}

/**
 * Marks them first: from here on no new migration takes this lock over. One that does so at the same moment has changed the
 * version of the parked one, so that it is seen here.
 */
async function markFreed(
  { store, book }: Pick<JourneyParts, 'store' | 'book'>,
  lockHolder: string,
  why: string,
): Promise<readonly MigrationRecord[]> {
  const marked = new Map<string, MigrationRecord>();
  for (let tries = 0; tries < triesMax; tries += 1) {
    const under = (await store.openMigrations()).filter(({ plan }) => plan.lockHolder === lockHolder);
    const running = under.find(({ migration }) => migration.state === MigrationState.RUNNING);
    if (running !== undefined) {
      throw new FerryError('machine_busy', `migration ${running.migration.id} goes on under this lock`, {
        facts: { migration: running.migration.id },
      });
    }
    const next = under.find(({ migration }) => migration.holdsLock && hasEnded(migration));
    if (next === undefined) return [...marked.values()];
    const isMarked = await book.updateIfSame(next, (draft) => {
      draft.migration.holdsLock = false;
      draft.migration.nextAction = '';
      draft.migration.reason += ` (network freed: ${why})`;
      draft.migration.answered = why;
      draft.plan.permitHosts = hostsOf(draft);
    });
    if (isMarked) marked.set(next.migration.id, next);
  }
  throw new FerryError('overloaded', `the lock of ${lockHolder} is changed by too many at once`);
}

function hostsOf({
  migration,
  plan,
}: {
  readonly migration: { readonly source: string; readonly destination: string };
  readonly plan: { readonly permitHosts: readonly string[] };
}): string[] {
  return [...new Set([...plan.permitHosts, migration.source, migration.destination])];
}
