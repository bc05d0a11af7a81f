import { DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import type { FerryError } from '../../shared/error.ts';

/** What a command's exit code says. */
export const exitCodes = { done: 0, failed: 1, usage: 2, blocked: 3, unreachable: 4, interrupted: 130 } as const;

/** The exit code of an error, by its reason. */
export function exitCodeOf(error: FerryError): number {
  switch (error.reason) {
    case 'invalid_argument':
    case 'same_host':
      return exitCodes.usage;
    case 'unreachable':
    case 'host_unreachable':
    case 'deadline':
    case 'store_unreachable':
      return exitCodes.unreachable;
    case 'permit_refused':
    case 'no_permit':
    case 'rebuilding':
      return exitCodes.blocked;
    default:
      return error.disposition === 'park' ? exitCodes.blocked : exitCodes.failed;
  }
}

/** The exit code of a migration that a command waited for. */
export function exitCodeOfMigration(state: MigrationState): number {
  if (state === MigrationState.MOVED) return exitCodes.done;
  return state === MigrationState.PARKED ? exitCodes.blocked : exitCodes.failed;
}

/** The exit code of a drain that a command waited for; undefined while it goes on. */
export function exitCodeOfDrain(state: DrainState): number | undefined {
  switch (state) {
    case DrainState.DONE:
      return exitCodes.done;
    case DrainState.BLOCKED:
      return exitCodes.blocked;
    case DrainState.CANCELLED:
      return exitCodes.failed;
    default:
      return undefined;
  }
}

/** What was wrong, what was expected, what to do next; for people, or as one JSON document. */
export function renderError(error: FerryError, json: boolean): string {
  const { reason, message, field, expected, nextAction, facts } = error;
  if (json) {
    const document = { error: { reason, message, field, expected, nextAction, facts }, exitCode: exitCodeOf(error) };
    return `${JSON.stringify(document, undefined, 2)}\n`;
  }
  const lines = [`ferry: ${message} [${reason}]`];
  if (expected !== '' && !message.includes(expected)) lines.push(`  expected: ${expected}`);
  if (nextAction !== '') lines.push(`  next: ${nextAction}`);
  return `${lines.join('\n')}\n`;
}
