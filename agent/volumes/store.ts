// Past 300 lines: the one class that callers see, one method with its contract for each verb. The work is in its siblings.
import { join } from 'node:path';
import type { VolumeCapabilities } from './capabilities.ts';
import { CommandError, describeFailure } from './command.ts';
import { type CreateTools, createFolder, creatingPrefix, fileToImport, type VolumeRequest } from './create.ts';
import { toVolumeError, VolumeError } from './errors.ts';
import { syncDirectory, syncFile } from './files.ts';
import { checkExt4, type Filesystem, type FilesystemCheck, readFilesystem } from './filesystem.ts';
import type { Holder } from './holders.ts';
import { changeImageState, describeImage, type ImageState, imageName } from './image.ts';
import { lookAtVolume, type VolumeInfo } from './info.ts';
import { loopDevicesOf } from './loop.ts';
import { findMount, holdersOf, type MountTarget, type MountTools, mountImage, unmountImage } from './mount.ts';
import { countExtents, removeHalfMade, type Snapshot, shareBlocks, snapshotNames, snapshotPath } from './snapshots.ts';
import { sizeToHold, validEpoch, validSize, validVolumeId } from './validate.ts';

const destroyedPrefix = '.destroyed-';

/** Where a Machine finds its volume: a mounted folder, or the image file where this host cannot mount. */
export type MountedVolume = { readonly path: string; readonly kind: 'ext4' | 'raw' };

export interface VolumeStoreOptions extends MountTools, CreateTools {
  /** The agent's data directory; must exist. Volumes are in `volumes/`, mounts in `mnt/`. */
  readonly dir: string;
  /** Milliseconds that never go back; default: the process's own. */
  readonly monotonicMs?: () => number;
}

/**
 * The volumes of one host: one folder each, with one image whose name says who owns its bytes. All operations throw
 * VolumeError; each can be repeated after a crash. Operations on one volume take turns.
 */
export class VolumeStore {
  readonly #options: VolumeStoreOptions;
  readonly #turns = new Map<string, Promise<unknown>>();
  readonly #lostWrites = new Map<string, VolumeError>();
  readonly #folder: string;

  constructor(options: VolumeStoreOptions) {
    this.#options = options;
    this.#folder = join(options.dir, 'volumes');
  }

  /** What this host's disk and the agent's rights allow. */
  get capabilities(): VolumeCapabilities {
    return this.#options.capabilities;
  }

  /** Makes the store's folders and removes what a crash left half created or half destroyed; returns what it removed. */
  async open(): Promise<string[]> {
    const { files, dir } = this.#options;
    return this.#explain('open the volume store', {}, async () => {
      await files.mkdir(this.#folder, { recursive: true, mode: 0o700 });
      await files.mkdir(join(dir, 'mnt'), { recursive: true, mode: 0o755 });
      const names = await files.readdir(this.#folder);
      const left = names.filter((name) => name.startsWith(creatingPrefix) || name.startsWith(destroyedPrefix));
      for (const name of left) await files.rm(join(this.#folder, name), { recursive: true, force: true });
      await syncDirectory(files, this.#folder);
      await syncDirectory(files, dir);
      const removed = left.map((name) => join(this.#folder, name));
      for (const name of names) removed.push(...(await removeHalfMade(files, join(this.#folder, name))));
      return removed;
    });
  }

  /**
   * Creates a volume owned at `epoch`. A crash leaves nothing that looks like a volume. Repeated with the same arguments
   * it returns the volume that is there.
   *
   * @param request.sizeBytes a multiple of 4096, from 1 MiB to 16 TiB; with `from`, 0 = as large as that file, rounded up
   * @param request.from a file whose bytes the volume starts with, at most as large
   * @param request.filesystem without `from`: an empty ext4 file system or zeros. Default: ext4 where this host can make
   *   and mount it, else raw, as a Machine that gets the image file must not later find it mounted instead. The reply says.
   */
  async create(request: {
    volumeId: string;
    sizeBytes: number;
    epoch: number;
    from?: string;
    filesystem?: 'ext4' | 'raw';
  }): Promise<VolumeInfo & { readonly filesystem: Filesystem }> {
    const { volumeId, sizeBytes, epoch, from } = request;
    const image: ImageState = { state: 'owned', epoch: validEpoch(epoch) };
    return this.#turn(volumeId, 'create the volume', async () => {
      const { mkfs, mount } = this.#options.capabilities;
      const isExt4 = (request.filesystem ?? (mkfs && mount ? 'ext4' : 'raw')) === 'ext4';
      const content =
        from === undefined ? ({ kind: isExt4 ? 'ext4' : 'hole' } as const) : ({ kind: 'copy', from } as const);
      const isFitted = sizeBytes === 0 && from !== undefined;
      const wanted = isFitted ? sizeToHold((await fileToImport(this.#options.files, from)).size) : validSize(sizeBytes);
      const volume = await this.#create({ volumeId, image, sizeBytes: wanted, content });
      return { ...volume, filesystem: await readFilesystem(this.#options.files, volume.path) };
    });
  }

  /** Creates the image that a copy is received into: all hole, nobody's yet. Repeatable. */
  async createReceiving(request: { volumeId: string; sizeBytes: number }): Promise<VolumeInfo> {
    const { volumeId, sizeBytes } = request;
    return this.#turn(volumeId, 'create the receiving volume', async () => {
      const content = { kind: 'hole' } as const;
      return this.#create({ volumeId, image: { state: 'receiving' }, sizeBytes: validSize(sizeBytes), content });
    });
  }

  /** Path of a flat file kept beside the image (as `receiving.state`); it goes with the volume. */
  statePath(volumeId: string, name: string): string {
    if (!/^[a-z0-9][a-z0-9._-]{0,99}$/.test(name) || name.endsWith('.img')) {
      throw new VolumeError(
        'invalid',
        `${name} is no name for a state file: use a-z, 0-9, "." "_" "-", not ending in .img`,
      );
    }
    return join(this.#folder, validVolumeId(volumeId), name);
  }

  /** What is on the disk, or null when there is no such volume. Throws `strange_content` rather than guess. */
  async inspect(volumeId: string): Promise<VolumeInfo | null> {
    validVolumeId(volumeId);
    return this.#explain('inspect the volume', { volumeId }, () => this.#look(volumeId));
  }

  /** All volumes, and apart from them everything in the folder that cannot be one. */
  async list(): Promise<{ volumes: VolumeInfo[]; strange: VolumeError[] }> {
    return this.#explain('list the volumes', {}, async () => {
      const volumes: VolumeInfo[] = [];
      const strange: VolumeError[] = [];
      for (const name of (await this.#options.files.readdir(this.#folder)).sort()) {
        if (name.startsWith(creatingPrefix) || name.startsWith(destroyedPrefix)) continue;
        try {
          const volume = await this.#look(validVolumeId(name));
          if (volume) volumes.push(volume);
        } catch (error) {
          if (!(error instanceof VolumeError) || (error.reason !== 'strange_content' && error.reason !== 'invalid'))
            throw error;
          const paths = error.paths.length > 0 ? error.paths : [join(this.#folder, name)];
          strange.push(new VolumeError('strange_content', error.message, { volumeId: name, paths, cause: error }));
        }
      }
      return { volumes, strange };
    });
  }

  /** Gives up a volume owned at `epoch`: read-only from here on, never mounted again. Must be unmounted. Repeatable. */
  async relinquish(volumeId: string, epoch: number): Promise<VolumeInfo> {
    validEpoch(epoch);
    return this.#turn(volumeId, 'relinquish the volume', async () => {
      const volume = await this.#require(volumeId);
      if (volume.state === 'receiving' || volume.epoch !== epoch)
        throw wrongState(volume, `relinquished at epoch ${epoch}`);
      await this.#assertDetached(volume);
      return this.#afterSnapshot(volumeId, 'relinquish the volume', () =>
        this.#change(volume, { state: 'relinquished', epoch }),
      );
    });
  }

  /** Takes a received copy, or one relinquished or owned at a lower epoch, as owned at `epoch`. Repeatable. */
  async own(volumeId: string, epoch: number): Promise<VolumeInfo> {
    validEpoch(epoch);
    return this.#turn(volumeId, 'own the volume', async () => {
      const volume = await this.#require(volumeId);
      const isAllowed =
        volume.state === 'receiving' ||
        (volume.state === 'owned' && volume.epoch <= epoch) ||
        (volume.state === 'relinquished' && volume.epoch < epoch);
      if (!isAllowed) throw wrongState(volume, `owned at epoch ${epoch}`);
      return this.#afterSnapshot(volumeId, 'own the volume', () => this.#change(volume, { state: 'owned', epoch }));
    });
  }

  /**
   * Makes an owned volume usable; finds its mount again after a crash. Anything but an owned image is refused, and
   * `unsupported` is an ext4 volume that has been in use on a host that cannot mount.
   */
  async mount(volumeId: string): Promise<MountedVolume> {
    return this.#turn(volumeId, 'mount the volume', async () => {
      const volume = await this.#require(volumeId);
      if (volume.state !== 'owned') throw wrongState(volume, 'mounted');
      const target = await this.#target(volume);
      const { files } = this.#options;
      await files.chmod(volume.path, 0o600);
      const filesystem = await readFilesystem(files, volume.path);
      const { mount, reasons } = this.#options.capabilities;
      if (filesystem.kind === 'ext4' && filesystem.wasMounted && !mount) {
        // Its Machine wants the files in it: handed the image file it would start as if all were lost.
        const text = `${volumeId} has been in use as ext4 and this host cannot mount (${reasons.mount}): move it to one that can`;
        throw new VolumeError('unsupported', text, { volumeId, paths: [volume.path] });
      }
      if (filesystem.kind === 'raw' || !mount) return { path: volume.path, kind: 'raw' };
      await mountImage(this.#options, target);
      return { path: target.mountPoint, kind: 'ext4' };
    });
  }

  /**
   * Returns when no file system of this kernel can write to the image any more and its bytes are on the disk; see
   * unmountImage. A raw image's users do not count here: ask `holders`. Repeatable, except that once a sync has failed
   * every later call fails with the same error: the kernel tells of lost writes once only, the next sync would look fine.
   *
   * @param options.acceptLostWrites an operator has decided to go on with what the disk has
   */
  async unmount(
    volumeId: string,
    options: { readonly acceptLostWrites?: boolean } = {},
  ): Promise<{ readonly filesystem: Filesystem }> {
    return this.#turn(volumeId, 'unmount the volume', async () => {
      const volume = await this.#require(volumeId);
      if (options.acceptLostWrites) this.#lostWrites.delete(volumeId);
      const lost = this.#lostWrites.get(volumeId);
      if (lost) throw lost;
      try {
        const target = await this.#target(volume);
        await this.#afterSnapshot(volumeId, 'unmount the volume', () => unmountImage(this.#options, target));
      } catch (error) {
        const failure = toVolumeError(error, `unmount the volume ${volumeId}`, { volumeId });
        this.#noteLostWrites(volumeId, failure);
        throw failure;
      }
      return { filesystem: await readFilesystem(this.#options.files, volume.path) };
    });
  }

  /** Who uses the volume: its file system, its loop device or the image file itself. */
  async holders(volumeId: string): Promise<Holder[]> {
    validVolumeId(volumeId);
    return this.#explain('find the holders', { volumeId }, async () =>
      holdersOf(this.#options, (await this.#require(volumeId)).path),
    );
  }

  /** Checks, and repairs if asked, the ext4 file system of an unmounted volume. Only an owned one is repaired. */
  async check(volumeId: string, options: { repair: boolean; timeoutMs: number }): Promise<FilesystemCheck> {
    return this.#turn(volumeId, 'check the volume', async () => {
      const volume = await this.#require(volumeId);
      if (options.repair && volume.state !== 'owned') throw wrongState(volume, 'repaired');
      await this.#assertDetached(volume);
      return checkExt4(this.#options.run, volume.path, options);
    });
  }

  /** Removes a volume for good, whatever its state; refused while anybody uses it. False when there was none. */
  async destroy(volumeId: string): Promise<boolean> {
    return this.#turn(volumeId, 'destroy the volume', async () => {
      const volume = await this.#look(volumeId);
      if (!volume) return false;
      await this.#assertDetached(volume);
      const holders = await holdersOf(this.#options, volume.path);
      if (holders.length > 0) {
        const who = holders.map(({ pid, command }) => `${pid} (${command})`).join(', ');
        throw new VolumeError('volume_busy', `${volumeId} is in use by ${who}: end them first`, { volumeId, holders });
      }
      const { files } = this.#options;
      const trash = join(this.#folder, `${destroyedPrefix}${volumeId}`);
      await files.rm(trash, { recursive: true, force: true });
      await this.#afterSnapshot(volumeId, 'destroy the volume', () =>
        files.rename(join(this.#folder, volumeId), trash),
      );
      await syncDirectory(files, this.#folder);
      await files.rm(trash, { recursive: true, force: true });
      this.#lostWrites.delete(volumeId);
      return true;
    });
  }

  /**
   * Takes a snapshot of an owned volume, in use or not, as the disk would be after a power cut now. What its file system
   * still has in memory is written first. Repeated with the same name it returns the one that is there, with `tookMs` 0.
   * Waits for nothing else that is done to the volume. Throws `unsupported` where files cannot share blocks.
   *
   * @returns `tookMs`: for how long writes to the volume may have waited, in milliseconds; it grows with its extents
   */
  async snapshot(volumeId: string, name: string): Promise<Snapshot & { readonly tookMs: number }> {
    const path = this.snapshotPath(volumeId, name);
    const { files, capabilities } = this.#options;
    if (!capabilities.reflink) {
      const text = `no snapshot of ${volumeId}: ${capabilities.reasons.reflink ?? 'this file system cannot share blocks'}`;
      throw new VolumeError('unsupported', text, { volumeId });
    }
    return this.#inTurn(`${volumeId} snapshot`, 'take a snapshot of', volumeId, async () => {
      const volume = await this.#require(volumeId);
      if (volume.state !== 'owned') throw wrongState(volume, 'taken a snapshot of while it may be in use');
      const there = (await snapshotNames(files, join(this.#folder, volumeId))).includes(name);
      if (there) return { volumeId, name, path, tookMs: 0 };
      await this.#settleWrites(volume);
      const monotonicMs = this.#options.monotonicMs ?? (() => performance.now());
      const { tookMs } = await shareBlocks(files, volume.path, path, monotonicMs);
      return { volumeId, name, path, tookMs };
    });
  }

  /** The snapshots of one volume, or of all: an agent that starts looks for those that nobody knows any more. */
  async snapshots(volumeId?: string): Promise<Snapshot[]> {
    return this.#explain('list the snapshots', volumeId === undefined ? {} : { volumeId }, async () => {
      const { files } = this.#options;
      const volumeIds = volumeId === undefined ? await files.readdir(this.#folder) : [validVolumeId(volumeId)];
      const found: Snapshot[] = [];
      for (const each of volumeIds.filter((id) => /^vol_[0-9a-z]{16}$/.test(id))) {
        const folder = join(this.#folder, each);
        for (const name of await snapshotNames(files, folder)) {
          found.push({ volumeId: each, name, path: join(folder, `${name}.snap`) });
        }
      }
      return found;
    });
  }

  /** Path of a volume's snapshot of this name, whether it is there or not. */
  snapshotPath(volumeId: string, name: string): string {
    return snapshotPath(join(this.#folder, validVolumeId(volumeId)), name);
  }

  /** Removes a snapshot; harmless when there is none. Its space is free once nobody has it open. */
  async dropSnapshot(volumeId: string, name: string): Promise<void> {
    const path = this.snapshotPath(volumeId, name);
    await this.#explain('drop a snapshot of', { volumeId }, () => this.#options.files.rm(path, { force: true }));
  }

  /**
   * Writes what is in memory, then counts the image's extents and tells when it was written to last (a file's time, in
   * milliseconds); `unsupported` where extents cannot be asked for.
   */
  async written(volumeId: string): Promise<{ readonly extents: number; readonly lastMs: number }> {
    return this.#afterSnapshot(validVolumeId(volumeId), 'count the extents of', async () => {
      const volume = await this.#require(volumeId);
      await this.#settleWrites(volume);
      const extents = await countExtents(this.#options.run, volume.path);
      return { extents, lastMs: (await this.#options.files.stat(volume.path)).mtimeMs };
    });
  }

  /** Bytes of the data directory's disk, used or not. */
  async diskBytes(): Promise<number> {
    return this.#explain('ask for the size of the disk', {}, async () => {
      const { blocks, bsize } = await this.#options.files.statfs(this.#folder);
      return blocks * bsize;
    });
  }

  /** Bytes that the agent's user can still write on the data directory's disk. */
  async freeBytes(): Promise<number> {
    return this.#explain('ask for free space', {}, async () => {
      const { bavail, bsize } = await this.#options.files.statfs(this.#folder);
      return bavail * bsize;
    });
  }

  #look(volumeId: string): Promise<VolumeInfo | null> {
    return lookAtVolume(this.#options.files, volumeId, join(this.#folder, volumeId));
  }

  async #create(request: VolumeRequest): Promise<VolumeInfo> {
    const { volumeId, image, sizeBytes } = request;
    const existing = await this.#look(volumeId);
    if (existing && (imageName(existing) !== imageName(image) || existing.sizeBytes !== sizeBytes)) {
      throw wrongState(existing, `created as ${describeImage(image)} with ${sizeBytes} bytes`);
    }
    if (!existing) await createFolder(this.#options, this.#folder, request);
    return this.#require(volumeId);
  }

  async #require(volumeId: string): Promise<VolumeInfo> {
    const volume = await this.#look(volumeId);
    if (volume) return volume;
    throw new VolumeError('volume_not_found', `there is no volume ${volumeId} in ${this.#folder}`, { volumeId });
  }

  async #change(volume: VolumeInfo, to: ImageState): Promise<VolumeInfo> {
    await changeImageState(this.#options.files, join(this.#folder, volume.volumeId), volume, to);
    return this.#require(volume.volumeId);
  }

  async #assertDetached({ volumeId, path }: VolumeInfo): Promise<void> {
    const attached = await loopDevicesOf(this.#options.files, this.#options.run, path);
    if (attached.length === 0) return;
    const devices = attached.map((device) => device.path);
    const text = `${volumeId} is still attached to ${devices.join(', ')}: unmount it first`;
    throw new VolumeError('volume_busy', text, { volumeId, paths: [path], devices });
  }

  async #target({ volumeId, path }: VolumeInfo): Promise<MountTarget> {
    const { files, dir } = this.#options;
    return {
      volumeId,
      imagePath: await files.realpath(path),
      mountPoint: join(await files.realpath(dir), 'mnt', volumeId),
    };
  }

  /** Writes out what is in memory, so that the writes of its Machine wait for the sharing of blocks only. */
  async #settleWrites(volume: VolumeInfo): Promise<void> {
    const { volumeId, path } = volume;
    try {
      const target = await this.#target(volume);
      if (await findMount(this.#options, target)) {
        const synced = await this.#options.run('sync', ['--file-system', target.mountPoint], this.#options);
        if (synced.exitCode !== 0) throw new VolumeError('io', describeFailure('sync', synced), { volumeId });
      }
      await syncFile(this.#options.files, path);
    } catch (error) {
      const failure = toVolumeError(error, `sync the volume ${volumeId}`, { volumeId });
      // The kernel has told it now and will not tell it again when the volume is unmounted.
      this.#noteLostWrites(volumeId, failure);
      throw failure;
    }
  }

  #noteLostWrites(volumeId: string, failure: VolumeError): void {
    const isDisk = failure.reason === 'io' || failure.reason === 'no_space';
    if (isDisk && !(failure.cause instanceof CommandError)) this.#lostWrites.set(volumeId, failure);
  }

  /** Changes names or mounts of a volume when no snapshot is being taken: its sync would keep the mount busy. */
  #afterSnapshot<T>(volumeId: string, doing: string, operation: () => Promise<T>): Promise<T> {
    return this.#inTurn(`${volumeId} snapshot`, doing, volumeId, operation);
  }

  /** Runs an operation on a volume after those already under way on it. */
  #turn<T>(volumeId: string, doing: string, operation: () => Promise<T>): Promise<T> {
    return this.#inTurn(validVolumeId(volumeId), doing, volumeId, operation);
  }

  async #inTurn<T>(queue: string, doing: string, volumeId: string, operation: () => Promise<T>): Promise<T> {
    const before = this.#turns.get(queue) ?? Promise.resolve();
    const mine = before.then(() => this.#explain(doing, { volumeId }, operation));
    const settled = mine.catch(() => {});
    this.#turns.set(queue, settled);
    try {
      return await mine;
    } finally {
      if (this.#turns.get(queue) === settled) this.#turns.delete(queue);
    }
  }

  async #explain<T>(doing: string, fields: { volumeId?: string }, operation: () => Promise<T>): Promise<T> {
    try {
      return await operation();
    } catch (error) {
      throw toVolumeError(error, fields.volumeId ? `${doing} ${fields.volumeId}` : doing, fields);
    }
  }
}

function wrongState(volume: VolumeInfo, wanted: string): VolumeError {
  const text = `${volume.volumeId} is ${describeImage(volume)}, so it cannot be ${wanted}`;
  return new VolumeError('wrong_state', text, { volumeId: volume.volumeId, paths: [volume.path] });
}
