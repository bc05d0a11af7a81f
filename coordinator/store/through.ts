import { type Migration, MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';

/** Moved or moved back: nothing about where the Machine is will change any more. */
export function isThrough({ state }: Pick<Migration, 'state'>): boolean {
  return state === MigrationState.MOVED || state === MigrationState.MOVED_BACK;
}
