import { join } from 'node:path';
import type { ConnectRouter } from '@connectrpc/connect';
import {
  ClusterService,
  DrainService,
  HostService,
  LockService,
  MachineService,
  MigrationService,
  VolumeService,
} from '../proto/gen/ferry/v1/coordinator_pb.ts';
import type { Clock } from '../shared/clock.ts';
import type { Logger } from '../shared/log.ts';
import type { Random } from '../shared/random.ts';
import { Agents, type Clients } from './agents.ts';
import type { CoordinatorConfig } from './config.ts';
import { Directory } from './directory.ts';
import { DrainBook } from './drains/book.ts';
import { Drains } from './drains/drains.ts';
import { DrainEngine } from './drains/engine.ts';
import { restoreDrain } from './drains/keep.ts';
import { MigrationMover } from './drains/mover.ts';
import type { Gate } from './locks/gate.ts';
import { NetworkLocks } from './locks/network-lock.ts';
import { Orphans } from './locks/orphans.ts';
import { MigrationBook } from './migrations/book.ts';
import { MigrationDriver } from './migrations/driver.ts';
import { Housekeeping } from './migrations/housekeeping.ts';
import type { JourneyParts } from './migrations/journey.ts';
import { Planner } from './migrations/planner.ts';
import { Rebuild } from './rebuild/rebuild.ts';
import { Roster } from './roster.ts';
import { clusterService } from './services/cluster.ts';
import { drainService } from './services/drains.ts';
import { hostService } from './services/hosts.ts';
import { lockService } from './services/locks.ts';
import { machineService } from './services/machines.ts';
import { migrationService } from './services/migrations.ts';
import { volumeService } from './services/volumes.ts';
import { Sessions } from './sessions.ts';
import type { Store } from './store/store.ts';

const migrationsWaitingMax = 1000;

/** Time, randomness, storage and RPC, as a coordinator gets them. */
export interface CoordinatorOptions {
  readonly config: Pick<
    CoordinatorConfig,
    | 'heartbeatIntervalMs'
    | 'startDeadlineMs'
    | 'concurrentMax'
    | 'downtimeBudgetMs'
    | 'leaseMs'
    | 'drainPerDestination'
    | 'drainTotal'
  >;
  /** Name of this coordinator; one process a name. */
  readonly id: string;
  readonly version: string;
  readonly store: Store;
  readonly clients: Clients;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
}

/** A coordinator without its server: the services as routes, and the driver behind them. */
export class Coordinator {
  readonly #sessions: Sessions;
  readonly #rebuild: Rebuild;
  readonly #driver: MigrationDriver;
  readonly #drains: DrainEngine;
  readonly #housekeeping: Housekeeping;
  readonly #stopping = new AbortController();
  #running: Promise<unknown> = Promise.resolve();
  /** The session ends last, so that nothing is driven twice meanwhile. */
  readonly #ending = new AbortController();
  #renewing: Promise<void> = Promise.resolve();
  /** Registers the services. */
  readonly routes: (router: ConnectRouter) => void;

  private constructor(options: CoordinatorOptions) {
    const { store, clients, clock, random, log, config, id, version } = options;
    const { heartbeatIntervalMs, startDeadlineMs, concurrentMax, downtimeBudgetMs, leaseMs } = config;
    const sessions = new Sessions({ store, clock, random, log, coordinator: id, version, leaseMs });
    const gate: Gate = { shut: (overridden) => this.#rebuild.shut(overridden) };
    const generation = () => this.#rebuild.generation;
    const directory = new Directory({ store, random, gate });
    const roster = new Roster({ store, clock, directory, heartbeatIntervalMs, generation });
    const agents = new Agents(clients, roster);
    const orphans = new Orphans({ store, agents, log, gate });
    const locks = new NetworkLocks({ store, agents, orphans, clock, gate });
    const book = new MigrationBook(store, clock);
    const parts: JourneyParts = { store, book, agents, roster, locks, clock, log };
    const driver = new MigrationDriver({ ...parts, random, sessions, concurrentMax, waitingMax: migrationsWaitingMax });
    const isLost = () => this.#rebuild.isLost;
    const planner = new Planner({ store, agents, roster, driver, clock, random, downtimeBudgetMs, isLost });
    const drainBook = new DrainBook(store, clock);
    const limits = { perDestination: config.drainPerDestination, total: config.drainTotal };
    const drainParts = { store, roster, agents, book: drainBook, clock, random, log, limits, downtimeBudgetMs };
    const mover = new MigrationMover(planner, driver, startDeadlineMs);
    const engine = new DrainEngine({ ...drainParts, mover, sessions });
    const drains = new Drains({ ...drainParts, engine });
    this.#sessions = sessions;
    this.#driver = driver;
    this.#drains = engine;
    this.#rebuild = new Rebuild({
      store,
      agents,
      roster,
      clock,
      log,
      heartbeatIntervalMs,
      defaults: () => ({ startDeadlineMs, downtimeBudgetMs }),
      onLost: () => {
        roster.storeChanged();
        sessions.lose('the store was lost, or another server took it over');
      },
      remembered: () => driver.remembered(),
      restoreDrain: async (hostId, kept) => {
        if (await restoreDrain(store, hostId, kept)) log.info({ host: hostId }, 'a drain is known again');
      },
    });
    this.#housekeeping = new Housekeeping({ parts, store, orphans, sessions, clock, log });
    this.routes = (router) => {
      router.service(MachineService, machineService({ store, roster, agents, random }));
      router.service(VolumeService, volumeService({ store, book, roster, agents, random }));
      router.service(HostService, hostService({ store, roster, agents, log, rebuild: this.#rebuild }));
      router.service(MigrationService, migrationService({ parts, driver, planner, startDeadlineMs, downtimeBudgetMs }));
      router.service(LockService, lockService(parts));
      router.service(DrainService, drainService({ store, roster, book: drainBook, drains }));
      router.service(ClusterService, clusterService({ store, roster, rebuild: this.#rebuild, sessions }));
    };
  }

  /** Looks at the store before any agent reports: one without hosts may have been lost. Nothing is driven before `start`. */
  static async create(options: CoordinatorOptions): Promise<Coordinator> {
    const coordinator = new Coordinator(options);
    await coordinator.#rebuild.start();
    return coordinator;
  }

  /** Begins to drive, as the coordinator that answers at `address`. */
  async start(address: string): Promise<void> {
    const { signal } = this.#stopping;
    await this.#sessions.start(address);
    this.#running = Promise.all([
      this.#rebuild.run(signal),
      this.#driver.run(signal),
      this.#drains.run(signal),
      this.#housekeeping.run(signal),
    ]);
    this.#renewing = this.#sessions.run(this.#ending.signal);
    await this.#driver.takeOver().catch(() => {});
  }

  /** Migrations that are driven here. */
  get driving(): number {
    return this.#driver.driving;
  }

  /** Stops driving; the store stays as it is, and others take over at once. Twice is harmless. */
  async stop(): Promise<void> {
    this.#stopping.abort(new Error('the coordinator is going down'));
    await Promise.all([this.#driver.stop(), this.#running]);
    this.#ending.abort();
    await this.#renewing;
  }
}

/** Where the store is within the data directory. */
export function storePath(dataDir: string): string {
  return join(dataDir, 'coordinator.db');
}
