import {
  type CopyProgress,
  type Migration,
  MigrationState,
  MigrationStep,
  type StepReport,
} from '../../proto/gen/ferry/v1/migration_pb.ts';
import { downtimeLines } from './machine.ts';
import { keyValues, table } from './table.ts';
import { betweenMs, formatBytes, formatLeft, formatMs, formatTime, word } from './units.ts';

/** Number of the last step. */
const stepsTotal = MigrationStep.SETTLE;

/** "moved", "moved back", ... */
export function migrationState(migration: Migration): string {
  return word(MigrationState, migration.state).replace('_', ' ');
}

/** "[ 4/10] stop         102 ms  what it did". */
export function stepLine(step: StepReport): string {
  const tookMs = betweenMs(step.startedAt, step.endedAt);
  const took = tookMs === undefined ? '...' : formatMs(tookMs);
  const number = String(step.step).padStart(2);
  return `[${number}/${stepsTotal}] ${word(MigrationStep, step.step).padEnd(10)} ${took.padStart(9)}  ${step.message}`.trimEnd();
}

/** "512.0 MiB of 1.0 GiB (50 %), 100.0 MiB/s, 0:05 left". */
export function copyText(progress: CopyProgress): string {
  const parts = [
    `${formatBytes(progress.bytesDone)} of ${formatBytes(progress.bytesTotal)} (${copyPercent(progress)} %)`,
    `${formatBytes(progress.bytesTransferred)} sent`,
  ];
  if (progress.bytesResumed > 0n) parts.push(`${formatBytes(progress.bytesResumed)} were there already`);
  if (progress.bytesPerSecond > 0n) parts.push(`${formatBytes(progress.bytesPerSecond)}/s`);
  if (progress.remainingMs !== undefined) parts.push(`${formatLeft(progress.remainingMs)} left`);
  return `${progress.phase}: ${parts.join(', ')}`;
}

/** Whole percent that the destination holds. */
export function copyPercent(progress: CopyProgress): number {
  return progress.bytesTotal === 0n ? 100 : Number((progress.bytesDone * 100n) / progress.bytesTotal);
}

/** How a migration ended: where the Machine is, why, what to do next, its downtime and both roots. */
export function renderOutcome(migration: Migration): string {
  const { machineId, source, destination } = migration;
  const tookMs = betweenMs(migration.createdAt, migration.endedAt);
  const took = tookMs === undefined ? '' : ` in ${formatMs(tookMs)}`;
  let text = '';
  switch (migration.state) {
    case MigrationState.MOVED:
      text += `Moved: Machine ${machineId} is on ${destination} (from ${source}, epoch ${migration.epoch})${took}.\n`;
      break;
    case MigrationState.MOVED_BACK:
      text += `Moved back: Machine ${machineId} is on ${source} again${took}; nothing was lost.\n`;
      break;
    case MigrationState.PARKED:
      text += `Parked: Machine ${machineId} waits for an operator.\n`;
      break;
    default:
      text += `Machine ${machineId} is still on its way from ${source} to ${destination}.\n`;
  }
  if (migration.reason !== '') text += `  why:  ${migration.reason}\n`;
  if (migration.nextAction !== '') text += `  next: ${migration.nextAction}\n`;
  if (migration.returnedBy !== '') text += `  taken back by ${migration.returnedBy}\n`;
  if (migration.downtime !== undefined) text += `Downtime\n${downtimeLines(migration.downtime)}`;
  if (migration.sourceRoot !== '' && migration.destinationRoot !== '') {
    const equal = migration.sourceRoot === migration.destinationRoot;
    text += `Roots (${equal ? 'equal' : 'DIFFERENT'})\n${keyValues([
      ['source', migration.sourceRoot],
      ['destination', migration.destinationRoot],
    ])}`;
  }
  return text;
}

/** `migration status`. */
export function renderMigrationStatus(migration: Migration): string {
  const pairs: [string, string][] = [
    ['Machine', migration.machineId],
    ['Network', migration.network],
    ['From', migration.source],
    ['To', migration.destination],
    ['Started', formatTime(migration.createdAt)],
    ['Ended', formatTime(migration.endedAt)],
    ['Step', word(MigrationStep, migration.step)],
    ['Attempt', String(migration.attempt)],
    ['Lock', migration.holdsLock ? `held (fence ${migration.fence})` : 'not held'],
    ['Settled', migration.settled ? 'yes' : 'no'],
  ];
  if (migration.waitingFor !== '') pairs.push(['Waiting for', migration.waitingFor]);
  if (migration.cancelRequested) pairs.push(['Cancel', 'asked for']);
  if (migration.failure !== '') pairs.push(['Last failure', migration.failure]);
  if (migration.destinationVolumeId !== '') pairs.push(['New volume', migration.destinationVolumeId]);
  if (migration.returns !== '') pairs.push(['Takes back', migration.returns]);
  if (migration.progress !== undefined) pairs.push(['Copy', copyText(migration.progress)]);
  const steps = migration.steps.map((step) => `  ${stepLine(step)}\n`).join('');
  const head = `Migration ID: ${migration.id}\nState: ${migrationState(migration)}\n\n${keyValues(pairs)}`;
  return `${head}\nSteps\n${steps}\n${renderOutcome(migration)}`;
}

/** `migration list`. */
export function renderMigrationList(migrations: readonly Migration[]): string {
  if (migrations.length === 0) return 'No migrations.\n';
  const rows = migrations.map((migration) => [
    migration.id,
    migration.machineId,
    migrationState(migration),
    word(MigrationStep, migration.step),
    migration.source,
    migration.destination,
    migration.downtime === undefined ? '' : formatMs(migration.downtime.totalMs),
    formatTime(migration.createdAt),
    migration.waitingFor || migration.reason,
  ]);
  return table(['ID', 'Machine', 'State', 'Step', 'From', 'To', 'Downtime', 'Started', 'Info'], rows);
}
