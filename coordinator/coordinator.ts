import { join } from 'node:path';
import type { ConnectRouter } from '@connectrpc/connect';
import {
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
import { NetworkLocks } from './locks/network-lock.ts';
import { Orphans } from './locks/orphans.ts';
import { MigrationBook } from './migrations/book.ts';
import { MigrationDriver } from './migrations/driver.ts';
import { Housekeeping } from './migrations/housekeeping.ts';
import type { JourneyParts } from './migrations/journey.ts';
import { Planner } from './migrations/planner.ts';
import { Roster } from './roster.ts';
import { hostService } from './services/hosts.ts';
import { lockService } from './services/locks.ts';
import { machineService } from './services/machines.ts';
import { migrationService } from './services/migrations.ts';
import { volumeService } from './services/volumes.ts';
import type { Store } from './store/store.ts';

/** Ended migrations that are kept for people to look at. */
const migrationsKept = 10_000;
const migrationsWaitingMax = 1000;
/** An agent whose coordinator was away calls again within this. */
const reportMsMax = 3_000;

/** Time, randomness, storage and RPC, as a coordinator gets them. */
export interface CoordinatorOptions {
  readonly config: Pick<CoordinatorConfig, 'heartbeatIntervalMs' | 'startDeadlineMs' | 'concurrentMax'>;
  readonly store: Store;
  readonly clients: Clients;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
}

/** A coordinator without its server: the services as routes, and the driver behind them. */
export class Coordinator {
  readonly #options: CoordinatorOptions;
  readonly #driver: MigrationDriver;
  readonly #housekeeping: Housekeeping;
  readonly #stopping = new AbortController();
  #tidying: Promise<void> = Promise.resolve();
  /** Registers the services. */
  readonly routes: (router: ConnectRouter) => void;

  private constructor(options: CoordinatorOptions, term: bigint, openAtMs: number) {
    this.#options = options;
    const { store, clients, clock, random, log, config } = options;
    const directory = new Directory({ store, clock, random, openAtMs });
    const roster = new Roster({ store, clock, directory, heartbeatIntervalMs: config.heartbeatIntervalMs });
    const agents = new Agents(clients, roster);
    const orphans = new Orphans({ store, agents, clock, term, log, openAtMs });
    const locks = new NetworkLocks({ store, agents, orphans, clock, openAtMs });
    const book = new MigrationBook(store);
    const parts: JourneyParts = { store, book, agents, roster, locks, clock, term };
    const { concurrentMax, startDeadlineMs } = config;
    const driver = new MigrationDriver({ ...parts, random, log, concurrentMax, waitingMax: migrationsWaitingMax });
    const planner = new Planner({ store, agents, book, roster, driver, clock, random, term });
    this.#driver = driver;
    this.#housekeeping = new Housekeeping({ parts, store, orphans, clock, log });
    this.routes = (router) => {
      router.service(MachineService, machineService({ store, roster, agents, random }));
      router.service(VolumeService, volumeService({ roster, agents, random }));
      router.service(HostService, hostService({ store, roster, agents, log }));
      router.service(MigrationService, migrationService({ parts, driver, planner, startDeadlineMs }));
      router.service(LockService, lockService(parts));
    };
  }

  /** Takes the next driver term; nothing is driven before `start`. */
  static async create(options: CoordinatorOptions): Promise<Coordinator> {
    const { store, clock, config } = options;
    // A store that begins empty may have been lost: hosts that it does not know yet may hold permits.
    const isEmpty = (await store.hosts()).length === 0;
    const openAtMs = isEmpty ? clock.nowMs() + Math.max(reportMsMax, 3 * config.heartbeatIntervalMs) : 0;
    return new Coordinator(options, BigInt(clock.nowMs()), openAtMs);
  }

  /** Resumes every open migration and begins the housekeeping. */
  async start(): Promise<void> {
    await this.#options.store.pruneMigrations(migrationsKept);
    await this.#driver.resume();
    this.#tidying = this.#housekeeping.run(this.#stopping.signal);
  }

  /** Stops driving; the store stays as it is, for the next start. Twice is harmless. */
  async stop(): Promise<void> {
    this.#stopping.abort(new Error('the coordinator is going down'));
    await Promise.all([this.#driver.stop(), this.#tidying]);
  }
}

/** Where the store is within the data directory. */
export function storePath(dataDir: string): string {
  return join(dataDir, 'coordinator.db');
}
