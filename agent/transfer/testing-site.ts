/** A source with one volume on a real file system, and a copy of it: what the tests of whole copies share. */
import { execFileSync } from 'node:child_process';
import { randomFillSync, randomInt } from 'node:crypto';
import { closeSync, openSync, writeSync } from 'node:fs';
import * as files from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Export } from '../../nbd/export.ts';
import { type Clock, systemClock } from '../../shared/clock.ts';
import { probeCapabilities, type VolumeCapabilities } from '../volumes/capabilities.ts';
import { commandRunner } from '../volumes/command.ts';
import { VolumeStore } from '../volumes/store.ts';
import { type Comparing, CopySource, type CopySourceOptions, type Have, type Round } from './copy-source.ts';
import { type Disk, hostDisk } from './disk.ts';
import { type PullResult, pullVolume } from './pull.ts';
import { heldSnapshot } from './seed-copy.ts';
import type { PullSource } from './source.ts';
import { sumFile } from './sum-file.ts';

export const MIB = 1_048_576;
export const volumeId = 'vol_aaaaaaaaaaaaaaa1';
export const migrationId = 'mig_01ARZ3NDEKTSV4RRFFQ69G5FAV';
const run = commandRunner({ searchPath: process.env.PATH });

export interface SiteOptions {
  readonly sizeMib?: number;
  readonly clock?: Clock;
  readonly capabilities?: Partial<VolumeCapabilities>;
  readonly copy?: Partial<CopySourceOptions>;
}

/** Writes, punches and comparisons on the volume's file, and rounds of its copy. */
export class Site {
  readonly volumes: VolumeStore;
  readonly imagePath: string;
  readonly copyPath: string;
  readonly statePath: string;
  readonly sizeBytes: number;
  source!: CopySource;
  /** Bytes asked of the exports. */
  bytesServed = 0;
  /** Called for each read of an export. */
  onRead: (bytesServed: number) => void = () => {};
  readonly #options: SiteOptions;
  /** Those whose agent is gone: they hold files open, nothing else. */
  readonly #left: CopySource[] = [];

  private constructor(dir: string, volumes: VolumeStore, imagePath: string, options: SiteOptions) {
    this.volumes = volumes;
    this.imagePath = imagePath;
    this.copyPath = join(dir, 'copy.img');
    this.statePath = join(dir, 'copy.state');
    this.sizeBytes = (options.sizeMib ?? 64) * MIB;
    this.#options = options;
  }

  static async make(dir: string, options: SiteOptions = {}): Promise<Site> {
    const tools = { files, run, sleep, agentPid: process.pid, timeoutMs: 60_000 };
    const capabilities = { ...(await probeCapabilities(dir, tools)), ...options.capabilities };
    const volumes = new VolumeStore({ ...tools, dir, capabilities, owner: { uid: 0, gid: 0 } });
    await volumes.open();
    const sizeBytes = (options.sizeMib ?? 64) * MIB;
    const { path } = await volumes.create({ volumeId, sizeBytes, epoch: 1, filesystem: 'raw' });
    const site = new Site(dir, volumes, path, options);
    await site.open();
    return site;
  }

  /** Opens the copy's source; called again it is as after a restart of the agent. */
  async open(more: Partial<CopySourceOptions> = {}): Promise<void> {
    const { clock = systemClock, copy = {} } = this.#options;
    const { volumes } = this;
    if (this.source) this.#left.push(this.source);
    this.source = await CopySource.open({ migrationId, volumeId, volumes, clock, reserveBytes: 0, ...copy, ...more });
  }

  async close(): Promise<void> {
    for (const each of [this.source, ...this.#left]) await each.end().catch(() => {});
  }

  /** What the Machine does: noise at an offset. */
  write(offset: number, length: number): void {
    const file = openSync(this.imagePath, 'r+');
    writeSync(file, randomFillSync(Buffer.alloc(length)), 0, length, offset);
    closeSync(file);
  }

  /** Noise at random places. */
  scatter(count: number, length: number): void {
    for (let each = 0; each < count; each += 1) {
      this.write(randomInt(0, Math.floor((this.sizeBytes - length) / 4096)) * 4096, length);
    }
  }

  /** As many extents as a volume in heavy use comes to have: each is the same block, shared. */
  fragment(extents: number): void {
    this.write(0, 4096);
    const commands = Array.from({ length: extents }, (_, at) => `reflink ${this.imagePath} 0 ${at * 4096} 4096`);
    execFileSync('xfs_io', [this.imagePath], {
      input: `${commands.slice(1).join('\n')}\n`,
      stdio: ['pipe', 'ignore', 'inherit'],
    });
  }

  /** What fstrim and guests do. */
  punch(offset: number, length: number): void {
    const range = ['--offset', String(offset), '--length', String(length)];
    execFileSync('fallocate', ['--punch-hole', ...range, this.imagePath]);
  }

  /** What the destination's state says. */
  async have(root = ''): Promise<Have> {
    return { snapshot: (await heldSnapshot(this.statePath)) ?? '', root };
  }

  /** Pulls a round as a destination does. */
  async pull(
    round: Round,
    { signal = new AbortController().signal, state = this.statePath, image = this.copyPath } = {},
  ) {
    const base =
      round.baseContext === ''
        ? {}
        : { base: { snapshot: (await heldSnapshot(state)) ?? '', context: round.baseContext } };
    const connect = async (): Promise<PullSource> => this.#connection(await this.source.openExport(round.snapshot));
    const { sizeBytes } = this;
    const { snapshot } = round;
    const clock = systemClock;
    return pullVolume({ connect, imagePath: image, statePath: state, sizeBytes, snapshot, ...base, clock, signal });
  }

  #connection(opened: Export): PullSource {
    return {
      sizeBytes: opened.sizeBytes,
      requestBytesMax: MIB,
      contexts: new Set(opened.contexts),
      read: async (target, offset, length) => {
        this.bytesServed += length;
        this.onRead(this.bytesServed);
        await opened.readInto(target, offset, length);
      },
      blockStatus: (context, offset, length) => opened.blockStatus(context, offset, length),
      close: () => opened.close(),
    };
  }

  /** The stopped volume, brought to the end: both roots must be equal, and so must the bytes. */
  async finish(have?: Have): Promise<PullResult & { readonly round: Round }> {
    this.onRead = () => {};
    const rooting = this.source.root(new AbortController().signal);
    const round = await settled(async () => this.source.stopped(have ?? (await this.have())));
    const result = await this.pull(round);
    if ((await rooting) !== result.root) throw new Error('the roots differ');
    if (result.root !== (await this.rootOf(this.imagePath))) throw new Error('the root is not that of the bytes');
    this.compare(this.imagePath, this.copyPath);
    return { ...result, round };
  }

  compare(one: string, other: string): void {
    execFileSync('cmp', [one, other]);
  }

  async rootOf(path: string, disk: Disk = hostDisk): Promise<string> {
    return (await sumFile({ path, direct: false, signal: new AbortController().signal, disk })).root;
  }

  /** Names in the volume's folder. */
  names(): Promise<string[]> {
    return files.readdir(join(this.imagePath, '..'));
  }
}

/** Asks until nothing is compared any more. */
export async function settled<T extends Round>(ask: () => Promise<T | Comparing>): Promise<T> {
  for (;;) {
    const answer = await ask();
    if (!answer.comparing) return answer;
  }
}
