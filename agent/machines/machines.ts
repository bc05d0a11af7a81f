import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import {
  type Machine,
  type MachineConfig,
  type MachineEvent,
  MachineRecordSchema,
} from '../../proto/gen/ferry/v1/machine_pb.ts';
import type { Clock } from '../../shared/clock.ts';
import { FerryError, invalidArgument } from '../../shared/error.ts';
import { newVolumeId } from '../../shared/ids.ts';
import type { Random } from '../../shared/random.ts';
import type { Seals } from '../handover/seals.ts';
import type { Journal, MachineRow } from '../journal.ts';
import type { ReadLogOptions, Runtime } from '../runtime/runtime.ts';
import type { VolumeStore } from '../volumes/store.ts';
import type { Admission } from './admission.ts';
import { describeMachine } from './description.ts';
import { isAlive, newLife } from './lifecycle.ts';
import type { MachineRows } from './rows.ts';
import type { Supervised } from './supervised.ts';

const gib = 1024 ** 3;
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

/** What the orders work with. */
export interface MachinesOptions {
  readonly host: string;
  readonly journal: Journal;
  readonly rows: MachineRows;
  readonly supervised: Supervised;
  readonly admission: Admission;
  readonly seals: Seals;
  readonly volumes: VolumeStore;
  readonly runtime: Runtime;
  readonly clock: Clock;
  readonly random: Random;
  /** The migration that holds a Machine stopped, or null. */
  readonly heldBy: (machineId: string) => string | null;
}

/** The Machines of one host, as operators order and see them. */
export class Machines {
  readonly #options: MachinesOptions;
  readonly #creating = new Map<string, Promise<Machine>>();

  constructor(options: MachinesOptions) {
    this.#options = options;
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
    const { journal, clock, random, volumes, host, admission, seals, supervised } = this.#options;
    if (journal.machine(wish.machineId) !== undefined) return this.get(wish.machineId);
    if (this.list().length >= machinesMax)
      throw new FerryError('overloaded', `host ${host} has ${machinesMax} Machines`);
    const config = structuredClone(wish.config);
    await admission.canTake(create(MachineRecordSchema, { ...wish, config, volumeSizeBytes: 0n }));
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
    seals.mark(wish.machineId, { state: 'owned', epoch: 1 }, null);
    await supervised.resume(wish.machineId);
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
    return this.#describe(this.#options.rows.owned(machineId), this.#options.journal.events(machineId));
  }

  /** Start, stop, restart or destroy; answers a note when it takes effect only later. */
  async order(
    machineId: string,
    action: 'start' | 'stop' | 'restart' | 'destroy',
    options: { signal?: NodeJS.Signals; timeoutMs?: number; force?: boolean },
  ): Promise<string> {
    const { rows, supervised } = this.#options;
    rows.owned(machineId);
    const supervisor = supervised.find(machineId);
    if (supervisor === undefined) {
      throw new FerryError(
        'machine_busy',
        `Machine ${machineId} is not run here: ${supervised.refusal(machineId) ?? 'it is being taken up'}`,
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
    const { supervised } = this.#options;
    const supervisor = supervised.find(machineId);
    await supervisor
      ?.until(({ life }) => {
        const { state } = life.status;
        if (life.hold !== null || state === 'failed') return true;
        return state === life.desired || (life.desired === 'stopped' && state === 'created');
      }, signal)
      .catch(() => {});
    if (supervisor?.life.status.state === 'destroyed') await supervised.forgetDestroyed(machineId);
  }

  /** Removes what destroyed Machines left: their volumes, addresses and supervisors. */
  async forgetDestroyed(): Promise<void> {
    const { supervised } = this.#options;
    // One whose volume is busy must not keep the others.
    const ends = await Promise.allSettled(supervised.destroyed().map((id) => supervised.forgetDestroyed(id)));
    for (const end of ends) if (end.status === 'rejected') throw end.reason;
  }

  /** Output of a Machine. */
  logs(machineId: string, options: ReadLogOptions): AsyncIterable<string> {
    const { rows, runtime } = this.#options;
    rows.owned(machineId);
    return runtime.readLog(machineId, options);
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

  #describe(row: MachineRow, events: MachineEvent[]): Machine {
    const { host, rows, supervised, heldBy } = this.#options;
    return describeMachine(row, {
      host,
      placement: rows.placement(row),
      supervisor: supervised.find(row.id),
      refusal: supervised.refusal(row.id),
      heldBy: heldBy(row.id),
      events,
    });
  }
}
