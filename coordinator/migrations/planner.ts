import { HostStatus, type Machine } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationState, type MigrationStrategy, type MoveReason } from '../../proto/gen/ferry/v1/migration_pb.ts';
import type { Clock } from '../../shared/clock.ts';
import { FerryError, invalidArgument } from '../../shared/error.ts';
import { newMigrationId } from '../../shared/ids.ts';
import type { Random } from '../../shared/random.ts';
import type { Agents } from '../agents.ts';
import { chooseHost, requireHost } from '../placement/choose.ts';
import { readCluster } from '../placement/cluster.ts';
import { needOfMove } from '../placement/need.ts';
import { volumesOf } from '../placement/volumes.ts';
import type { Roster } from '../roster.ts';
import type { MigrationRecord, Store } from '../store/store.ts';
import type { MigrationDriver } from './driver.ts';
import { newRecord } from './record.ts';

/** Parked migrations that are looked through for one that holds the network for the same Machine. */
const parkedMax = 1000;

/** What an operator asks for. */
export interface MigrationWish {
  /** Its ID when the caller has one: a drain writes it down before it asks. */
  readonly id?: string;
  /** Drain that orders it. */
  readonly drainId?: string;
  readonly machineId: string;
  /** Empty = chosen. */
  readonly destination: string;
  readonly strategy: MigrationStrategy;
  readonly startDeadlineMs: number;
  readonly overrideHosts: readonly string[];
  /** Longest time that the last copy may take; the coordinator's own when left out. */
  readonly downtimeBudgetMs?: number;
  /** Higher goes first in line for the network, -100 to 100; 0 when left out. */
  readonly priority?: number;
  /** Why it is ordered. */
  readonly reason?: MoveReason;
  /** Who orders it. */
  readonly orderedBy?: string;
}

/** How the planner is made. */
export interface PlannerOptions {
  readonly store: Store;
  readonly agents: Agents;
  readonly roster: Roster;
  readonly driver: MigrationDriver;
  readonly clock: Clock;
  readonly random: Random;
  /** Of migrations that name none. */
  readonly downtimeBudgetMs: number;
  /** The store was lost and is not rebuilt yet: the Machine may be on its way already. */
  readonly isLost: () => boolean;
}

/** Claims whose basis changed under them, before it is given up. */
const claimsMax = 10;

/** A Machine without checks is healthy when it has run for so long. */
const uncheckedHealthyMs = 5_000;

/** Turns a wish into a claimed migration; whatever can be refused is refused here, before anything is done. */
export class Planner {
  readonly #options: PlannerOptions;

  constructor(options: PlannerOptions) {
    this.#options = options;
  }

  /**
   * Claims the Machine and begins to drive. Throws unknown_machine, unknown_host, same_host, host_cordoned,
   * host_unreachable, journal_went_back, no_host, machine_busy, rebuilding or overloaded.
   */
  async migrate(wish: MigrationWish): Promise<MigrationRecord> {
    const { roster, driver, clock, random, isLost } = this.#options;
    if (isLost()) {
      throw new FerryError('rebuilding', 'the store was lost, and whether this Machine is on its way is not known yet');
    }
    const { machineId } = wish;
    const { hostId: source, network, machine } = await roster.placement(machineId);
    const hasChecks = Object.keys(machine.config?.checks ?? {}).length > 0;
    if (!hasChecks && wish.startDeadlineMs <= uncheckedHealthyMs) {
      throw invalidArgument(
        'start_deadline',
        `is ${wish.startDeadlineMs / 1000} s, and a Machine without checks counts as healthy after 5 s`,
        'more than 5 s',
      );
    }
    if (wish.destination === source) {
      throw new FerryError('same_host', `Machine ${machineId} is on ${source} already`, {
        field: 'destination',
        expected: 'another host',
        facts: { host: source },
      });
    }
    const from = await roster.host(source);
    if (roster.status(from) === HostStatus.UNREACHABLE) {
      throw new FerryError('host_unreachable', `host ${source}, which owns the Machine, does not answer`, {
        field: 'machine_id',
        facts: { host: source },
      });
    }
    for (const host of wish.overrideHosts) await roster.host(host, 'override_hosts');
    const destination = await this.#destination(wish, source, machine);
    driver.requireRoom();
    const id = wish.id ?? newMigrationId(clock.nowMs(), random);
    const record = await this.#claim(wish, { id, network, source, destination });
    driver.drive(id);
    return record;
  }

  async #claim(
    wish: MigrationWish,
    about: { readonly id: string; readonly network: string; readonly source: string; readonly destination: string },
  ): Promise<MigrationRecord> {
    const { store, clock, downtimeBudgetMs } = this.#options;
    const { machineId } = wish;
    for (let tries = 0; tries < claimsMax; tries += 1) {
      const parked = await this.#parkedLock(machineId);
      const record = newRecord({
        downtimeBudgetMs,
        ...wish,
        ...about,
        lockHolder: parked?.plan.lockHolder ?? about.id,
        permitHosts: parked?.plan.permitHosts ?? [],
        returns: '',
        nowMs: clock.nowMs(),
      });
      const inherits = parked && { migrationId: parked.migration.id, version: parked.version };
      const answer = await store.claimMigration(record, inherits === undefined ? {} : { inherits });
      if (answer.kind === 'claimed') return record;
      if (answer.kind === 'changed') continue;
      throw new FerryError('machine_busy', `migration ${answer.migrationId} moves Machine ${machineId} already`, {
        field: 'machine_id',
        facts: { migration: answer.migrationId, machine: machineId },
      });
    }
    throw new FerryError('overloaded', `the migrations of Machine ${machineId} are changed by too many at once`);
  }

  async #destination(wish: MigrationWish, source: string, machine: Machine): Promise<string> {
    const { store, roster, agents } = this.#options;
    const { destination } = wish;
    if (destination !== '') await roster.host(destination, 'destination');
    const { machineId, drainId = '' } = wish;
    const { sites } = await readCluster(store, roster, { machineId, drainId });
    const volume = (await volumesOf(agents, source))?.get(machine.volumeId);
    const need = needOfMove(machine, sites.get(source)!, volume, { anyRegion: destination !== '' });
    if (destination === '') return chooseHost(sites.values(), need).id;
    requireHost(sites.get(destination)!, need, 'destination');
    return destination;
  }

  /** A network that stays locked because this Machine is down must not keep it from being moved. */
  async #parkedLock(machineId: string): Promise<MigrationRecord | undefined> {
    const unended = await this.#options.store.unendedMigrations(parkedMax);
    return unended.find(
      ({ migration }) =>
        migration.machineId === machineId && migration.state === MigrationState.PARKED && migration.holdsLock,
    );
  }
}
