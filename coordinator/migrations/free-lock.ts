import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { FerryError } from '../../shared/error.ts';
import { hasEnded } from './feed.ts';
import type { JourneyParts } from './journey.ts';

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
  const { store, book, locks } = parts;
  const holding = await book.exclusively(async () => {
    const under = (await store.openMigrations()).filter(({ plan }) => plan.lockHolder === lockHolder);
    const running = under.find(({ migration }) => migration.state === MigrationState.RUNNING);
    if (running !== undefined) {
      throw new FerryError('machine_busy', `migration ${running.migration.id} goes on under this lock`, {
        facts: { migration: running.migration.id },
      });
    }
    const parked = under.filter(({ migration }) => migration.holdsLock && hasEnded(migration));
    // Marked first: from here on no new migration takes this lock over.
    for (const { migration } of parked) {
      await book.update(migration.id, (draft) => {
        draft.migration.holdsLock = false;
        draft.migration.nextAction = '';
        draft.migration.reason += ` (network freed: ${why})`;
        draft.plan.permitHosts = hostsOf(draft);
      });
    }
    return parked;
  });
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

function hostsOf({
  migration,
  plan,
}: {
  migration: { source: string; destination: string };
  plan: { permitHosts: string[] };
}): string[] {
  return [...new Set([...plan.permitHosts, migration.source, migration.destination])];
}
