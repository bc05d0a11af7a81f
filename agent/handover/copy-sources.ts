import type { Export } from '../../nbd/export.ts';
import { FerryError } from '../../shared/error.ts';
import type { Logger } from '../../shared/log.ts';
import { ferryErrorOf } from '../volumes/ferry-error.ts';
import type { Handovers, SourceRow } from './handovers.ts';

/** What the destination's copy holds; both '' when it holds nothing. */
export interface Held {
  readonly snapshot: string;
  readonly root: string;
}

/** Bytes that can be exported under a name: they never change under it. */
export interface Opened {
  readonly snapshot: string;
  /** Block status context of what may differ from what the destination has; '' = everything may. */
  readonly baseContext: string;
  readonly changedBytes: number;
}

/** A round of the running Machine. With `refused` and no snapshot there is nothing to export. */
export interface OpenedLive extends Opened {
  readonly mode: string;
  readonly modeReason: string;
  readonly refused: '' | 'no_room' | 'too_many_extents' | 'not_supported';
  readonly snapshotMs: number;
}

/** The source still reads its volume to find what differs. */
export interface Comparing {
  readonly comparing: true;
}

/** What the hand-over needs of the source's side of one volume's copy. */
export interface VolumeSource {
  live(round: number, have: Held): Promise<OpenedLive | Comparing>;
  stopped(have: Held): Promise<Opened | Comparing>;
  openExport(snapshot: string): Promise<Export>;
  root(signal: AbortSignal): Promise<string>;
  dropSnapshots(reason: string): Promise<void>;
  end(keepAs?: string): Promise<void>;
}

/** What the sources work with. */
export interface CopySourcesOptions {
  readonly handovers: Pick<Handovers, 'row' | 'driven'>;
  /** Opens what is on the disk for this migration, or begins it. */
  readonly open: (row: SourceRow) => Promise<VolumeSource>;
  readonly freeBytes: () => Promise<number>;
  /** Room that the Machines of this host must keep while snapshots are held. */
  readonly reserveBytes: number;
  readonly log: Logger;
}

/** The source's side of all copies of one host: one for each migration, from its first export to its end. */
export class CopySources {
  readonly #options: CopySourcesOptions;
  readonly #sources = new Map<string, Promise<VolumeSource>>();
  readonly #dropped = new Set<string>();

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

  /** Opens an export of one of the snapshots that this migration was given. */
  async openExport(migrationId: string, snapshot: string): Promise<Export> {
    const source = await this.#sources.get(migrationId);
    if (source === undefined) throw new FerryError('not_yet', `the copy of ${migrationId} has ended`);
    return source.openExport(snapshot);
  }

  /** Root of the stopped volume. */
  async root(row: SourceRow, signal: AbortSignal): Promise<string> {
    return (await this.of(row)).root(signal);
  }

  /**
   * Drops the snapshots and what is known of the volume's bytes; with `keepAs` the sums stay beside the volume, which has
   * this root and is not written to any more. Repeatable; a failure is logged, and made good at the agent's next start.
   */
  async end(row: SourceRow, keepAs?: string): Promise<void> {
    const { log } = this.#options;
    if (row.detail.sourceVolumeId === '') return;
    try {
      const source = await this.of(row);
      this.#sources.delete(row.migrationId);
      this.#dropped.delete(row.migrationId);
      await source.end(keepAs);
    } catch (error) {
      const { reason, message } = ferryErrorOf(error);
      log.warn({ migration: row.migrationId, reason }, `the snapshots of this copy are still here: ${message}`);
    }
  }

  /** Once a second: ends those whose migration is over, and gives up snapshots when the disk gets full. */
  async watch(): Promise<void> {
    const { handovers, freeBytes, reserveBytes, log } = this.#options;
    for (const migrationId of this.#sources.keys()) {
      const row = handovers.row(migrationId);
      if (row?.role !== 'source') continue;
      const { step } = row.state;
      if (step === 'aborted' || step === 'returned') await this.end(row as SourceRow);
      if (step !== 'offered' || this.#dropped.has(migrationId)) continue;
      const free = await freeBytes();
      if (free >= reserveBytes) continue;
      this.#dropped.add(migrationId);
      log.warn(
        { migration: migrationId, reason: 'no_room', free, reserve: reserveBytes },
        'the disk gets full: no more snapshots for this copy; it goes on when its Machine is stopped',
      );
      await (await this.of(row as SourceRow)).dropSnapshots('no_room');
    }
  }
}
