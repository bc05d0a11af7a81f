/**
 * The source's side of one volume copy. Longer than most files because it is one story: which way to copy, what each
 * round exports, what changed since the round before, what the last one must bring, and the root.
 */
import { NbdError } from '../../nbd/error.ts';
import type { Export } from '../../nbd/export.ts';
import type { Clock } from '../../shared/clock.ts';
import type { Logger } from '../../shared/log.ts';
import type { VolumeStore } from '../volumes/store.ts';
import { Bitmap } from './bitmap.ts';
import { bytesOfChunks, changedChunks, chunksContext } from './changes.ts';
import { type Disk, hostDisk } from './disk.ts';
import { diskError, TransferError } from './error.ts';
import type { AllocationMap } from './extents.ts';
import { type ChangedContext, FileExport } from './file-export.ts';
import { Fills } from './fills.ts';
import { keptSumsName, openKeptSums, rootSnapshot } from './kept-sums.ts';
import { ServedSums, type ServedSumsOptions } from './served-sums.ts';
import { type Remembering, SourceExport } from './source-export.ts';

/** What the destination's copy holds, as its own durable state says: a snapshot's name, or `root:<root>`, or nothing (''). */
export interface Have {
  readonly snapshot: string;
  /** Root of the kept copy that the destination's copy was begun with; '' = none. */
  readonly root: string;
}

/** Something to copy. */
export interface Round {
  readonly comparing: false;
  /** Name of what is exported: give it to `openExport`, and to the destination as the name of its state. '' = nothing. */
  readonly snapshot: string;
  /** Context of the export that names what may differ from what the destination has; '' = everything may. */
  readonly baseContext: string;
  /** Bytes that this context names; without one, bytes of data. */
  readonly changedBytes: number;
}

/** A round while the Machine runs. */
export interface LiveRound extends Round {
  /** How the Machine is copied: from snapshots in rounds, or once from the file in use. */
  readonly mode: 'snapshots' | 'live';
  /** Why this mode, in words. */
  readonly modeReason: string;
  /** Why there is no further round behind this one ('' = there may be). With an empty `snapshot` this one is none either. */
  readonly refused: Refused;
  /** For how long the Machine's writes may have waited for the snapshot, in milliseconds; 0 when it was there already. */
  readonly snapshotMs: number;
  /** Nothing was written since what the destination has: there is no snapshot, and none is needed. */
  readonly isUnchanged?: boolean;
}

export type Refused = '' | 'no_room' | 'too_many_extents' | 'not_supported';

/** The source still compares: ask again. Answered after at most a second. */
export interface Comparing {
  readonly comparing: true;
  readonly bytesDone: number;
  /** Bytes to read in all. */
  readonly bytesTotal: number;
}

/** The part of the volume store that a copy needs. */
export type CopyVolumes = Pick<
  VolumeStore,
  | 'capabilities'
  | 'inspect'
  | 'snapshot'
  | 'snapshots'
  | 'snapshotPath'
  | 'dropSnapshot'
  | 'written'
  | 'freeBytes'
  | 'diskBytes'
  | 'statePath'
>;

export interface CopySourceOptions {
  readonly migrationId: string;
  /** The volume that is to leave this host. */
  readonly volumeId: string;
  readonly volumes: CopyVolumes;
  readonly clock: Clock;
  readonly log?: Logger;
  readonly disk?: Disk;
  /** A volume in more extents gets no further snapshot: one stalls the Machine's writes. Default 20,000. */
  readonly extentsMax?: number;
  /** Room on the disk that snapshots must leave, in bytes. Default: 2 % of the disk, at least 256 MiB. */
  readonly reserveBytes?: number;
}

const EXTENTS_MAX = 20_000;
const RESERVE_BYTES_MIN = 268_435_456;
/** Between two looks at the free space while snapshots are held. */
const WATCH_MS = 1_000;
/** Longest wait for a comparison before the asker is told how far it is. */
const COMPARE_WAIT_MS = 1_000;

interface Mode {
  readonly mode: LiveRound['mode'];
  readonly reason: string;
  /** Why there is no second round. */
  readonly refused: Refused;
}

/** What of an export may differ from snapshot `have`. */
interface Since {
  readonly have: string;
  readonly changed: Bitmap;
  readonly context: ChangedContext;
  readonly bytes: number;
}

/** Sums of what the destination has; of `unsure` chunks they are not known. */
interface BaseSums {
  readonly sums: ServedSums;
  readonly unsure: Bitmap | null;
  close(): Promise<void>;
}

interface Refusal {
  readonly refused: Exclude<Refused, ''>;
  readonly text: string;
}

const snapshotGone: Refusal = {
  refused: 'no_room',
  text: 'the snapshot that the copy was reading is dropped; what is left is copied when the Machine has stopped',
};
const snapshotsMode: Mode = { mode: 'snapshots', reason: 'the file system shares blocks', refused: '' };

/**
 * The source's side of one migration's copy: rounds while the Machine runs, the stopped volume, what changed in between,
 * and the root. What it has done is durable beside the image, so that a restarted agent opens it and goes on. One for a
 * migration, one migration for a volume. Everything rejects with a `TransferError` or a `VolumeError`.
 */
export class CopySource {
  readonly #options: CopySourceOptions;
  readonly #disk: Disk;
  readonly #image: { readonly sizeBytes: number; readonly inode: number };
  /** Sums of what was served last while the Machine ran; where maps tell what changed, later those of the stopped volume. */
  readonly #served: ServedSums;
  /** Sums of the stopped volume where no map tells what has changed since. */
  #stoppedSums: ServedSums | null = null;
  #mode: Mode | null = null;
  /** Names of the snapshots that are on the disk. */
  readonly #held = new Set<string>();
  /** For an export, what may differ from what the destination had when it asked. */
  readonly #since = new Map<string, Since>();
  readonly #exports = new Set<{ readonly snapshot: string; readonly served: SourceExport }>();
  readonly #fills: Fills;
  readonly #over = new AbortController();
  /** The stopped volume's map and changes: it does not change any more. */
  #stoppedMap: Promise<AllocationMap> | null = null;
  /** Of the last live snapshot: which bytes are data, and where they lay when it was made. */
  #newest: { readonly name: string; readonly map: AllocationMap } | null = null;
  /** When the image was written to last, as seen last; a moment that was before it stands beside the newest snapshot. */
  #writtenMs = 0;
  #latest: { readonly name: string; readonly writtenMs: number } | null = null;
  #confirmed: Promise<void> = Promise.resolve();
  readonly #stoppedChanges = new Map<string, Bitmap>();
  #readers = 0;
  /** Nobody has read the file in use yet: nobody has anything of it. */
  #isUnread = false;
  #dirtyBytes = 0;
  #dropped: Refusal | null = null;
  #turn: Promise<unknown> = Promise.resolve();
  #watching: Promise<void> | null = null;
  #dropping: Promise<void> = Promise.resolve();
  #ending: Promise<void> | null = null;

  private constructor(options: CopySourceOptions, image: { sizeBytes: number; inode: number }, served: ServedSums) {
    this.#options = options;
    this.#disk = options.disk ?? hostDisk;
    this.#image = image;
    this.#served = served;
    this.#fills = new Fills(this.#disk, this.#over.signal);
  }

  /** Opens what this migration has on the disk, or begins; what other migrations of the volume left is removed. */
  static async open(options: CopySourceOptions): Promise<CopySource> {
    const { volumes, volumeId, migrationId, disk = hostDisk } = options;
    const image = await statOf(disk, await pathOf(volumes, volumeId));
    const place = (name: string): ServedSumsOptions => ({
      disk,
      path: volumes.statePath(volumeId, name),
      sizeBytes: image.sizeBytes,
      imageInode: image.inode,
    });
    const resumed = await resume(place(servedName), migrationId);
    const source = new CopySource(options, image, resumed ?? (await ServedSums.create(place(servedName), '')));
    source.#stoppedSums = await resume(place(stoppedName), migrationId);
    for (const { name } of await volumes.snapshots(volumeId)) {
      if (name.startsWith(`${migrationId}-`)) source.#held.add(name.replace('-', '/'));
      else await volumes.dropSnapshot(volumeId, name);
    }
    if (source.#served.snapshot === source.#liveName) {
      source.#mode = { mode: 'live', reason: 'it was begun from the file in use', refused: 'not_supported' };
    } else if (source.#held.size > 0) {
      source.#mode = snapshotsMode;
      source.#watch();
    }
    return source;
  }

  /**
   * Live round `round` (from 1): makes its snapshot, or finds it again. `have` is what the destination's state says now:
   * the snapshot that it names is kept, all others are dropped. Rounds are asked for in order.
   */
  live(round: number, have: Have): Promise<LiveRound | Comparing> {
    return this.#inTurn(async () => {
      this.#mode ??= await this.#chooseMode();
      return this.#mode.mode === 'live' ? this.#liveFile(this.#mode, round, have) : this.#liveSnapshot(round, have);
    });
  }

  /**
   * The stopped volume itself, and what of it may differ from what the destination has. Nobody may have the image in use
   * any more. In mode `live`, and where the snapshots had to be dropped, it reads all data of the volume once.
   */
  stopped(have: Have): Promise<Round | Comparing> {
    return this.#inTurn(async () => {
      const name = this.#stoppedSnapshot;
      const { path, map, sums } = await this.#settle();
      if (have.snapshot === name) return this.#round(name, map, null);
      if (this.#held.has(have.snapshot)) {
        return this.#round(name, map, this.#context(name, have, await this.#stoppedSince(have.snapshot, map)));
      }
      const base = await this.#baseSums(have);
      if (!base) return this.#round(name, map, null);
      try {
        const comparing = await this.#fill(sums, path, map);
        return comparing ?? this.#round(name, map, this.#context(name, have, await this.#differing(sums, base)));
      } finally {
        await base.close();
      }
    });
  }

  /** An export of what `live` or `stopped` named. Rejects with an `NbdError` `unknown_export` for anything else. */
  openExport(snapshot: string): Promise<Export> {
    return this.#inTurn(async () => {
      const isHeld = this.#held.has(snapshot);
      const isLive = snapshot === this.#liveName && this.#served.snapshot === snapshot;
      const isStopped = snapshot === this.#stoppedSnapshot && this.#current.snapshot === snapshot;
      if (!isHeld && !isLive && !isStopped) {
        throw new NbdError('unknown_export', `${snapshot} is not exported (any more): ask for the next round`);
      }
      const path = isHeld ? this.#snapshotPath(snapshot) : await this.#imagePath();
      const known = this.#newest?.name === snapshot ? this.#newest.map : undefined;
      const map = isStopped
        ? await this.#mapOfStopped(path)
        : (known ?? (await this.#disk.map(path, this.#image.sizeBytes)));
      const changed = this.#since.get(snapshot)?.context;
      const file = await FileExport.open(path, changed ? { map, changed } : { map });
      this.#readers += 1;
      const reader = this.#readers;
      const isFirst = this.#isUnread;
      if (isLive) this.#isUnread = false;
      const how: Remembering = isLive
        ? { kind: 'live', isCurrent: () => reader === this.#readers, isFirst }
        : { kind: 'fixed', snapshot };
      const sums = isStopped ? this.#current : this.#served;
      const served = new SourceExport(file, { sums, how, onClose: () => this.#exports.delete(entry) });
      const entry = { snapshot, served };
      this.#exports.add(entry);
      return served;
    });
  }

  /**
   * Root of the stopped volume. Reads only what was not served, or changed since; in mode `live` all data, once together
   * with `stopped`.
   */
  async root(signal: AbortSignal): Promise<string> {
    const { path, map, sums } = await this.#inTurn(() => this.#settle());
    await abortable(this.#confirmed, signal);
    await abortable(this.#fills.whole(sums, path, map), signal);
    return sums.root();
  }

  /**
   * Gives the snapshots' space back at once; their readers are told to ask again. From then on `live` refuses, and
   * `stopped` compares sums instead of maps.
   */
  dropSnapshots(refused: Exclude<Refused, ''>): Promise<void> {
    return this.#inTurn(async () => {
      // Of a stopped volume they cost no more room, and without them its Machine is down for longer.
      if (this.#held.size === 0 || this.#isStopped) return;
      const text = 'the snapshots were dropped; what is left is copied when the Machine has stopped';
      this.#dropped ??= { refused, text };
      const { log, migrationId, volumeId } = this.#options;
      log?.warn({ migration: migrationId, volume: volumeId, reason: refused }, text);
      await this.#drop(() => false);
    });
  }

  /**
   * Ends the copy: exports, snapshots and state are gone. With `keepAs`, the root that `root` gave, the sums stay beside
   * the image, so that a later move between the two hosts brings only what changed. Sums that an agent which was killed has
   * not written down are not read again for it: the re-read before the settlement has them all.
   */
  end(keepAs?: string): Promise<void> {
    this.#ending ??= this.#end(keepAs);
    return this.#ending;
  }

  async #end(keepAs?: string): Promise<void> {
    this.#over.abort(new TransferError('aborted', 'the copy has ended'));
    await this.#watching;
    await this.#inTurn(async () => {
      await Promise.all([...this.#exports].map(({ served }) => served.takeAway('the copy has ended')));
      await this.#fills.ended();
      await this.#confirmed.catch(() => {});
      await this.#dropping;
      await this.#drop(() => false);
      const current = this.#current;
      const isKnown = keepAs !== undefined && this.#isStopped && current.unknownCount === 0 && current.isDurable;
      const keeps = isKnown && (await current.root()) === keepAs;
      if (keeps) await current.moveTo(rootSnapshot(keepAs), new Bitmap(0));
      await this.#served.close();
      await this.#stoppedSums?.close();
      const kept = this.#place(keptSumsName).path;
      if (keeps) await this.#disk.rename(this.#place(current === this.#served ? servedName : stoppedName).path, kept);
      for (const name of [servedName, stoppedName]) await this.#disk.remove(this.#place(name).path);
      await this.#disk.syncDirectory(kept);
    });
  }

  get #liveName(): string {
    return `${this.#options.migrationId}/live`;
  }

  get #stoppedSnapshot(): string {
    return `${this.#options.migrationId}/stopped`;
  }

  get #isStopped(): boolean {
    return this.#current.snapshot === this.#stoppedSnapshot;
  }

  /** The sums that are, or will be, those of the stopped volume. */
  get #current(): ServedSums {
    return this.#stoppedSums ?? this.#served;
  }

  async #chooseMode(): Promise<Mode> {
    const { reflink, fiemap, reasons } = this.#options.volumes.capabilities;
    const missing = !reflink ? (reasons.reflink ?? 'files cannot share blocks here') : !fiemap ? reasons.fiemap : null;
    if (!reflink || !fiemap) {
      return { mode: 'live', reason: `${missing}: one read of its data in the downtime`, refused: 'not_supported' };
    }
    const refusal = await this.#refusal();
    if (refusal === null) return snapshotsMode;
    return { mode: 'live', reason: `${refusal.text}: one read of its data in the downtime`, refused: refusal.refused };
  }

  /** Why no snapshot may be taken now; null when one may. */
  async #refusal(): Promise<Refusal | null> {
    const { volumes, volumeId, extentsMax = EXTENTS_MAX } = this.#options;
    if (this.#dropped) return this.#dropped;
    const { extents, lastMs } = await volumes.written(volumeId);
    this.#writtenMs = lastMs;
    if (extents > extentsMax) {
      const text = `the volume has ${extents} extents, a snapshot of more than ${extentsMax} would stall its Machine`;
      return { refused: 'too_many_extents', text };
    }
    const free = await volumes.freeBytes();
    const wanted = this.#dirtyBytes + (await this.#reserveBytes());
    if (free >= wanted) return null;
    const text = `the disk has ${mib(free)} free, snapshots need ${mib(wanted)}`;
    return { refused: 'no_room', text };
  }

  async #reserveBytes(): Promise<number> {
    const { reserveBytes, volumes } = this.#options;
    return reserveBytes ?? Math.max(RESERVE_BYTES_MIN, Math.ceil((await volumes.diskBytes()) * 0.02));
  }

  async #liveFile({ reason, refused }: Mode, round: number, have: Have): Promise<LiveRound | Comparing> {
    const name = this.#liveName;
    const live = { mode: 'live', modeReason: reason, refused, snapshotMs: 0 } as const;
    if (round > 1) return { ...live, ...nothing };
    const path = await this.#imagePath();
    if (this.#served.snapshot !== name) {
      await this.#served.moveTo(name, null);
      this.#isUnread = have.snapshot !== name;
    }
    const map = await this.#disk.map(path, this.#image.sizeBytes);
    const given = this.#since.get(name);
    if (given?.have === have.snapshot) return { ...live, ...this.#round(name, map, given) };
    const base = have.snapshot === name ? null : await this.#baseSums(have);
    if (!base) return { ...live, ...this.#round(name, map, null) };
    try {
      const comparing = await this.#fill(this.#served, path, map);
      if (comparing) return comparing;
      const changed = await this.#differing(this.#served, base);
      // What is left is what the destination has; the others are known once they are served.
      await this.#served.forget(changed);
      return { ...live, ...this.#round(name, map, this.#context(name, have, changed)) };
    } finally {
      await base.close();
    }
  }

  async #liveSnapshot(round: number, have: Have): Promise<LiveRound | Comparing> {
    const { volumes, volumeId } = this.#options;
    const name = `${this.#options.migrationId}/${round}`;
    let snapshotMs = 0;
    if (!this.#held.has(name)) {
      // Other bytes under the name that the copy has would be taken for those that it lacks.
      const refusal = have.snapshot === name ? snapshotGone : await this.#refusal();
      if (refusal) {
        const { refused, text } = refusal;
        return { ...nothing, mode: 'snapshots', modeReason: text, refused, snapshotMs };
      }
      const writtenMs = this.#writtenMs;
      if (this.#latest?.name === have.snapshot && this.#latest.writtenMs === writtenMs) {
        return {
          ...nothing,
          mode: 'snapshots',
          modeReason: snapshotsMode.reason,
          refused: '',
          snapshotMs,
          isUnchanged: true,
        };
      }
      snapshotMs = (await volumes.snapshot(volumeId, fileNameOf(name))).tookMs;
      this.#held.add(name);
      this.#latest = { name, writtenMs };
      this.#watch();
    }
    const live = { mode: 'snapshots', modeReason: snapshotsMode.reason, refused: '', snapshotMs } as const;
    const path = this.#snapshotPath(name);
    const bases = [...new Set([this.#served.snapshot, have.snapshot])];
    const held = bases.filter((base) => base !== name && this.#held.has(base));
    // Both at once: whoever waits for this round may hold the lock of a network.
    const [map, older] = await Promise.all([
      this.#mapOfSnapshot(name),
      Promise.all(held.map(async (base) => [base, await this.#mapOfSnapshot(base)] as const)),
    ]);
    this.#newest = { name, map };
    const since = new Map(older.map(([base, before]) => [base, changedChunks(before, map)]));
    if (this.#served.snapshot !== name) await this.#served.moveTo(name, since.get(this.#served.snapshot) ?? null);
    await this.#served.putHoles(name, map);
    await this.#served.record();
    this.#dropBehind((snapshot) => snapshot === name || snapshot === have.snapshot);
    for (const snapshot of [...this.#since.keys()]) if (snapshot !== name) this.#since.delete(snapshot);
    if (have.snapshot === name) return { ...live, ...this.#round(name, map, this.#since.get(name) ?? null) };
    const changed = since.get(have.snapshot);
    if (changed) return { ...live, ...this.#round(name, map, this.#context(name, have, changed)) };
    const base = await this.#baseSums(have);
    if (!base) return { ...live, ...this.#round(name, map, null) };
    try {
      const comparing = await this.#fill(this.#served, path, map);
      if (comparing) return comparing;
      const differing = await this.#differing(this.#served, base);
      return { ...live, ...this.#round(name, map, this.#context(name, have, differing)) };
    } finally {
      await base.close();
    }
  }

  /** Makes the sums those of the stopped volume: what maps call unchanged is still known, everything else is not. */
  async #settle(): Promise<{ path: string; map: AllocationMap; sums: ServedSums }> {
    const path = await this.#imagePath();
    const name = this.#stoppedSnapshot;
    const served = this.#served.snapshot;
    const isHeld = this.#current.snapshot !== name && this.#held.has(served);
    const known = isHeld && this.#newest?.name === served ? this.#newest.map : null;
    // The Machine is down: a map that was read a moment ago serves for now, see `#confirm`; or both at once.
    const [map, before] = await Promise.all([
      this.#mapOfStopped(path),
      isHeld ? (known ?? this.#mapOfSnapshot(served)) : null,
    ]);
    if (this.#current.snapshot !== name) {
      if (before) {
        const changed = this.#changedAtStop(served, before, map);
        await this.#served.moveSoonTo(name, changed);
        if (known) {
          this.#confirmed = this.#confirm(served, changed, map);
          this.#confirmed.catch(() => {});
        }
      } else if (served === '') await this.#served.moveTo(name, null);
      // The served ones stay as they are: they say what the destination has.
      else this.#stoppedSums = await ServedSums.create(this.#place(stoppedName), name);
      await this.#current.putHoles(name, map);
    }
    return { path, map, sums: this.#current };
  }

  /**
   * Who defragments a disk may move a snapshot's blocks; the image's own ones are then written to in place, and an older map of
   * the snapshot still calls them unchanged. So its map is read again beside the last copy. Sums of chunks that only this one
   * calls changed are not known any more: should their bytes be others than the destination's, the roots differ, and the
   * volume stays here.
   */
  async #confirm(snapshot: string, believed: Bitmap, map: AllocationMap): Promise<void> {
    const changed = changedChunks(await this.#mapOfSnapshot(snapshot), map);
    for (const [from, to] of believed.runs()) changed.fill(from, to, false);
    if (changed.next(0, true) < changed.length) await this.#served.forget(changed);
  }

  #mapOfStopped(path: string): Promise<AllocationMap> {
    this.#stoppedMap ??= this.#disk.map(path, this.#image.sizeBytes);
    return this.#stoppedMap;
  }

  /** What of the stopped volume may differ from a held snapshot. */
  async #stoppedSince(snapshot: string, map: AllocationMap): Promise<Bitmap> {
    const known = this.#stoppedChanges.get(snapshot);
    return known ?? this.#changedAtStop(snapshot, await this.#mapOfSnapshot(snapshot), map);
  }

  #changedAtStop(snapshot: string, before: AllocationMap, map: AllocationMap): Bitmap {
    const changed = changedChunks(before, map);
    this.#stoppedChanges.set(snapshot, changed);
    return changed;
  }

  /** The sums of what the destination has, where they are known; not those of the stopped volume. */
  async #baseSums(have: Have): Promise<BaseSums | null> {
    if (have.snapshot === '') return null;
    const served = { sums: this.#served, close: async () => {} };
    if (have.snapshot === this.#served.snapshot) return { ...served, unsure: null };
    // It was offered a newer snapshot and has nothing of it.
    const offered = this.#since.get(this.#served.snapshot);
    if (offered?.have === have.snapshot && this.#current !== this.#served)
      return { ...served, unsure: offered.changed };
    if (have.root === '' || have.snapshot !== rootSnapshot(have.root)) return null;
    const kept = await openKeptSums(this.#place(keptSumsName), have.root);
    return kept && { sums: kept, unsure: null, close: () => kept.close() };
  }

  /** Chunks whose sums are not those of what the destination has. */
  async #differing(sums: ServedSums, base: BaseSums): Promise<Bitmap> {
    const changed = await sums.differing(base.sums);
    for (const [from, to] of base.unsure?.runs() ?? []) changed.fill(from, to, true);
    return changed;
  }

  /** Reads what is not summed yet; says how far it is when that takes long, null when all is known. */
  async #fill(sums: ServedSums, path: string, map: AllocationMap): Promise<Comparing | null> {
    const filling = this.#fills.whole(sums, path, map).then(() => true);
    const stop = new AbortController();
    const waited = this.#options.clock.sleep(COMPARE_WAIT_MS, stop.signal).then(() => false);
    try {
      if (await Promise.race([filling, waited])) return null;
      return { comparing: true, ...this.#fills.progress(sums) };
    } finally {
      stop.abort();
      waited.catch(() => {});
    }
  }

  #context(snapshot: string, have: Have, changed: Bitmap): Since {
    const { sizeBytes } = this.#image;
    const context = chunksContext(`ferry:changed:${have.snapshot}`, changed, sizeBytes);
    const entry = { have: have.snapshot, changed, context, bytes: bytesOfChunks(changed, sizeBytes) };
    this.#since.set(snapshot, entry);
    this.#dirtyBytes = entry.bytes;
    return entry;
  }

  #round(snapshot: string, map: AllocationMap, since: { context: ChangedContext; bytes: number } | null): Round {
    return {
      comparing: false,
      snapshot,
      baseContext: since?.context.name ?? '',
      changedBytes: since?.bytes ?? map.dataBytes,
    };
  }

  /** Looks at the free space each second while snapshots are held: each write of the Machine may take some of it. */
  #watch(): void {
    this.#watching ??= this.#watchRoom();
  }

  async #watchRoom(): Promise<void> {
    const { clock, volumes, log, migrationId } = this.#options;
    const { signal } = this.#over;
    let trouble = '';
    while (!signal.aborted) {
      await clock.sleep(WATCH_MS, signal).catch(() => {});
      if (signal.aborted || this.#isStopped || this.#held.size === 0) continue;
      try {
        if ((await volumes.freeBytes()) < (await this.#reserveBytes())) await this.dropSnapshots('no_room');
        trouble = '';
      } catch (error) {
        const { message } = error as Error;
        if (message !== trouble) {
          log?.warn({ migration: migrationId }, `watching the free space failed, and is tried again: ${message}`);
        }
        trouble = message;
      }
    }
  }

  /** Drops while the copy goes on: what the Machine writes while a large one is given back would have to be copied, too. */
  #dropBehind(keep: (snapshot: string) => boolean): void {
    const { log, migrationId } = this.#options;
    const dropping = Promise.all([this.#dropping, this.#drop(keep)]).then(
      () => {},
      (error: Error) => log?.warn({ migration: migrationId }, `dropping a snapshot failed: ${error.message}`),
    );
    this.#dropping = dropping;
  }

  async #drop(keep: (snapshot: string) => boolean): Promise<void> {
    const { volumes, volumeId } = this.#options;
    for (const snapshot of [...this.#held].filter((name) => !keep(name))) {
      this.#held.delete(snapshot);
      const readers = [...this.#exports].filter((each) => each.snapshot === snapshot);
      await Promise.all(
        readers.map(({ served }) => served.takeAway('this snapshot is dropped: ask for another export')),
      );
      try {
        await volumes.dropSnapshot(volumeId, fileNameOf(snapshot));
      } catch (error) {
        this.#held.add(snapshot);
        throw error;
      }
    }
  }

  #imagePath(): Promise<string> {
    return pathOf(this.#options.volumes, this.#options.volumeId);
  }

  #snapshotPath(snapshot: string): string {
    return this.#options.volumes.snapshotPath(this.#options.volumeId, fileNameOf(snapshot));
  }

  /** Read anew each time: who defragments a disk may move a snapshot's blocks, and others take their place. */
  #mapOfSnapshot(snapshot: string): Promise<AllocationMap> {
    return this.#disk.map(this.#snapshotPath(snapshot), this.#image.sizeBytes);
  }

  #place(name: string): ServedSumsOptions {
    const { volumes, volumeId } = this.#options;
    const { sizeBytes, inode } = this.#image;
    return { disk: this.#disk, path: volumes.statePath(volumeId, name), sizeBytes, imageInode: inode };
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(work);
    this.#turn = mine.catch(() => {});
    return mine;
  }
}

const servedName = 'copy.sums';
const stoppedName = 'stopped.sums';
const nothing = { comparing: false, snapshot: '', baseContext: '', changedBytes: 0 } as const;

/** A snapshot's name as the volume store knows it: no slash. */
function fileNameOf(snapshot: string): string {
  return snapshot.replace('/', '-');
}

/** What a migration has on the disk under this name; that of another one is of no use. */
async function resume(place: ServedSumsOptions, migrationId: string): Promise<ServedSums | null> {
  const sums = await ServedSums.resume(place);
  if (sums?.snapshot.startsWith(`${migrationId}/`)) return sums;
  await sums?.close();
  if (sums) await place.disk.remove(place.path);
  return null;
}

async function pathOf(volumes: CopyVolumes, volumeId: string): Promise<string> {
  const image = await volumes.inspect(volumeId);
  if (image) return image.path;
  throw new TransferError('target_io', `volume ${volumeId} is not here any more`);
}

async function statOf(disk: Disk, path: string): Promise<{ sizeBytes: number; inode: number }> {
  const file = await disk.open(path, { mode: 'read', direct: false }).catch((error: unknown) => {
    throw diskError(error, `opening ${path}`);
  });
  if (!file) throw new TransferError('target_io', `there is no file ${path}`);
  try {
    return await file.stat();
  } finally {
    await file.close();
  }
}

/** The result, unless the signal aborts first. */
async function abortable<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const aborted = Promise.withResolvers<never>();
  const onAbort = (): void => aborted.reject(new TransferError('aborted', 'aborted', { cause: signal.reason }));
  if (signal.aborted) onAbort();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([work, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', onAbort);
    aborted.promise.catch(() => {});
  }
}

function mib(bytes: number): string {
  return `${Math.floor(bytes / 1_048_576)} MiB`;
}
