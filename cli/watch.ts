import {
  DrainService,
  MigrationService,
  WatchDrainResponseSchema,
  WatchMigrationResponseSchema,
} from '../proto/gen/ferry/v1/coordinator_pb.ts';
import type { Drain } from '../proto/gen/ferry/v1/drain_pb.ts';
import { type Migration, MigrationState } from '../proto/gen/ferry/v1/migration_pb.ts';
import type { Session } from './context.ts';
import { follow } from './follow.ts';
import { DrainView } from './output/drain-view.ts';
import { exitCodeOfDrain, exitCodeOfMigration } from './output/errors.ts';
import { jsonLine } from './output/json.ts';
import { MigrationView } from './output/progress.ts';

/** Follows a migration to its end (settled, moved back or parked) and answers the exit code. */
export function watchMigration(session: Session, migrationId: string, interrupted?: AbortSignal): Promise<number> {
  const view = new MigrationView(session.terminal);
  let latest: Migration | undefined;
  return follow(
    session,
    {
      stream: (options) => session.client(MigrationService).watchMigration({ migrationId }, options),
      show: (response) => {
        latest = response.migration ?? latest;
        if (session.json) session.terminal.out(jsonLine(WatchMigrationResponseSchema, response));
        else if (response.migration !== undefined) view.show(response.migration);
      },
      // A Machine that has moved is followed until its source has settled, too.
      exitCode: (streamEnded) => {
        if (!streamEnded || latest === undefined || latest.state === MigrationState.RUNNING) return undefined;
        return exitCodeOfMigration(latest.state);
      },
      finish: () => view.finish(),
      farewell: () => migrationFarewell(migrationId, latest),
    },
    interrupted,
  );
}

/** Follows a drain until it is done, blocked or cancelled, and answers the exit code. `which`: a drain ID, or a host. */
export function watchDrain(session: Session, which: string, interrupted?: AbortSignal): Promise<number> {
  const view = new DrainView(session.terminal);
  let latest: Drain | undefined;
  return follow(
    session,
    {
      stream: (options) => session.client(DrainService).watchDrain({ drainId: latest?.id ?? which }, options),
      show: (response) => {
        latest = response.drain ?? latest;
        if (session.json) session.terminal.out(jsonLine(WatchDrainResponseSchema, response));
        else if (response.drain !== undefined) view.show(response.drain);
      },
      exitCode: () => (latest === undefined ? undefined : exitCodeOfDrain(latest.state)),
      finish: () => view.finish(),
      farewell: () => drainFarewell(latest?.id ?? which),
    },
    interrupted,
  );
}

function migrationFarewell(migrationId: string, latest: Migration | undefined): string {
  if (latest?.state === MigrationState.MOVED) {
    return `\nThe Machine has moved; its source settles by itself. To see it: ferry migration status ${migrationId}\n`;
  }
  return (
    `\nThe migration goes on by itself.\n` +
    `  to follow it again: ferry migration watch ${migrationId}\n` +
    `  to cancel it:       ferry migration cancel ${migrationId}\n`
  );
}

function drainFarewell(which: string): string {
  return (
    `\nThe drain goes on by itself.\n` +
    `  to follow it again:        ferry drain watch ${which}\n` +
    `  to begin no further moves: ferry drain pause ${which}\n` +
    `  to end it:                 ferry drain cancel ${which}\n`
  );
}
