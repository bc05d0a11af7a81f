import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import type { DescService } from '@bufbuild/protobuf';
import { type Client, createClient, createRouterTransport, type Transport } from '@connectrpc/connect';
import {
  ClusterService,
  DrainService,
  HostService,
  LockService,
  MachineService,
  MigrationService,
} from '../../proto/gen/ferry/v1/coordinator_pb.ts';
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

const defaults = {
  heartbeatIntervalMs: 2000,
  startDeadlineMs: 6000,
  concurrentMax: 64,
  downtimeBudgetMs: 300,
  leaseMs: 15_000,
  drainPerDestination: 4,
  drainTotal: 16,
};

/** Longer than an empty store waits for its hosts to report. */
const reportMs = 10_000;

/** One coordinator of a test: its own clock, so that it can be stopped like a process. */
export interface Running {
  readonly id: string;
  readonly coordinator: Coordinator;
  readonly clock: ManualClock;
  readonly transport: Transport;
}

/** Coordinators over fake hosts, a clock that a test moves, and a store that outlives restarts. */
export class Harness {
  readonly world = new FakeWorld();
  readonly clock = new ManualClock();
  readonly random = seededRandom(7);
  readonly directory = mkdtempSync(join(tmpdir(), 'ferry-coordinator-'));
  readonly #config: typeof defaults;
  #store: Store | undefined;
  /** Those whose time goes on. The first one answers. */
  #running: Running[] = [];
  #stopped: Running[] = [];

  constructor(config: Partial<typeof defaults> = {}) {
    this.#config = { ...defaults, ...config };
  }

  get store(): Store {
    return this.#store!;
  }

  /** The coordinator that answers. */
  get first(): Running {
    return this.#running[0]!;
  }

  /** Looks at this store from now on. */
  use(store: Store): void {
    this.#store = store;
  }

  /** Those whose time goes on. */
  get coordinators(): readonly Running[] {
    return this.#running;
  }

  /** Asks this one from now on. */
  ask(running: Running): void {
    this.#running = [running, ...this.#running.filter((other) => other !== running)];
  }

  /** Starts a coordinator on the store file; on an empty one, past the time in which hosts report (unless `early`). */
  async start({ early = false } = {}): Promise<void> {
    const { clock, random } = this;
    const store: Store = new SqliteStore({ path: join(this.directory, 'coordinator.db'), random, clock });
    this.#store = store;
    const isEmpty = (await store.hosts()).length === 0;
    await this.join('c1', { store });
    if (isEmpty && !early) {
      this.advance(reportMs);
      await this.beat();
      await this.settle();
      this.advance(1000);
      await this.beat();
      await this.settle();
    }
  }

  /** Starts one more coordinator, on the same store or on what a test puts before it. */
  async join(id: string, { clock = new ManualClock(this.clock.nowMs()), store = this.store } = {}): Promise<Running> {
    const { random, world: clients } = this;
    const config = this.#config;
    const options = { config, id, version: 'test', store, clients, clock, random, log: silentLog };
    const coordinator = await Coordinator.create(options);
    const transport = createRouterTransport(coordinator.routes, {
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
    const running = { id, coordinator, clock, transport };
    this.#running.push(running);
    await this.beat();
    await coordinator.start(`${id}:1`);
    await this.settle();
    return running;
  }

  /** Lets everything that is ready run. */
  async settle(): Promise<void> {
    for (let turn = 0; turn < 40; turn += 1) await setImmediate();
  }

  /** Stops the clock of a coordinator, as SIGSTOP does: its timers stand still. */
  suspend(running: Running): void {
    this.#running = this.#running.filter((other) => other !== running);
    this.#stopped.push(running);
  }

  /** Lets a suspended coordinator go on: all the time that passed passes for it at once. */
  async resume(running: Running): Promise<void> {
    this.#stopped = this.#stopped.filter((other) => other !== running);
    this.#running.push(running);
    running.clock.advance(this.clock.nowMs() - running.clock.nowMs());
    await this.settle();
  }

  /** Lets time pass for all whose clocks go on. */
  advance(ms: number): void {
    const clocks = new Set([this.clock, ...this.#running.map((each) => each.clock)]);
    for (const clock of clocks) clock.advance(ms);
  }

  /** Ends the coordinators where they are; nothing is finished or undone. */
  async crash(): Promise<void> {
    for (const { coordinator } of [...this.#running, ...this.#stopped]) await coordinator.stop();
    this.#running = [];
    this.#stopped = [];
    await this.#store?.close();
  }

  /** Ends one coordinator as SIGTERM does. */
  async leave(running: Running): Promise<void> {
    this.#running = this.#running.filter((other) => other !== running);
    await running.coordinator.stop();
  }

  /** Loses the store file. */
  forget(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.crash();
    rmSync(this.directory, { recursive: true, force: true });
  }

  client<S extends DescService>(service: S, running: Running = this.first): Client<S> {
    return createClient(service, running.transport);
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

  get drains() {
    return this.client(DrainService);
  }

  get cluster() {
    return this.client(ClusterService);
  }

  /** A heartbeat of every host that is not silent. */
  async beat(): Promise<void> {
    for (const agent of this.world.agents.values()) {
      if (agent.silent) continue;
      const { hostNumber, storeGeneration, roster } = await this.hosts.heartbeat(agent.heartbeat());
      agent.hostNumber = hostNumber;
      agent.storeGeneration = storeGeneration;
      for (const host of roster) agent.remembered.set(host.id, host.address);
    }
  }

  /** Lets time pass (with heartbeats) until `done`; fails after ten minutes of it. */
  async until<T>(done: () => Promise<T | undefined>): Promise<T> {
    for (let passedMs = 0; passedMs < 600_000; passedMs += 100) {
      for (let turn = 0; turn < 20; turn += 1) await setImmediate();
      const result = await done();
      if (result !== undefined) return result;
      this.advance(100);
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
