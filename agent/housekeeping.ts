import type { Clock } from '../shared/clock.ts';
import type { Logger } from '../shared/log.ts';
import type { Handovers } from './handover/handovers.ts';
import { mayDelete } from './handover/source.ts';
import type { Journal } from './journal.ts';
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
    try {
      await endUndriven(options);
      await options.sources.sweep();
      await deleteKept(options);
      await options.machines.forgetDestroyed();
    } catch (error) {
      const known = ferryErrorOf(error);
      log.warn({ reason: known.reason }, `housekeeping: ${known.message}`);
    }
    await clock.sleep(everyMs, signal).catch(() => {});
  }
}

async function endUndriven({
  journal,
  handovers,
  isRead,
  driverSilenceMs,
  preparedExpiryMs,
}: HousekeepingOptions): Promise<void> {
  for (const row of journal.openHandovers()) {
    // A destination that copies the running Machine is driven itself: it ends when nobody drives it.
    if (row.role === 'source' && row.state.step === 'offered' && isRead(row.migrationId))
      handovers.driven(row.migrationId);
    const silentMs = handovers.silentMs(row.migrationId);
    if (row.role === 'source' && row.state.step === 'stopped' && silentMs >= driverSilenceMs) {
      await handovers.source(row.migrationId, { type: 'driver-silent' });
    }
    if (row.role === 'source' && row.state.step === 'offered' && silentMs >= preparedExpiryMs) {
      await handovers.source(row.migrationId, {
        type: 'abort',
        term: row.state.term,
        reason: 'nobody drove this migration',
      });
    }
    const waiting = row.role === 'destination' && (row.state.step === 'prepared' || row.state.step === 'verified');
    if (waiting && silentMs >= preparedExpiryMs) await handovers.destination(row.migrationId, { type: 'expire' });
  }
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
