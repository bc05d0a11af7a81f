// Past 300 lines because it is one story: a copy at its destination, from the kept copy that it begins with to its root.
import { create } from '@bufbuild/protobuf';
import type { OpenExportResponse } from '../../proto/gen/ferry/v1/handover_pb.ts';
import { type CopyProgress, CopyProgressSchema } from '../../proto/gen/ferry/v1/migration_pb.ts';
import type { Clock } from '../../shared/clock.ts';
import { FerryError } from '../../shared/error.ts';
import type { Logger } from '../../shared/log.ts';
import { ferryErrorOf } from '../volumes/ferry-error.ts';
import type { VolumeInfo } from '../volumes/info.ts';
import type { DestinationRow, Handovers } from './handovers.ts';
import type { ExportAsk, Peers } from './peers.ts';
import {
  isWorthARound,
  judge,
  newNote,
  type PrecopyEnd,
  type PrecopyNote,
  predictFinalMs,
  type Round,
  withRound,
} from './rounds.ts';
import { noVolumeRoot, type VolumeTransfer } from './transfer.ts';

/** Pause between two questions to a source that still compares, in milliseconds. */
const comparingPauseMs = 200;
/** A round under the lock is not repeated within this time: the order for it is, while it is waited for. */
const lastRoundMs = 2_000;
const seedPrefix = 'root:';

/** Begins a copy with a kept one. */
export interface Seeder {
  /** Fills the image of a new copy from a kept volume's, under the snapshot name `root:<root>`; repeatable. False if it cannot. */
  seed(
    from: { readonly volumeId: string; readonly root: string },
    to: {
      readonly image: VolumeInfo;
      readonly statePath: string;
      readonly signal: AbortSignal;
      readonly onProgress: (bytesDone: number) => void;
    },
  ): Promise<boolean>;
}

/** What the copies work with. */
export interface VolumeCopiesOptions {
  readonly handovers: Handovers;
  readonly volumes: {
    inspect(volumeId: string): Promise<VolumeInfo | null>;
    statePath(volumeId: string, name: string): string;
  };
  readonly peers: Pick<Peers, 'openExport'>;
  readonly transfer: VolumeTransfer;
  readonly seeder: Seeder;
  readonly clock: Clock;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

/** What a coordinator wants of the copy of a running Machine. */
export interface PrecopyWish {
  /** Longest time that the last copy may take. */
  readonly budgetMs: number;
  /** The network is locked: one more round, however small. */
  readonly lastRound: boolean;
}

/** One round, or why the source makes none. */
interface MadeRound {
  readonly mode: string;
  readonly reason: string;
  readonly refused: PrecopyEnd;
  readonly round: Round | null;
}

interface UnderWay {
  readonly kind: 'live' | 'stopped';
  readonly over: AbortController;
  readonly done: Promise<void>;
}

/**
 * The copies that this host receives: rounds while the Machine runs, then the stopped volume. What a copy holds stands beside
 * its image, so each goes on where it was cut. Only the stopped volume's copy is ever called verified.
 */
export class VolumeCopies {
  readonly #options: VolumeCopiesOptions;
  readonly #underWay = new Map<string, UnderWay>();
  readonly #progress = new Map<string, CopyProgress>();
  /** When the round under the lock was done. */
  readonly #lastRoundMs = new Map<string, number>();

  constructor(options: VolumeCopiesOptions) {
    this.#options = options;
  }

  /** Whether a copy is under way. */
  isCopying(migrationId: string): boolean {
    return this.#underWay.has(migrationId);
  }

  /** How far the copy is. */
  progress(migrationId: string): CopyProgress | undefined {
    return this.#progress.get(migrationId);
  }

  /** Copies the stopped volume unless it is verified already. Ends rounds that still run; answers when it is under way. */
  async copy(migrationId: string): Promise<void> {
    const { handovers } = this.#options;
    if (this.#underWay.get(migrationId)?.kind === 'live') await this.#cut(migrationId);
    const row = this.#prepared(migrationId);
    if (row === null || this.#underWay.has(migrationId)) return;
    if (row.detail.volumeSizeBytes === 0) {
      await handovers.destination(migrationId, { type: 'verified', root: noVolumeRoot });
      return;
    }
    this.#begin(migrationId, 'stopped', (signal) => this.#copyStopped(row, signal));
  }

  /**
   * Makes rounds until the last copy fits the budget, or more rounds do not help; what was decided before stands, but for
   * one more round when much has changed since, or when the last one is asked for.
   */
  async precopy(migrationId: string, wish: PrecopyWish): Promise<void> {
    const row = this.#prepared(migrationId);
    if (row === null || this.#underWay.has(migrationId)) return;
    const note = row.detail.precopy ?? newNote;
    if (row.detail.volumeSizeBytes === 0) {
      if (note.ended === '') this.#note(row, { ...note, mode: 'none', ...ended('fits', 'there is no volume') });
      return;
    }
    const nowMs = this.#options.clock.nowMs();
    const left = predictFinalMs(note.rounds, note.mode, row.detail.volumeAllocatedBytes, nowMs);
    const again = wish.lastRound
      ? nowMs - (this.#lastRoundMs.get(migrationId) ?? 0) >= lastRoundMs
      : isWorthARound(note, wish.budgetMs, left, nowMs);
    const mayGoOn = note.ended === '' || ((note.ended === 'fits' || note.ended === 'not_shrinking') && again);
    if (!mayGoOn) return;
    this.#begin(migrationId, 'live', (signal) => this.#rounds(row, wish, signal));
  }

  /** Ends whatever is under way for a migration and forgets its progress. */
  async end(migrationId: string): Promise<void> {
    await this.#cut(migrationId);
    this.#progress.delete(migrationId);
    this.#lastRoundMs.delete(migrationId);
  }

  async #cut(migrationId: string): Promise<void> {
    const underWay = this.#underWay.get(migrationId);
    underWay?.over.abort();
    await underWay?.done;
  }

  /** The row of a copy that is not verified, or null. */
  #prepared(migrationId: string): DestinationRow | null {
    const row = this.#options.handovers.row(migrationId);
    return row?.role === 'destination' && row.state.step === 'prepared' ? (row as DestinationRow) : null;
  }

  #begin(migrationId: string, kind: UnderWay['kind'], work: (signal: AbortSignal) => Promise<void>): void {
    const { handovers } = this.#options;
    const over = new AbortController();
    const signal = AbortSignal.any([over.signal, this.#options.signal]);
    const done = work(signal)
      .catch((error) => {
        if (!signal.aborted) handovers.setFailure(migrationId, ferryErrorOf(error));
      })
      .finally(() => {
        this.#underWay.delete(migrationId);
        handovers.changed(migrationId);
      });
    this.#underWay.set(migrationId, { kind, over, done });
  }

  async #rounds(row: DestinationRow, wish: PrecopyWish, signal: AbortSignal): Promise<void> {
    const { handovers, clock } = this.#options;
    const { migrationId, detail } = row;
    for (;;) {
      const before = this.#noted(migrationId);
      const made = await this.#round(row, (before.rounds.at(-1)?.number ?? 0) + 1, signal);
      // The round has noted with what it began.
      const { baseRoot } = this.#noted(migrationId);
      const after = { ...(made.round === null ? before : withRound(before, made.round)), baseRoot };
      const mode = made.mode || before.mode;
      const nowMs = clock.nowMs();
      const predictedFinalMs = predictFinalMs(after.rounds, mode, detail.volumeAllocatedBytes, nowMs);
      const verdict =
        made.refused === ''
          ? judge(after.rounds, wish.budgetMs, predictedFinalMs)
          : { ended: made.refused, reason: made.reason };
      // A round that was asked for on top of a decision does not open it again.
      const stands = before.ended !== '' && verdict.ended === '';
      const note = {
        ...after,
        mode,
        modeReason: made.reason || before.modeReason,
        ...(stands ? {} : ended(verdict.ended, verdict.reason)),
        predictedFinalMs,
      };
      this.#note(row, note);
      handovers.changed(migrationId);
      if (wish.lastRound) this.#lastRoundMs.set(migrationId, nowMs);
      if (note.ended !== '' || wish.lastRound) return;
    }
  }

  /** One round of the running Machine; null when the source makes none. */
  async #round(row: DestinationRow, number: number, signal: AbortSignal): Promise<MadeRound> {
    const { clock } = this.#options;
    const askedAtMs = clock.nowMs();
    const opened = await this.#open(row, number, signal);
    const { mode, modeReason: reason } = opened;
    const refused = opened.refused as PrecopyEnd;
    if (opened.token === '' && !opened.unchanged) {
      return { mode, reason, refused: refused || 'not_supported', round: null };
    }
    const { bytesTransferred, bytesResumed } = opened.unchanged
      ? { bytesTransferred: 0, bytesResumed: 0 }
      : await this.#pull(row, number, opened, signal);
    const round: Round = {
      number,
      changedBytes: Number(opened.changedBytes),
      bytesTransferred,
      bytesResumed,
      durationMs: Math.max(1, Math.round(clock.nowMs() - askedAtMs)),
      snapshotMs: Number(opened.snapshotMs),
      askedAtMs,
    };
    // A source without snapshots can be read once while the Machine runs, and then only when it has stopped.
    return { mode, reason, refused: refused || (mode === 'live' ? 'not_supported' : ''), round };
  }

  async #copyStopped(row: DestinationRow, signal: AbortSignal): Promise<void> {
    const { handovers, clock } = this.#options;
    const { migrationId } = row;
    // What the rounds had done says nothing of how far this one is.
    this.#progress.delete(migrationId);
    // The root of a copy that was verified before does not outlive its bytes.
    const reopened = handovers.destination(migrationId, { type: 'receive' });
    const [opened] = await Promise.all([this.#open(row, null, signal), reopened]);
    const copied = { atMs: 0 };
    const { root, bytesTransferred } = await this.#pull(row, null, opened, signal, () => {
      copied.atMs ||= clock.nowMs();
    });
    const verifiedAtMs = clock.nowMs();
    const known = handovers.row(migrationId)?.detail.precopy;
    const note = known ?? { ...newNote, mode: 'none', ...ended('cold', 'the Machine was stopped first') };
    const precopy = { ...note, finalBytes: bytesTransferred };
    const detail = { copiedAtMs: copied.atMs || verifiedAtMs, verifiedAtMs, precopy };
    await handovers.destination(migrationId, { type: 'verified', root }, { detail });
  }

  /** Opens the round's export, or the stopped volume's; waits while the source compares. */
  async #open(row: DestinationRow, round: number | null, signal: AbortSignal): Promise<OpenExportResponse> {
    const { transfer, volumes } = this.#options;
    const { volumeId } = row.state.subject;
    const image = await volumes.inspect(volumeId);
    if (image === null) throw new FerryError('io_error', `the copy ${volumeId} is not here any more`);
    const statePath = volumes.statePath(volumeId, 'receiving.state');
    await this.#seed(row, image, statePath, signal);
    return this.#ask(row, round, await transfer.held(statePath), signal);
  }

  async #ask(
    row: DestinationRow,
    round: number | null,
    held: string,
    signal: AbortSignal,
  ): Promise<OpenExportResponse> {
    const { peers, transfer, clock } = this.#options;
    const { migrationId, detail } = row;
    const ask: ExportAsk = {
      round,
      haveSnapshot: held,
      haveRoot: held.startsWith(seedPrefix) ? held.slice(seedPrefix.length) : '',
    };
    for (;;) {
      signal.throwIfAborted();
      const opened = await peers.openExport(detail.peer, migrationId, transfer.fingerprint, ask);
      if (!opened.comparing) return opened;
      this.#show(row, 'comparing', opened.comparedBytes, opened.compareBytesTotal);
      await clock.sleep(comparingPauseMs, signal);
    }
  }

  async #pull(
    row: DestinationRow,
    round: number | null,
    opened: OpenExportResponse,
    signal: AbortSignal,
    onCopied: () => void = () => {},
  ) {
    const { transfer, volumes } = this.#options;
    const { migrationId, detail, state } = row;
    const image = (await volumes.inspect(state.subject.volumeId))!;
    const statePath = volumes.statePath(state.subject.volumeId, 'receiving.state');
    const held = await transfer.held(statePath);
    const { rounds } = this.#noted(migrationId);
    const transferred = rounds.reduce((bytes, each) => bytes + each.bytesTransferred, 0);
    const resumed = rounds.reduce((bytes, each) => bytes + each.bytesResumed, 0);
    let isCopying = false;
    return transfer.pull({
      host: addressOf(detail.peer.address),
      opened,
      openAgain: async () => this.#ask(row, round, await transfer.held(statePath), signal),
      held,
      imagePath: image.path,
      statePath,
      sizeBytes: detail.volumeSizeBytes,
      isLive: round !== null,
      signal,
      onProgress: (progress) => {
        if (isCopying && progress.phase !== 'copying') onCopied();
        isCopying = progress.phase === 'copying';
        progress.bytesTransferred += BigInt(transferred);
        progress.bytesResumed += BigInt(resumed);
        this.#progress.set(migrationId, progress);
      },
    });
  }

  /** Begins the copy with what this host kept of the Machine's volume, once, and without it when that does not work. */
  async #seed(row: DestinationRow, image: VolumeInfo, statePath: string, signal: AbortSignal): Promise<void> {
    const { transfer, seeder, log, handovers } = this.#options;
    const { migrationId, detail } = row;
    const { seed } = handovers.row(migrationId)?.detail ?? detail;
    if (!seed) return;
    const held = await transfer.held(statePath);
    if (held !== '' && !held.startsWith(seedPrefix)) return;
    const show = (bytesDone: number) => this.#show(row, 'seeding', BigInt(bytesDone), BigInt(detail.volumeSizeBytes));
    show(0);
    try {
      if (!(await seeder.seed(seed, { image, statePath, signal, onProgress: show })))
        throw new FerryError('unknown_volume', 'it is not there, or nothing is known of its bytes');
      const { precopy = newNote } = handovers.row(migrationId)?.detail ?? detail;
      handovers.note(migrationId, { precopy: { ...precopy, baseRoot: seed.root } });
      log.info({ migration: migrationId, volume: seed.volumeId }, 'the copy begins with the kept one');
    } catch (error) {
      signal.throwIfAborted();
      const { reason, message } = ferryErrorOf(error);
      log.warn({ migration: migrationId, volume: seed.volumeId, reason }, `the kept copy is of no use: ${message}`);
      handovers.note(migrationId, { seed: null });
    }
  }

  #show(row: DestinationRow, phase: 'seeding' | 'comparing', bytesDone: bigint, bytesTotal: bigint): void {
    this.#progress.set(row.migrationId, create(CopyProgressSchema, { bytesDone, bytesTotal, phase }));
  }

  #noted(migrationId: string): PrecopyNote {
    return this.#options.handovers.row(migrationId)?.detail.precopy ?? newNote;
  }

  #note(row: DestinationRow, precopy: PrecopyNote): void {
    this.#options.handovers.note(row.migrationId, { precopy });
  }
}

function ended(end: PrecopyEnd, reason: string): Pick<PrecopyNote, 'ended' | 'endedReason'> {
  return { ended: end, endedReason: reason };
}

/** The host of "host:port". */
export function addressOf(hostAndPort: string): string {
  return hostAndPort.slice(0, hostAndPort.lastIndexOf(':')).replace(/^\[|\]$/g, '');
}
