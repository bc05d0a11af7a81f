import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import type { DescService } from '@bufbuild/protobuf';
import { type Client, createClient, createRouterTransport, type Transport } from '@connectrpc/connect';
import { HostService, LockService, MachineService, MigrationService } from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import type { Migration } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { ManualClock } from '../../shared/clock.ts';
import { type FerryError, toConnectError, toFerryError } from '../../shared/error.ts';
import { silentLog } from '../../shared/log.ts';
import { seededRandom } from '../../shared/random.ts';
import { Coordinator } from '../coordinator.ts';
import { isFinal } from '../migrations/feed.ts';
import { SqliteStore } from '../store/sqlite.ts';
import type { Store } from '../store/store.ts';
import { FakeWorld } from './fake-agent.ts';

const defaults = { heartbeatIntervalMs: 2000, startDeadlineMs: 6000, concurrentMax: 64 };

/** Longer than an empty store waits for its hosts to report. */
const reportMs = 10_000;

/** A coordinator over fake hosts, a clock that a test moves, and a store file that outlives restarts. */
export class Harness {
  readonly world = new FakeWorld();
  readonly clock = new ManualClock();
  readonly random = seededRandom(7);
  readonly directory = mkdtempSync(join(tmpdir(), 'ferry-coordinator-'));
  readonly #config: typeof defaults;
  #store: Store | undefined;
  #coordinator: Coordinator | undefined;
  #transport: Transport | undefined;

  constructor(config: Partial<typeof defaults> = {}) {
    this.#config = { ...defaults, ...config };
  }

  get store(): Store {
    return this.#store!;
  }

  /** Starts a coordinator on the store file; on an empty one, past the time in which hosts report (unless `early`). */
  async start({ early = false } = {}): Promise<void> {
    const store = new SqliteStore({ path: join(this.directory, 'coordinator.db'), random: this.random, clock: this.clock });
    this.#store = store;
    const isEmpty = (await store.hosts()).length === 0;
    const { clock, random, world: clients } = this;
    const config = this.#config;
    this.#coordinator = await Coordinator.create({ config, store, clients, clock, random, log: silentLog });
    const { routes } = this.#coordinator;
    this.#transport = createRouterTransport(routes, {
      router: {
        interceptors: [
          (next) => async (request) => {
            try {
              return await next(request);
            } catch (error) {
              throw toConnectError(error);
            }
          },
        ],
      },
    });
    await this.beat();
    if (isEmpty && !early) {
      this.clock.advance(reportMs);
      await this.beat();
    }
    await this.#coordinator.start();
  }

  /** Ends the coordinator where it is; nothing is finished or undone. */
  async crash(): Promise<void> {
    await this.#coordinator?.stop();
    await this.#store?.close();
    this.#coordinator = undefined;
  }

  /** Loses the store file. */
  forget(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.crash();
    rmSync(this.directory, { recursive: true, force: true });
  }

  client<S extends DescService>(service: S): Client<S> {
    return createClient(service, this.#transport!);
  }

  get machines() {
    return this.client(MachineService);
  }

  get migrations() {
    return this.client(MigrationService);
  }

  get hosts() {
    return this.client(HostService);
  }

  get locks() {
    return this.client(LockService);
  }

  /** A heartbeat of every host that is not silent. */
  async beat(): Promise<void> {
    for (const agent of this.world.agents.values()) {
      if (agent.silent) continue;
      const { hostNumber } = await this.hosts.heartbeat(agent.heartbeat());
      agent.hostNumber = hostNumber;
    }
  }

  /** Lets time pass (with heartbeats) until `done`; fails after ten minutes of it. */
  async until<T>(done: () => Promise<T | undefined>): Promise<T> {
    for (let passedMs = 0; passedMs < 600_000; passedMs += 100) {
      for (let turn = 0; turn < 20; turn += 1) await setImmediate();
      const result = await done();
      if (result !== undefined) return result;
      this.clock.advance(100);
      if (passedMs % 2000 === 0) await this.beat();
    }
    throw new Error('it did not happen within ten minutes of the clock');
  }

  migration(migrationId: string): Promise<Migration> {
    return this.migrations.getMigration({ migrationId }).then(({ migration }) => migration!);
  }

  /** The migration once nothing will change any more. */
  ended(migrationId: string): Promise<Migration> {
    return this.until(async () => {
      const migration = await this.migration(migrationId);
      return isFinal(migration) ? migration : undefined;
    });
  }

  /** Resolves when a host gets an order; the order is then never answered, as if the coordinator had died there. */
  hangAt(host: string, method: string, when: 'before' | 'after'): Promise<void> {
    const { scripts } = this.world.agents.get(host)!;
    return new Promise((resolve) => {
      scripts.set(method, async (now) => {
        if (now !== when) return;
        scripts.delete(method);
        resolve();
        await new Promise(() => {});
      });
    });
  }

  /** Claims a migration and answers its ID. */
  async migrate(machineId: string, destination = ''): Promise<string> {
    return (await this.migrations.migrateMachine({ machineId, destination })).migration!.id;
  }
}

/** The typed error of a refused call; fails when the call is not refused. */
export async function refusal(call: Promise<unknown>): Promise<FerryError> {
  try {
    await call;
  } catch (error) {
    return toFerryError(error);
  }
  throw new Error('the call was not refused');
}
