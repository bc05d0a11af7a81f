import { HostStatus, type Machine } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationState, type MigrationStrategy } from '../../proto/gen/ferry/v1/migration_pb.ts';
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
import type { MigrationBook } from './book.ts';
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
}

/** How the planner is made. */
export interface PlannerOptions {
  readonly store: Store;
  readonly agents: Agents;
  readonly book: MigrationBook;
  readonly roster: Roster;
  readonly driver: MigrationDriver;
  readonly clock: Clock;
  readonly random: Random;
  readonly term: bigint;
}

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
   * host_unreachable, journal_went_back, no_host, machine_busy or overloaded.
   */
  async migrate(wish: MigrationWish): Promise<MigrationRecord> {
    const { store, book, roster, driver, clock, random, term } = this.#options;
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
    const { record, answer } = await book.exclusively(async () => {
      const inherited = await this.#parkedLock(machineId);
      const claimed = newRecord({
        ...wish,
        id,
        network,
        source,
        destination,
        lockHolder: inherited?.plan.lockHolder ?? id,
        permitHosts: inherited?.plan.permitHosts ?? [],
        returns: '',
        term,
        nowMs: clock.nowMs(),
      });
      return { record: claimed, answer: await store.claimMigration(claimed) };
    });
    if (answer.kind === 'busy') {
      throw new FerryError('machine_busy', `migration ${answer.migrationId} moves Machine ${machineId} already`, {
        field: 'machine_id',
        facts: { migration: answer.migrationId, machine: machineId },
      });
    }
    driver.drive(id);
    return record;
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
