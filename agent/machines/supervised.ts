import { join } from 'node:path';
import type { Clock } from '../../shared/clock.ts';
import { FerryError } from '../../shared/error.ts';
import type { Logger } from '../../shared/log.ts';
import type { Random } from '../../shared/random.ts';
import { mayStart, sealOf } from '../handover/boot.ts';
import type { Seals } from '../handover/seals.ts';
import type { Journal, MachineRow } from '../journal.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { ferryErrorOf } from '../volumes/ferry-error.ts';
import { imageName } from '../volumes/image.ts';
import type { VolumeStore } from '../volumes/store.ts';
import type { Addresses } from './addresses.ts';
import type { AttachedVolume } from './environment.ts';
import type { MachineRows } from './rows.ts';
import { type MachineVolume, Supervisor } from './supervisor.ts';

/** What the supervisors of a host need. */
export interface SupervisedOptions {
  readonly dataDir: string;
  readonly journal: Journal;
  readonly rows: MachineRows;
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
  /** Ends what NBD tools read of a volume, and their tokens. */
  readonly endExports: (volumeId: string) => Promise<void>;
}

/** The Machines that this host runs: one supervisor each, begun by the boot rule alone. */
export class Supervised {
  readonly #options: SupervisedOptions;
  readonly #supervisors = new Map<string, Supervisor>();
  /** Those on their way, so that two who ask at once get one. */
  readonly #opening = new Map<string, Promise<Supervisor>>();
  /** Addresses that were put here, or are on their way. */
  readonly #addressed = new Map<string, Promise<void>>();
  /** Why a Machine is not supervised although its row is here, in words. */
  readonly #refusals = new Map<string, string>();

  constructor(options: SupervisedOptions) {
    this.#options = options;
  }

  /** Takes up every Machine that this host owns, but for those that a hand-over takes up itself. */
  async boot(others: ReadonlySet<string> = new Set()): Promise<void> {
    const { journal, log } = this.#options;
    for (const { id, placement, runtime } of journal.machines()) {
      if (placement.kind !== 'owner' || others.has(id)) continue;
      const isDestroyed = runtime.status.state === 'destroyed';
      // One Machine that cannot be taken up must not keep the others down.
      await (isDestroyed ? this.forgetDestroyed(id) : this.resume(id)).catch((error) => {
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

  /** A Machine's supervisor, if it has one. */
  find(machineId: string): Supervisor | undefined {
    return this.#supervisors.get(machineId);
  }

  /** Why a Machine of this host has no supervisor, in words. */
  refusal(machineId: string): string | undefined {
    return this.#refusals.get(machineId);
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
    const supervisor = await this.of(row);
    if (holder !== null) await supervisor.hold(`migration ${holder} holds the Machine`);
    else {
      await supervisor.takeBack();
      await supervisor.release();
    }
    await supervisor.run();
  }

  /** Ends the supervision of a Machine that was given up. */
  async retire(machineId: string, to: string): Promise<void> {
    const supervisor = this.#supervisors.get(machineId);
    this.#supervisors.delete(machineId);
    await supervisor?.handOver(to);
    await supervisor?.close();
    await this.#unaddress(this.#options.rows.of(machineId));
  }

  /** Those whose Machines are destroyed. */
  destroyed(): string[] {
    return [...this.#supervisors].flatMap(([id, { life }]) => (life.status.state === 'destroyed' ? [id] : []));
  }

  /** Removes what a destroyed Machine left: its volume, address and supervisor. */
  async forgetDestroyed(machineId: string): Promise<void> {
    const { journal, rows, volumes } = this.#options;
    const row = rows.of(machineId);
    await this.#unaddress(row);
    if (journal.volume(row.volumeId) !== undefined) {
      await volumes.destroy(row.volumeId);
      journal.write(() => journal.removeVolume(row.volumeId));
    }
    const supervisor = this.#supervisors.get(machineId);
    this.#supervisors.delete(machineId);
    await supervisor?.close();
  }

  /** A Machine's supervisor, opened if it is not. */
  of(row: MachineRow): Promise<Supervisor> {
    const known = this.#supervisors.get(row.id);
    if (known !== undefined) return Promise.resolve(known);
    const opening = this.#opening.get(row.id) ?? this.#open(row).finally(() => this.#opening.delete(row.id));
    this.#opening.set(row.id, opening);
    return opening;
  }

  async #open(row: MachineRow): Promise<Supervisor> {
    const { journal, rows, runtime, clock, random, log } = this.#options;
    const supervisor = await Supervisor.open({
      machineId: row.id,
      runtime,
      store: {
        load: (id) => journal.machine(id)?.runtime,
        save: (id, life, events) =>
          journal.write(() => {
            journal.putMachine({ ...rows.of(id), runtime: life, updatedAtMs: clock.nowMs() });
            journal.appendEvents(id, events);
          }),
      },
      volume: this.volumeOf(row),
      facts: () => {
        const now = rows.of(row.id);
        return { config: now.record.config!, placement: rows.placement(now) };
      },
      clock,
      random,
      log,
    });
    this.#supervisors.set(row.id, supervisor);
    return supervisor;
  }

  /** The boot rule is asked again before each start: attaching is the first thing that a start does. */
  volumeOf(row: MachineRow): MachineVolume {
    const { rows, volumes, seals, heldBy, journalWentBack, endExports } = this.#options;
    return {
      attach: async (): Promise<AttachedVolume | null> => {
        const now = rows.of(row.id);
        const verdict = mayStart(now.placement, sealOf(seals.of(row.id)), heldBy(row.id), journalWentBack());
        if (!verdict.allowed) throw new FerryError('not_owner', `Machine ${row.id} is not started: ${verdict.reason}`);
        if (now.volumeId === '') return this.#address(now).then(() => null);
        // Whoever reads the stopped volume would read bytes of different moments from here on.
        await endExports(now.volumeId);
        const [mounted] = await Promise.all([volumes.mount(now.volumeId), this.#address(now)]);
        return mounted;
      },
      detach: async () => {
        const { volumeId } = rows.of(row.id);
        if (volumeId !== '') await volumes.unmount(volumeId).catch((error) => Promise.reject(ferryErrorOf(error)));
      },
      openPaths: () => {
        const now = rows.of(row.id);
        return now.volumeId === '' ? [] : this.openPaths(now);
      },
    };
  }

  /** Where a program has files of its volume open, if it has any. */
  openPaths(row: MachineRow): string[] {
    const { dataDir } = this.#options;
    const epoch = row.placement.kind === 'none' ? 0 : row.placement.epoch;
    const folder = join(dataDir, 'volumes', row.volumeId);
    return [folder, join(folder, imageName({ state: 'owned', epoch })), join(dataDir, 'mnt', row.volumeId)];
  }

  /** Makes the Machine's address answer here, unless it does. */
  #address(row: MachineRow): Promise<void> {
    const address = this.#options.rows.privateIp(row);
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
    const address = this.#options.rows.privateIp(row);
    this.#addressed.delete(address);
    await this.#options.addresses.remove(address);
  }
}
