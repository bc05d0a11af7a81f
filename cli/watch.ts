import {
  MigrationService,
  type WatchMigrationResponse,
  WatchMigrationResponseSchema,
} from '../proto/gen/ferry/v1/coordinator_pb.ts';
import { type Migration, MigrationState } from '../proto/gen/ferry/v1/migration_pb.ts';
import { toFerryError } from '../shared/error.ts';
import type { Session } from './context.ts';
import { exitCodeOfMigration, exitCodes } from './output/errors.ts';
import { jsonLine } from './output/json.ts';
import { MigrationView } from './output/progress.ts';

/** A watch is ended by the server after an hour; it is begun again before. */
const watchMsMax = 3_000_000;
/** How long a coordinator that went away is waited for. */
const awayMsMax = 60_000;
const retryMs = 500;

/**
 * Follows a migration to its end (settled, moved back or parked) and answers the exit code. A coordinator that goes away
 * meanwhile is waited for. ctrl-C ends the watch, not the migration.
 */
export async function watchMigration(
  session: Session,
  migrationId: string,
  interrupted = session.terminal.interrupted(),
): Promise<number> {
  const { terminal } = session;
  const client = session.client(MigrationService);
  const view = new MigrationView(terminal);
  let latest: Migration | undefined;
  let awaySinceMs: number | undefined;

  while (!interrupted.aborted) {
    try {
      for await (const response of client.watchMigration(
        { migrationId },
        { timeoutMs: watchMsMax, signal: interrupted },
      )) {
        awaySinceMs = undefined;
        latest = response.migration ?? latest;
        show(session, view, response);
      }
      if (latest !== undefined && isOver(latest)) {
        view.finish();
        return exitCodeOfMigration(latest.state);
      }
    } catch (thrown) {
      if (interrupted.aborted) break;
      const { reason } = toFerryError(thrown);
      if (reason !== 'unreachable' && reason !== 'deadline' && reason !== 'cancelled') throw session.typed(thrown);
      const nowMs = terminal.clock.monotonicMs();
      if (awaySinceMs === undefined) {
        awaySinceMs = nowMs;
        view.finish();
        if (reason !== 'deadline') {
          terminal.err(`ferry: the coordinator at ${session.coordinator} went away; the hosts go on, waiting for it\n`);
        }
      }
      if (nowMs - awaySinceMs > awayMsMax) throw session.typed(thrown);
    }
    await terminal.clock.sleep(retryMs, interrupted).catch(() => undefined);
  }
  view.finish();
  terminal.err(farewell(migrationId, latest));
  return exitCodes.interrupted;
}

function show(session: Session, view: MigrationView, response: WatchMigrationResponse): void {
  if (session.json) session.terminal.out(jsonLine(WatchMigrationResponseSchema, response));
  else if (response.migration !== undefined) view.show(response.migration);
}

/** Whether nothing more comes. */
function isOver(migration: Migration): boolean {
  return migration.state !== MigrationState.RUNNING;
}

/** What ctrl-C answers: nothing was stopped, and how to go on. */
function farewell(migrationId: string, latest: Migration | undefined): string {
  if (latest?.state === MigrationState.MOVED) {
    return `\nThe Machine has moved; its source settles by itself. To see it: ferry migration status ${migrationId}\n`;
  }
  return (
    `\nThe migration goes on by itself.\n` +
    `  to follow it again: ferry migration watch ${migrationId}\n` +
    `  to cancel it:       ferry migration cancel ${migrationId}\n`
  );
}
