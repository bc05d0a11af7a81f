import { NbdError } from '../../nbd/error.ts';
import type { Export } from '../../nbd/export.ts';
import type { Logger } from '../../shared/log.ts';
import type { CopySource } from '../transfer/copy-source.ts';
import { ferryErrorOf } from '../volumes/ferry-error.ts';
import type { VolumeStore } from '../volumes/store.ts';
import type { Handovers, SourceRow } from './handovers.ts';

/** What the hand-over needs of the source's side of one volume's copy. */
export type VolumeSource = Pick<CopySource, 'live' | 'stopped' | 'openExport' | 'root' | 'end'>;

/** What the sources work with. */
export interface CopySourcesOptions {
  readonly handovers: Pick<Handovers, 'row'>;
  /** Opens what is on the disk for this migration, or begins it. */
  readonly open: (row: SourceRow) => Promise<VolumeSource>;
  readonly volumes: Pick<VolumeStore, 'list' | 'snapshots' | 'dropSnapshot'>;
  readonly log: Logger;
}

/** The source's side of all copies of one host: one for each migration, from its first export to its end. */
export class CopySources {
  readonly #options: CopySourcesOptions;
  readonly #sources = new Map<string, Promise<VolumeSource>>();
  /** Those whose hand-over may end them once more. */
  readonly #ended = new Set<string>();

  constructor(options: CopySourcesOptions) {
    this.#options = options;
  }

  /** The source of a migration's copy. */
  of(row: SourceRow): Promise<VolumeSource> {
    const known = this.#sources.get(row.migrationId);
    if (known !== undefined) return known;
    const opening = this.#options.open(row).catch((error) => {
      this.#sources.delete(row.migrationId);
      throw ferryErrorOf(error);
    });
    this.#sources.set(row.migrationId, opening);
    return opening;
  }

  /** Number of those whose end is remembered. */
  get endedCount(): number {
    return this.#ended.size;
  }

  /** Opens an export of one of the snapshots that this migration was given. */
  async openExport(migrationId: string, snapshot: string): Promise<Export> {
    const source = await this.#sources.get(migrationId);
    if (source === undefined) throw new NbdError('unknown_export', `the copy of ${migrationId} has ended`);
    return source.openExport(snapshot);
  }

  /** Root of the stopped volume. */
  async root(row: SourceRow, signal: AbortSignal): Promise<string> {
    return (await this.of(row)).root(signal);
  }

  /**
   * Drops the snapshots and what is known of the volume's bytes. Of a volume that was given up the sums stay beside it: it has
   * the ticket's root and is not written to any more. Repeatable; what could not be dropped is at the agent's next start.
   */
  async end(row: SourceRow): Promise<void> {
    const { migrationId, state } = row;
    if (row.detail.sourceVolumeId === '' || this.#ended.has(migrationId)) return;
    if (isOver(row) && !this.#sources.has(migrationId)) return;
    this.#ended.add(migrationId);
    try {
      const source = await this.of(row);
      this.#sources.delete(migrationId);
      await source.end('ticket' in state ? state.ticket.root : undefined);
    } catch (error) {
      const { reason, message } = ferryErrorOf(error);
      this.#options.log.warn({ migration: migrationId, reason }, `something of this copy's source is left: ${message}`);
    }
  }

  /**
   * Ends those whose migration is over. Called once a second. Not one that waits for its ticket's answer: its Machine is down, and
   * giving back the blocks of a large snapshot would keep the disk busy.
   */
  async sweep(): Promise<void> {
    for (const migrationId of this.#sources.keys()) {
      const row = this.#options.handovers.row(migrationId);
      if (row?.role !== 'source' || isActive(row as SourceRow) || row.state.step === 'relinquished') continue;
      await this.end(row as SourceRow);
    }
    for (const migrationId of this.#ended) {
      const row = this.#options.handovers.row(migrationId);
      if (row?.role !== 'source' || isOver(row as SourceRow)) this.#ended.delete(migrationId);
    }
  }

  /** Drops snapshots that an agent which was killed has left behind; at the start. */
  async recover(active: readonly SourceRow[]): Promise<void> {
    const { volumes, log } = this.#options;
    const wanted = active.filter(isActive).map((row) => row.migrationId);
    for (const { volumeId } of (await volumes.list()).volumes) {
      for (const { name } of await volumes.snapshots(volumeId)) {
        if (wanted.some((migrationId) => name.startsWith(`${migrationId}-`))) continue;
        try {
          await volumes.dropSnapshot(volumeId, name);
          log.warn({ volume: volumeId, snapshot: name }, 'a snapshot that no migration needs was dropped');
        } catch (error) {
          // The others take room, too.
          log.error({ volume: volumeId, snapshot: name, err: error }, 'a snapshot that no migration needs is left');
        }
      }
    }
  }
}

/** Whether nothing of a hand-over will end its source's side again: see `pendingSource`. */
function isOver({ state }: SourceRow): boolean {
  if (state.step === 'aborted' || state.step === 'returned') return state.up;
  return state.step === 'settled' || state.step === 'tombstoned' || state.step === 'parked';
}

function isActive({ state }: SourceRow): boolean {
  return state.step === 'offered' || state.step === 'stopping' || state.step === 'stopped';
}
