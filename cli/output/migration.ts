import {
  type CopyProgress,
  type Migration,
  MigrationState,
  MigrationStep,
  MigrationStrategy,
  MoveReason,
  type StepReport,
} from '../../proto/gen/ferry/v1/migration_pb.ts';
import { stepsInOrder } from '../../shared/migration-steps.ts';
import { downtimeLines } from './machine.ts';
import { renderPrecopy } from './precopy.ts';
import { keyValues, table } from './table.ts';
import { betweenMs, formatBytes, formatLeft, formatMs, formatTime, word } from './units.ts';
import { waitText } from './wait.ts';

/** A step with its place in the order: "[ 4/10] stop      ". */
export function stepLabel(step: MigrationStep): string {
  const number = String(Math.max(0, stepsInOrder.indexOf(step))).padStart(2);
  return `[${number}/${stepsInOrder.length - 1}] ${word(MigrationStep, step).padEnd(10)}`;
}

/** "maintenance, ordered by alice", "ordered by alice", ...; empty when nobody said anything. */
export function orderText(reason: MoveReason, orderedBy: string): string {
  const parts = reason === MoveReason.UNSPECIFIED ? [] : [word(MoveReason, reason)];
  if (orderedBy !== '') parts.push(`ordered by ${orderedBy}`);
  return parts.join(', ');
}

/** What a migration waits for, in words, with kind and time where known; empty when for nothing. */
function waitingFor({ waitingFor, wait }: Migration): string {
  return wait === undefined ? waitingFor : waitText(wait, waitingFor || wait.message);
}

/** "moved", "moved back", ... */
export function migrationState(migration: Migration): string {
  return word(MigrationState, migration.state).replace('_', ' ');
}

/** "[ 4/10] stop         102 ms  what it did". */
export function stepLine(step: StepReport): string {
  const tookMs = betweenMs(step.startedAt, step.endedAt);
  const took = tookMs === undefined ? '...' : formatMs(tookMs);
  return `${stepLabel(step.step)} ${took.padStart(9)}  ${step.message}`.trimEnd();
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

/** "precopy" or "cold". */
function strategyOf(strategy: MigrationStrategy): string {
  return strategy === MigrationStrategy.UNSPECIFIED ? 'precopy' : word(MigrationStrategy, strategy);
}

/** `migration status`. */
export function renderMigrationStatus(migration: Migration): string {
  const pairs: [string, string][] = [
    ['Machine', migration.machineId],
    ['Network', migration.network],
    ['From', migration.source],
    ['To', migration.destination],
    ['Strategy', strategyOf(migration.strategy)],
    ['Started', formatTime(migration.createdAt)],
    ['Ended', formatTime(migration.endedAt)],
    ['Step', word(MigrationStep, migration.step)],
    ['Attempt', String(migration.attempt)],
    ['Lock', migration.holdsLock ? `held (fence ${migration.fence})` : 'not held'],
    ['Settled', migration.settled ? 'yes' : 'no'],
  ];
  const order = orderText(migration.moveReason, migration.orderedBy);
  if (order !== '') pairs.push(['Why', order]);
  if (migration.drainId !== '') pairs.push(['Drain', migration.drainId]);
  if (migration.priority !== 0) pairs.push(['Priority', String(migration.priority)]);
  if (migration.driver !== '') pairs.push(['Driven by', `${migration.driver} (term ${migration.term})`]);
  const waits = waitingFor(migration);
  if (waits !== '') pairs.push(['Waiting for', waits]);
  if (migration.cancelRequested) pairs.push(['Cancel', 'asked for']);
  if (migration.failure !== '') pairs.push(['Last failure', migration.failure]);
  if (migration.destinationVolumeId !== '') pairs.push(['New volume', migration.destinationVolumeId]);
  if (migration.returns !== '') pairs.push(['Takes back', migration.returns]);
  if (migration.progress !== undefined) pairs.push(['Copy', copyText(migration.progress)]);
  const steps = migration.steps.map((step) => `  ${stepLine(step)}\n`).join('');
  const head = `Migration ID: ${migration.id}\nState: ${migrationState(migration)}\n\n${keyValues(pairs)}`;
  const { precopy, downtimeBudgetMs } = migration;
  const copied = precopy === undefined ? '' : `\n${renderPrecopy(precopy, downtimeBudgetMs)}`;
  return `${head}\nSteps\n${steps}${copied}\n${renderOutcome(migration)}`;
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
    migration.waitingFor || migration.wait?.message || migration.reason,
  ]);
  return table(['ID', 'Machine', 'State', 'Step', 'From', 'To', 'Downtime', 'Started', 'Info'], rows);
}
