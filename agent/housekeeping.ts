import type { Clock } from '../shared/clock.ts';
import type { Logger } from '../shared/log.ts';
import type { Handovers } from './handover/handovers.ts';
import { mayDelete } from './handover/source.ts';
import type { HandoverRow, Journal } from './journal.ts';
import { ferryErrorOf } from './volumes/ferry-error.ts';
import type { VolumeStore } from './volumes/store.ts';

const everyMs = 1000;

/** What the housekeeping looks after. */
export interface HousekeepingOptions {
  readonly journal: Journal;
  readonly handovers: Handovers;
  readonly volumes: VolumeStore;
  readonly machines: { forgetDestroyed(): Promise<void> };
  readonly sources: { sweep(): Promise<void> };
  /** Whether the other agent reads what this migration was given. */
  readonly isRead: (migrationId: string) => boolean;
  readonly clock: Clock;
  readonly log: Logger;
  readonly driverSilenceMs: number;
  readonly preparedExpiryMs: number;
  readonly retentionMs: number;
}

/** Once a second: ends hand-overs that nobody drives, and deletes kept copies whose time is over. */
export async function keepHouse(options: HousekeepingOptions, signal: AbortSignal): Promise<void> {
  const { clock, log } = options;
  while (!signal.aborted) {
    // What one of them meets must not keep the others from their work.
    for (const duty of [endUndriven, endSources, deleteKept, forgetDestroyed]) {
      await duty(options).catch((error) => tell(log, error));
    }
    await clock.sleep(everyMs, signal).catch(() => {});
  }
}

function tell(log: Logger, error: unknown): void {
  const known = ferryErrorOf(error);
  log.warn({ reason: known.reason }, `housekeeping: ${known.message}`);
}

async function endUndriven(options: HousekeepingOptions): Promise<void> {
  const { journal, handovers, clock, log, preparedExpiryMs } = options;
  for (const row of journal.openHandovers()) await endIfUndriven(row, options).catch((error) => tell(log, error));
  handovers.forgetEnded(new Set(journal.openHandovers().map(({ migrationId }) => migrationId)));
  const old = journal.offers().filter(({ sinceMs }) => clock.nowMs() - sinceMs >= preparedExpiryMs);
  if (old.length === 0) return;
  journal.write(() => {
    for (const { migrationId } of old) journal.removeOffer(migrationId);
  });
}

async function endIfUndriven(row: HandoverRow, options: HousekeepingOptions): Promise<void> {
  const { handovers, isRead, driverSilenceMs, preparedExpiryMs } = options;
  const { migrationId, role, state } = row;
  // A destination that copies the running Machine is driven itself: it ends when nobody drives it.
  if (role === 'source' && state.step === 'offered' && isRead(migrationId)) handovers.driven(migrationId);
  const silentMs = handovers.silentMs(migrationId);
  if (role === 'source' && state.step === 'stopped' && silentMs >= driverSilenceMs) {
    await handovers.source(migrationId, { type: 'driver-silent' });
  }
  if (role === 'source' && state.step === 'offered' && silentMs >= preparedExpiryMs) {
    await handovers.source(migrationId, { type: 'abort', term: state.term, reason: 'nobody drove this migration' });
  }
  const waiting = role === 'destination' && (state.step === 'prepared' || state.step === 'verified');
  if (waiting && silentMs >= preparedExpiryMs) await handovers.destination(migrationId, { type: 'expire' });
}

async function endSources({ sources }: HousekeepingOptions): Promise<void> {
  await sources.sweep();
}

async function forgetDestroyed({ machines }: HousekeepingOptions): Promise<void> {
  await machines.forgetDestroyed();
}

async function deleteKept({
  journal,
  handovers,
  volumes,
  clock,
  log,
  retentionMs,
}: HousekeepingOptions): Promise<void> {
  for (const volume of journal.volumes()) {
    if (volume.kept === null) continue;
    const row = handovers.row(volume.kept.migrationId);
    if (row?.role !== 'source') continue;
    if (!mayDelete(row.state, volume.kept.sinceMs, clock.nowMs(), retentionMs).ok) continue;
    try {
      await volumes.destroy(volume.id);
      journal.write(() => journal.removeVolume(volume.id));
      log.info({ volume: volume.id, migration: row.migrationId }, 'kept copy deleted after its retention time');
    } catch (error) {
      // One that somebody holds must not keep the others.
      log.warn(
        { volume: volume.id, reason: ferryErrorOf(error).reason },
        `not deleted yet: ${ferryErrorOf(error).message}`,
      );
    }
  }
}
