import { MigrationStep } from '../proto/gen/ferry/v1/migration_pb.ts';

/** The steps of a migration in the order in which they are taken, which is not that of their numbers on the wire. */
export const stepsInOrder: readonly MigrationStep[] = [
  MigrationStep.PLAN,
  MigrationStep.PREPARE,
  MigrationStep.PRECOPY,
  MigrationStep.LOCK,
  MigrationStep.STOP,
  MigrationStep.FORK,
  MigrationStep.RELINQUISH,
  MigrationStep.ACCEPT,
  MigrationStep.START,
  MigrationStep.RELEASE,
  MigrationStep.SETTLE,
];
