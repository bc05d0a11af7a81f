// Past 300 lines because it is where orders, hand-over and boot rule meet for all Machines of one host.
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import {
  DesiredState,
  HostStatus,
  type Machine,
  type MachineConfig,
  type MachineEvent,
  type MachineRecord,
  MachineRecordSchema,
  MachineSchema,
} from '../../proto/gen/ferry/v1/machine_pb.ts';
import type { Clock } from '../../shared/clock.ts';
import { FerryError, invalidArgument } from '../../shared/error.ts';
import { newVolumeId } from '../../shared/ids.ts';
import type { Logger } from '../../shared/log.ts';
import { checkMachineConfig } from '../../shared/machine-config.ts';
import type { Random } from '../../shared/random.ts';
import { mayStart, sealOf } from '../handover/boot.ts';
import type { MovableMachines, MoveStop } from '../handover/machines.ts';
import type { Seals } from '../handover/seals.ts';
import type { Journal, MachineRow } from '../journal.ts';
import type { ReadLogOptions, Runtime } from '../runtime/runtime.ts';
import { ferryErrorOf } from '../volumes/ferry-error.ts';
import { imageName } from '../volumes/image.ts';
import type { VolumeStore } from '../volumes/store.ts';
import { type Addresses, privateIp } from './addresses.ts';
import { readConfig } from './config.ts';
import { type AttachedVolume, buildEnvironment } from './environment.ts';
import { toMachineState } from './events.ts';
import { isAlive, newLife } from './lifecycle.ts';
import { type MachineVolume, Supervisor } from './supervisor.ts';

const gib = 1024 ** 3;
/** Room that a host keeps for itself, in bytes. */
const spareBytes = 64 * 1024 * 1024;
const machinesMax = 10_000;

/** What an operator's order needs. */
export interface NewMachine {
  readonly machineId: string;
  readonly name: string;
  readonly app: string;
  readonly network: string;
  readonly networkNumber: number;
  readonly config: MachineConfig;
  readonly start: boolean;
}

/** What the Machines of a host need. */
export interface MachinesOptions {
  readonly host: string;
  readonly region: string;
  readonly dataDir: string;
  readonly journal: Journal;
  readonly seals: Seals;
  readonly volumes: VolumeStore;
  readonly runtime: Runtime;
  readonly addresses: Addresses;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  /** The migration that holds a Machine stopped, or null. */
  readonly heldBy: (machineId: string) => string | null;
  readonly journalWentBack: () => boolean;
  /** Bytes promised to copies that are being received. */
  readonly reservedBytes: () => number;
  /** Ends what NBD tools read of a volume, and their tokens. */
  readonly endExports: (volumeId: string) => Promise<void>;
}

/** All Machines of one host: one supervisor each, started by the boot rule alone. */
export class Machines implements MovableMachines {
  readonly #options: MachinesOptions;
  readonly #supervisors = new Map<string, Supervisor>();
  /** Those on their way, so that two who ask at once get one. */
  readonly #opening = new Map<string, Promise<Supervisor>>();
  readonly #creating = new Map<string, Promise<Machine>>();
  /** Addresses that were put here, or are on their way. */
  readonly #addressed = new Map<string, Promise<void>>();
  /** Why a Machine is not supervised although its row is here, in words. */
  readonly #refusals = new Map<string, string>();

  constructor(options: MachinesOptions) {
    this.#options = options;
  }

  /** Takes up every Machine that this host owns, but for those that a hand-over takes up itself. */
  async boot(others: ReadonlySet<string> = new Set()): Promise<void> {
    const { journal, log } = this.#options;
    for (const { id, placement, runtime } of journal.machines()) {
      if (placement.kind !== 'owner' || others.has(id)) continue;
      const isDestroyed = runtime.status.state === 'destroyed';
      // One Machine that cannot be taken up must not keep the others down.
      await (isDestroyed ? this.#forgetDestroyed(id) : this.resume(id)).catch((error) => {
        const { message, reason } = ferryErrorOf(error);
        this.#refusals.set(id, message);
        log.error({ machine: id, reason }, `not taken up: ${message}`);
      });
    }
  }

  /** Stops supervising; the Machines run on. */
  async close(): Promise<void> {
    await Promise.all([...this.#supervisors.values()].map((supervisor) => supervisor.close()));
  }

  /** Creates a Machine, with its volume if it wants one. Repeating is harmless, also before the first has ended. */
  create(wish: NewMachine): Promise<Machine> {
    const { machineId } = wish;
    const creating =
      this.#creating.get(machineId) ?? this.#create(wish).finally(() => this.#creating.delete(machineId));
    this.#creating.set(machineId, creating);
    return creating;
  }

  async #create(wish: NewMachine): Promise<Machine> {
    const { journal, clock, random, volumes, host } = this.#options;
    if (journal.machine(wish.machineId) !== undefined) return this.get(wish.machineId);
    if (this.list().length >= machinesMax)
      throw new FerryError('overloaded', `host ${host} has ${machinesMax} Machines`);
    const config = structuredClone(wish.config);
    await this.canTake(create(MachineRecordSchema, { ...wish, config, volumeSizeBytes: 0n }));
    const sizeBytes = await this.#ownVolume(config, wish.machineId, random, volumes);
    const now = clock.nowMs();
    const volumeId = config.mounts[0]?.volume ?? '';
    journal.write(() => {
      const record = create(MachineRecordSchema, {
        machineId: wish.machineId,
        name: wish.name,
        app: wish.app,
        network: wish.network,
        networkNumber: wish.networkNumber,
        config,
        createdAt: timestampFromMs(now),
        volumeSizeBytes: BigInt(sizeBytes),
      });
      const life = newLife(wish.start ? 'started' : 'stopped');
      const slot = journal.nextSlot();
      const placement = { kind: 'owner', epoch: 1 } as const;
      journal.putMachine({ id: wish.machineId, placement, record, runtime: life, volumeId, slot, updatedAtMs: now });
      const volume = journal.volume(volumeId);
      if (volume !== undefined) journal.putVolume({ ...volume, machineId: wish.machineId });
    });
    this.#options.seals.mark(wish.machineId, { state: 'owned', epoch: 1 }, null);
    await this.resume(wish.machineId);
    return this.get(wish.machineId);
  }

  /** Makes the volume that a mount asks for, or checks the one that it names; answers its size. */
  async #ownVolume(config: MachineConfig, machineId: string, random: Random, volumes: VolumeStore): Promise<number> {
    const mount = config.mounts[0];
    if (mount === undefined) return 0;
    const { journal, clock } = this.#options;
    if (mount.volume === '') {
      if (mount.sizeGb === 0)
        throw invalidArgument('config.mounts[0]', 'names no volume and no size', 'volume, or size_gb to create one');
      const sizeBytes = mount.sizeGb * gib;
      const volumeId = newVolumeId(random);
      await volumes.create({ volumeId, sizeBytes, epoch: 1 });
      mount.volume = volumeId;
      journal.write(() =>
        journal.putVolume({
          id: volumeId,
          name: mount.name,
          machineId: '',
          sizeBytes,
          createdAtMs: clock.nowMs(),
          kept: null,
        }),
      );
      return sizeBytes;
    }
    const volume = journal.volume(mount.volume);
    if (volume === undefined) {
      throw new FerryError('unknown_volume', `no volume ${mount.volume} on host ${this.#options.host}`, {
        field: 'config.mounts[0].volume',
      });
    }
    if (volume.kept !== null || (volume.machineId !== '' && volume.machineId !== machineId)) {
      const whose =
        volume.kept === null ? `belongs to Machine ${volume.machineId}` : `is kept after ${volume.kept.migrationId}`;
      throw new FerryError('volume_in_use', `volume ${volume.id} ${whose}`, { field: 'config.mounts[0].volume' });
    }
    return volume.sizeBytes;
  }

  /** Machines that this host owns, or still shows after they moved away (`all`). */
  list(all = false): Machine[] {
    return this.#options.journal
      .machines()
      .filter((row) => row.runtime.status.state !== 'destroyed' && (all || row.placement.kind === 'owner'))
      .map((row) => this.#describe(row, []));
  }

  /** One Machine, with its events. Throws unknown_machine or not_owner. */
  get(machineId: string): Machine {
    return this.#describe(this.#owned(machineId), this.#options.journal.events(machineId));
  }

  /** Start, stop, restart or destroy; answers a note when it takes effect only later. */
  async order(
    machineId: string,
    action: 'start' | 'stop' | 'restart' | 'destroy',
    options: { signal?: NodeJS.Signals; timeoutMs?: number; force?: boolean },
  ): Promise<string> {
    this.#owned(machineId);
    const supervisor = this.#supervisors.get(machineId);
    if (supervisor === undefined) {
      throw new FerryError(
        'machine_busy',
        `Machine ${machineId} is not run here: ${this.#refusals.get(machineId) ?? 'it is being taken up'}`,
      );
    }
    if (action === 'start') return (await supervisor.start()) ?? '';
    if (action === 'restart') return (await supervisor.restart()) ?? '';
    if (action === 'stop') {
      const { signal, timeoutMs } = options;
      const stop = { ...(signal === undefined ? {} : { signal }), ...(timeoutMs === undefined ? {} : { timeoutMs }) };
      return (await supervisor.stop(stop)) ?? '';
    }
    const note = (await supervisor.destroy(options.force ?? false)) ?? '';
    return note;
  }

  /** Waits until an order has taken effect or failed, or the signal aborts. */
  async settled(machineId: string, signal: AbortSignal): Promise<void> {
    const supervisor = this.#supervisors.get(machineId);
    await supervisor
      ?.until(({ life }) => {
        const { state } = life.status;
        if (life.hold !== null || state === 'failed') return true;
        return state === life.desired || (life.desired === 'stopped' && state === 'created');
      }, signal)
      .catch(() => {});
    if (supervisor?.life.status.state === 'destroyed') await this.#forgetDestroyed(machineId);
  }

  /** Removes what destroyed Machines left: their volumes, addresses and supervisors. */
  async forgetDestroyed(): Promise<void> {
    for (const [id, { life }] of this.#supervisors)
      if (life.status.state === 'destroyed') await this.#forgetDestroyed(id);
  }

  /** Output of a Machine. */
  logs(machineId: string, options: ReadLogOptions): AsyncIterable<string> {
    this.#owned(machineId);
    return this.#options.runtime.readLog(machineId, options);
  }

  async canTake(record: MachineRecord): Promise<void> {
    const { runtime, volumes, host, reservedBytes } = this.#options;
    const config = record.config;
    if (config === undefined) throw invalidArgument('config', 'is missing', 'a Machine config');
    checkMachineConfig(config);
    const { command } = readConfig(config);
    await runtime.canRun(command, this.#environment(record, 0, '', null), '/');
    const wanted = Number(record.volumeAllocatedBytes) + spareBytes;
    const free = (await volumes.freeBytes()) - reservedBytes();
    if (record.volumeSizeBytes > 0n && free < wanted) {
      throw new FerryError('no_space', `host ${host} has ${free} bytes free for volumes, this copy needs ${wanted}`, {
        facts: { host, free: String(free), needed: String(wanted) },
      });
    }
  }

  async hold(machineId: string, migrationId: string): Promise<void> {
    const supervisor = await this.#supervisor(this.#row(machineId));
    await supervisor.hold(`migration ${migrationId} holds the Machine`);
    await supervisor.run();
  }

  async stop(
    machineId: string,
    options: { signalSentAtMs: number | null; onSignalSent: (atMs: number) => Promise<void> },
    signal: AbortSignal,
  ): Promise<MoveStop> {
    const row = this.#row(machineId);
    const supervisor = await this.#supervisor(row);
    const wasAlive = isAlive(supervisor.life.status);
    const times = await supervisor.stopHeld(options, signal);
    // Seen, never assumed: a stop has looked; of a Machine that was down before, what its supervisor remembers is no proof.
    if (!wasAlive) {
      const [alive] = await Promise.all([this.survivors(machineId), this.#volume(row).detach()]);
      if (alive !== null) throw new FerryError('process_alive', `of Machine ${machineId} still live: ${alive}`);
    }
    return { signalSentAtMs: times?.signalSentAtMs ?? options.signalSentAtMs };
  }

  async survivors(machineId: string): Promise<string | null> {
    const row = this.#row(machineId);
    const paths = row.volumeId === '' ? [] : this.#openPaths(row);
    const found = await this.#options.runtime.survivors(machineId, paths);
    if (found.length === 0) return null;
    return found.map(({ pid, command, why }) => `${pid} (${command}, ${why})`).join(', ');
  }

  /** The boot rule, and what follows from it. */
  async resume(machineId: string): Promise<void> {
    const { journal, seals, heldBy, journalWentBack } = this.#options;
    const row = journal.machine(machineId);
    if (row === undefined || row.placement.kind !== 'owner') return;
    const holder = heldBy(machineId);
    const verdict = mayStart(row.placement, sealOf(seals.of(machineId)), null, journalWentBack());
    if (!verdict.allowed) {
      this.#refusals.set(machineId, verdict.reason);
      return;
    }
    this.#refusals.delete(machineId);
    // Needed when its program starts, not before: until then its volume is mounted.
    this.#address(row).catch(() => {});
    const supervisor = await this.#supervisor(row);
    if (holder !== null) await supervisor.hold(`migration ${holder} holds the Machine`);
    else {
      await supervisor.takeBack();
      await supervisor.release();
    }
    await supervisor.run();
  }

  async retire(machineId: string, to: string): Promise<void> {
    const supervisor = this.#supervisors.get(machineId);
    this.#supervisors.delete(machineId);
    await supervisor?.handOver(to);
    await supervisor?.close();
    const row = this.#row(machineId);
    await this.#unaddress(row);
  }

  async forget(machineId: string): Promise<void> {
    if (this.#row(machineId).placement.kind !== 'owner') await this.#options.runtime.forget(machineId);
  }

  async untilUp(machineId: string, deadlineMs: number, signal: AbortSignal): Promise<'healthy' | 'stopped'> {
    const supervisor = this.#supervisors.get(machineId);
    if (supervisor === undefined) {
      throw new FerryError(
        'start_failed',
        `Machine ${machineId} is not started: ${this.#refusals.get(machineId) ?? 'it is not here'}`,
      );
    }
    const wanted = supervisor.life.desired === 'started';
    const over = new AbortController();
    const deadline = this.#options.clock.sleep(deadlineMs, over.signal).then(
      () =>
        over.abort(
          new FerryError('unhealthy', `${this.trouble(machineId) || 'it is not healthy'} after ${deadlineMs / 1000} s`),
        ),
      () => {},
    );
    try {
      await supervisor.until(
        ({ healthy, life }) =>
          healthy || life.status.state === 'failed' || (life.desired !== 'started' && life.hold === null),
        AbortSignal.any([over.signal, signal]),
      );
    } finally {
      over.abort();
      await deadline;
    }
    const { status } = supervisor.life;
    if (status.state === 'failed') throw new FerryError('start_failed', status.reason);
    if (supervisor.healthy) return 'healthy';
    // Its policy does not start it again: what ends by itself with an error right after a move did not start.
    const failure = wanted && status.state === 'stopped' && status.stop === null ? this.#lastFailure(machineId) : null;
    if (failure !== null) throw new FerryError('start_failed', `its program ended by itself with ${failure}`);
    return 'stopped';
  }

  trouble(machineId: string): string {
    const supervisor = this.#supervisors.get(machineId);
    if (supervisor === undefined) return this.#refusals.get(machineId) ?? '';
    const failing = supervisor.checks.filter(({ status }) => status !== 'passing');
    return supervisor.reason || failing.map(({ name, output }) => `check ${name}: ${output}`).join('; ');
  }

  /** When its program started last, or null while it does not run. */
  startedAtMs(machineId: string): number | null {
    const status = this.#supervisors.get(machineId)?.life.status;
    return status?.state === 'started' ? status.startedAtMs : null;
  }

  /** Waits until its program runs. */
  async untilStarted(machineId: string, signal: AbortSignal): Promise<void> {
    await this.#supervisors
      .get(machineId)
      ?.until(({ life }) => life.status.state === 'started' || life.status.state === 'failed', signal);
  }

  /** Whether the Machine shall run, whatever holds it now. */
  isDesired(machineId: string): boolean {
    return this.#row(machineId).runtime.desired === 'started';
  }

  /** Whether a Machine of this host may write to this volume now. */
  uses(volumeId: string): boolean {
    const row = this.#options.journal.machines().find((machine) => machine.volumeId === volumeId);
    if (row === undefined || row.placement.kind !== 'owner') return false;
    return isAlive(row.runtime.status) || row.runtime.status.state === 'restarting';
  }

  /** Memory promised to the Machines of this host, in MiB. */
  memoryUsedMb(): number {
    return this.list().reduce((total, machine) => total + (machine.config?.guest?.memoryMb ?? 0), 0);
  }

  /** CPUs promised to the Machines of this host. */
  cpusUsed(): number {
    return this.list().reduce((total, machine) => total + (machine.config?.guest?.cpus ?? 0), 0);
  }

  /** How its program ended last, in words; null if that was no failure. */
  #lastFailure(machineId: string): string | null {
    const exit = this.#options.journal.events(machineId).findLast((event) => event.exitEvent !== undefined)?.exitEvent;
    if (exit === undefined || exit.exitCode === 0) return null;
    return exit.guestSignal === '' ? `exit code ${exit.exitCode ?? 'unknown'}` : exit.guestSignal;
  }

  #supervisor(row: MachineRow): Promise<Supervisor> {
    const known = this.#supervisors.get(row.id);
    if (known !== undefined) return Promise.resolve(known);
    const opening = this.#opening.get(row.id) ?? this.#open(row).finally(() => this.#opening.delete(row.id));
    this.#opening.set(row.id, opening);
    return opening;
  }

  async #open(row: MachineRow): Promise<Supervisor> {
    const { journal, runtime, clock, random, log } = this.#options;
    const supervisor = await Supervisor.open({
      machineId: row.id,
      runtime,
      store: {
        load: (id) => journal.machine(id)?.runtime,
        save: (id, life, events) =>
          journal.write(() => {
            journal.putMachine({ ...this.#row(id), runtime: life, updatedAtMs: clock.nowMs() });
            journal.appendEvents(id, events);
          }),
      },
      volume: this.#volume(row),
      facts: () => {
        const now = this.#row(row.id);
        return { config: now.record.config!, placement: this.#placement(now) };
      },
      clock,
      random,
      log,
    });
    this.#supervisors.set(row.id, supervisor);
    return supervisor;
  }

  /** The boot rule is asked again before each start: attaching is the first thing that a start does. */
  #volume(row: MachineRow): MachineVolume {
    const { volumes, seals, heldBy, journalWentBack, endExports } = this.#options;
    return {
      attach: async (): Promise<AttachedVolume | null> => {
        const now = this.#row(row.id);
        const verdict = mayStart(now.placement, sealOf(seals.of(row.id)), heldBy(row.id), journalWentBack());
        if (!verdict.allowed) throw new FerryError('not_owner', `Machine ${row.id} is not started: ${verdict.reason}`);
        if (now.volumeId === '') return this.#address(now).then(() => null);
        // Whoever reads the stopped volume would read bytes of different moments from here on.
        await endExports(now.volumeId);
        const [mounted] = await Promise.all([volumes.mount(now.volumeId), this.#address(now)]);
        return mounted;
      },
      detach: async () => {
        const { volumeId } = this.#row(row.id);
        if (volumeId !== '') await volumes.unmount(volumeId).catch((error) => Promise.reject(ferryErrorOf(error)));
      },
      openPaths: () => {
        const now = this.#row(row.id);
        return now.volumeId === '' ? [] : this.#openPaths(now);
      },
    };
  }

  #openPaths(row: MachineRow): string[] {
    const { dataDir } = this.#options;
    const epoch = row.placement.kind === 'none' ? 0 : row.placement.epoch;
    const folder = join(dataDir, 'volumes', row.volumeId);
    return [folder, join(folder, imageName({ state: 'owned', epoch })), join(dataDir, 'mnt', row.volumeId)];
  }

  async #forgetDestroyed(machineId: string): Promise<void> {
    const { journal, volumes } = this.#options;
    const row = this.#row(machineId);
    await this.#unaddress(row);
    if (journal.volume(row.volumeId) !== undefined) {
      await volumes.destroy(row.volumeId);
      journal.write(() => journal.removeVolume(row.volumeId));
    }
    const supervisor = this.#supervisors.get(machineId);
    this.#supervisors.delete(machineId);
    await supervisor?.close();
  }

  #row(machineId: string): MachineRow {
    const row = this.#options.journal.machine(machineId);
    if (row === undefined)
      throw new FerryError('unknown_machine', `no Machine ${machineId} on host ${this.#options.host}`, {
        field: 'machine_id',
      });
    return row;
  }

  #owned(machineId: string): MachineRow {
    const row = this.#row(machineId);
    const { placement } = row;
    if (placement.kind === 'owner') return row;
    const to = placement.kind === 'none' ? 'another host' : placement.destination;
    throw new FerryError('not_owner', `Machine ${machineId} moved from host ${this.#options.host} to ${to}`, {
      facts: { host: to },
    });
  }

  /** Makes the Machine's address answer here, unless it does. */
  #address(row: MachineRow): Promise<void> {
    const address = this.#privateIp(row);
    const adding =
      this.#addressed.get(address) ??
      this.#options.addresses.add(address).catch((error) => {
        this.#addressed.delete(address);
        throw error;
      });
    this.#addressed.set(address, adding);
    return adding;
  }

  async #unaddress(row: MachineRow): Promise<void> {
    const address = this.#privateIp(row);
    this.#addressed.delete(address);
    await this.#options.addresses.remove(address);
  }

  #privateIp(row: MachineRow): string {
    return privateIp(row.record.networkNumber, Number(this.#options.journal.meta('host_number') ?? 0), row.slot);
  }

  #placement(row: MachineRow) {
    const privateAddress = this.#privateIp(row);
    return {
      appName: row.record.app,
      machineId: row.id,
      region: this.#options.region,
      privateIp: privateAddress,
      bindIp: this.#options.addresses.bindIp(privateAddress),
    };
  }

  #environment(record: MachineRecord, slot: number, instanceId: string, volume: AttachedVolume | null) {
    const privateAddress = privateIp(record.networkNumber, 0, slot);
    const placement = {
      appName: record.app,
      machineId: record.machineId,
      region: this.#options.region,
      privateIp: privateAddress,
      bindIp: privateAddress,
    };
    return buildEnvironment(record.config!, placement, instanceId, volume);
  }

  #describe(row: MachineRow, events: MachineEvent[]): Machine {
    const { host, region, heldBy } = this.#options;
    const { record, runtime } = row;
    const supervisor = this.#supervisors.get(row.id);
    const { privateIp: address, bindIp } = this.#placement(row);
    return create(MachineSchema, {
      id: row.id,
      name: record.name,
      app: record.app,
      network: record.network,
      state: toMachineState(runtime),
      desiredState: desiredStates[runtime.desired],
      instanceId: runtime.instanceId,
      privateIp: address,
      bindIp,
      region,
      hostId: host,
      ...(record.config === undefined ? {} : { config: record.config }),
      epoch: BigInt('epoch' in row.placement ? row.placement.epoch : 0),
      volumeId: row.volumeId,
      events,
      checks: (supervisor?.checks ?? []).map((check) => ({
        name: check.name,
        status: check.status,
        output: check.output,
        ...(check.updatedAtMs === null ? {} : { updatedAt: timestampFromMs(check.updatedAtMs) }),
      })),
      hostStatus: HostStatus.OK,
      migrationId: heldBy(row.id) ?? '',
      ...(record.createdAt === undefined ? {} : { createdAt: record.createdAt }),
      updatedAt: timestampFromMs(row.updatedAtMs),
      reason: this.#refusals.get(row.id) ?? supervisor?.reason ?? '',
    });
  }
}

const desiredStates = {
  started: DesiredState.STARTED,
  stopped: DesiredState.STOPPED,
  destroyed: DesiredState.DESTROYED,
} as const;
