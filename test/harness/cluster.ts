// Past 300 lines because it is one noun: a cluster of real processes, and all that tests do to it.
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { freePort } from '../../cli/cluster.ts';
import { type KnownMachine, loopsUnder, machineProcesses, mountsUnder, sweepLeftovers } from '../../cli/sweep.ts';
import { AgentService } from '../../proto/gen/ferry/v1/agent_pb.ts';
import {
  ClusterService,
  DrainService,
  HostService,
  LockService,
  MachineService,
  MigrationService,
  VolumeService,
} from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import { HandoverService } from '../../proto/gen/ferry/v1/handover_pb.ts';
import { HostStatus, type Machine, MachineConfigSchema, MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { type Migration, MigrationState, MigrationStrategy } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { toFerryError } from '../../shared/error.ts';
import { ClientPool } from '../../shared/rpc/client.ts';
import { mountXfs } from './disk.ts';
import { RedisStore } from './redis-store.ts';

const entry = join(import.meta.dirname, '../../cli/main.ts');
/** Between two looks at what is waited for: longer the longer it is waited, because daemons under test have to answer. */
const pollMs = 25;
const pollMsMax = 100;
const runsAtOnce = 6;

type Flags = Readonly<Record<string, string>>;

/** How a test's cluster is made. */
export interface TestClusterOptions {
  readonly hosts?: readonly string[];
  /** Flags for all agents, or for each, besides those of the cluster, for example { 'driver-silence': '3s' }. */
  readonly agentFlags?: Flags | ((host: string) => Flags);
  readonly coordinatorFlags?: Flags;
  /** How many coordinators, named coordinator, coordinator-2, ...; agents know all. Several need a Redis. */
  readonly coordinators?: number;
  /** Where coordinators keep their state. */
  readonly store?: 'sqlite' | 'redis';
  /** Hosts whose data is on an XFS of so many MiB, which can share blocks, on a loop device; needs root. */
  readonly xfsMib?: Readonly<Record<string, number>>;
  /** Environment of the agents, besides the test's own. */
  readonly agentEnv?: Readonly<Record<string, string>>;
  /** Where the data goes; a folder in the system's temporary one by default. */
  readonly root?: string;
  /** Runs before the daemons start; `dir` gets a folder for each, named as the daemon. Mounts below it are undone at the end. */
  readonly prepare?: (dir: string) => void;
}

/** Ends `until` at once. */
class Refused extends Error {
  constructor(cause: unknown) {
    super('refused', { cause });
  }
}

/** Names of so many coordinators. */
const coordinatorNames = (count: number) =>
  Array.from({ length: count }, (_, index) => (index === 0 ? 'coordinator' : `coordinator-${index + 1}`));

interface Daemon {
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  child: ChildProcess | null;
}

/**
 * Coordinators and agents as real processes on loopback, that can be killed and started again one by one. Ends with
 * `await using`: Machines destroyed, daemons ended, mounts and folders gone.
 */
export class TestCluster implements AsyncDisposable {
  readonly dir: string;
  readonly #addresses = new Map<string, string>();
  readonly #daemons = new Map<string, Daemon>();
  /** Each Machine with each address that it was seen at. */
  readonly #seen = new Map<string, KnownMachine>();
  readonly #pool = new ClientPool();
  readonly #coordinators = new Map<string, string>();
  #asked = 'coordinator';
  #redis: RedisStore | null = null;

  private constructor(dir: string) {
    this.dir = dir;
  }

  /** Starts all; resolves once every host answers. */
  static async start(options: TestClusterOptions = {}): Promise<TestCluster> {
    const { hosts = ['host-a', 'host-b'], agentFlags = {}, coordinatorFlags = {} } = options;
    const names = coordinatorNames(options.coordinators ?? 1);
    const dir = mkdtempSync(join(options.root ?? tmpdir(), 'ferry-cluster-'));
    const cluster = new TestCluster(dir);
    if (options.store === 'redis') cluster.#redis = await RedisStore.start(names);
    const flags = (values: Flags) => Object.entries(values).flatMap(([name, value]) => [`--${name}`, value]);
    for (const name of names) {
      const address = `127.0.0.1:${await freePort()}`;
      cluster.#coordinators.set(name, address);
      const own = ['--data-dir', join(dir, name), '--listen', address, '--heartbeat-interval', '500ms'];
      const store = cluster.#redis === null ? [] : ['--store', cluster.#redis.url(name), '--id', name];
      cluster.#daemons.set(name, {
        args: ['coordinator', ...own, ...store, ...flags(coordinatorFlags)],
        env: {},
        child: null,
      });
    }
    for (const host of hosts) {
      const address = `127.0.0.1:${await freePort()}`;
      cluster.#addresses.set(host, address);
      const own = [
        '--host',
        host,
        '--data-dir',
        join(dir, host),
        '--coordinator',
        [...cluster.#coordinators.values()].join(),
        '--listen',
        address,
      ];
      cluster.#daemons.set(host, {
        args: ['agent', ...own, ...flags(typeof agentFlags === 'function' ? agentFlags(host) : agentFlags)],
        env: options.agentEnv ?? {},
        child: null,
      });
    }
    try {
      for (const [host, sizeMib] of Object.entries(options.xfsMib ?? {})) mountXfs(join(dir, host), sizeMib);
      options.prepare?.(dir);
      for (const name of cluster.#daemons.keys()) cluster.spawn(name);
      await cluster.untilHostsAnswer();
      return cluster;
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Address of the coordinator that is asked. */
  get coordinator(): string {
    return this.#coordinators.get(this.#asked)!;
  }

  /** From now on another coordinator is asked. */
  ask(name: string): void {
    this.#asked = name;
  }

  /** The Redis of a cluster that has one. */
  get redis(): RedisStore {
    return this.#redis!;
  }

  /** Calls to the coordinator. */
  get machines() {
    return this.#pool.client(MachineService, this.coordinator);
  }

  get migrations() {
    return this.#pool.client(MigrationService, this.coordinator);
  }

  get hosts() {
    return this.#pool.client(HostService, this.coordinator);
  }

  get volumes() {
    return this.#pool.client(VolumeService, this.coordinator);
  }

  get locks() {
    return this.#pool.client(LockService, this.coordinator);
  }

  get drains() {
    return this.#pool.client(DrainService, this.coordinator);
  }

  get status() {
    return this.#pool.client(ClusterService, this.coordinator);
  }

  /** Address of an agent's RPC port. */
  address(host: string): string {
    return this.#addresses.get(host)!;
  }

  /** Calls to an agent. */
  agent(host: string) {
    return this.#pool.client(AgentService, this.address(host));
  }

  handover(host: string) {
    return this.#pool.client(HandoverService, this.address(host));
  }

  /** Data directory of a daemon. */
  dataDir(name: string): string {
    return join(this.dir, name);
  }

  /** All that a daemon wrote. */
  log(name: string): string {
    return readFileSync(join(this.dir, `${name}.log`), 'utf8');
  }

  /** PID of a daemon that runs. */
  pid(name: string): number {
    return this.#daemons.get(name)!.child!.pid!;
  }

  /** Sends a signal to a daemon and does not wait; SIGSTOP freezes it, SIGCONT lets it go on. */
  signal(name: string, signal: NodeJS.Signals): void {
    process.kill(this.pid(name), signal);
  }

  /** Starts a daemon. */
  spawn(name: string): void {
    const daemon = this.#daemons.get(name)!;
    mkdirSync(this.dir, { recursive: true });
    const log = openSync(join(this.dir, `${name}.log`), 'a', 0o600);
    daemon.child = spawn(process.execPath, [entry, ...daemon.args], {
      detached: true,
      stdio: ['ignore', log, log],
      env: { ...process.env, ...daemon.env },
    });
    closeSync(log);
  }

  /** Ends a daemon by a signal; resolves with its exit code when it is gone, null if the signal ended it. */
  async kill(name: string, signal: NodeJS.Signals = 'SIGKILL'): Promise<number | null> {
    const daemon = this.#daemons.get(name)!;
    const { child } = daemon;
    daemon.child = null;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return child?.exitCode ?? null;
    const exited = new Promise<number | null>((resolve) => child.once('exit', resolve));
    child.kill(signal);
    return exited;
  }

  /** Resolves once every host's heartbeats arrive. */
  async untilHostsAnswer(): Promise<void> {
    await this.until('all hosts answer', async () => {
      const { hosts } = await this.hosts.listHosts({}, { timeoutMs: 2000 });
      const up = hosts.filter((host) => host.status === HostStatus.OK).map((host) => host.id);
      return [...this.#addresses.keys()].every((host) => up.includes(host));
    });
  }

  /** Waits until something holds; errors count as "not yet". Throws after `deadlineMs` with the daemons' last words. */
  async until(what: string, holds: () => Promise<boolean> | boolean, deadlineMs = 45_000): Promise<void> {
    const beginMs = performance.now();
    const endMs = beginMs + deadlineMs;
    let last: unknown = null;
    while (performance.now() < endMs) {
      try {
        if (await holds()) return;
        last = null;
      } catch (error) {
        if (error instanceof Refused) throw error.cause;
        last = error;
      }
      await sleep(Math.min(pollMsMax, pollMs + (performance.now() - beginMs) / 40));
    }
    const logs = [...this.#daemons.keys()].map((name) => `--- ${name}\n${this.log(name).slice(-3000)}`).join('\n');
    throw new Error(`not within ${deadlineMs / 1000} s: ${what}${last === null ? '' : ` (${String(last)})`}\n${logs}`);
  }

  /** Runs a Machine; resolves when it is started. */
  async run(
    config: MessageInitShape<typeof MachineConfigSchema>,
    options: { host?: string; app?: string; network?: string; name?: string } = {},
  ): Promise<Machine> {
    const { machine } = await this.machines.runMachine(
      {
        app: options.app ?? 'app',
        network: options.network ?? 'net',
        name: options.name ?? '',
        hostId: options.host ?? '',
        config: create(MachineConfigSchema, config),
      },
      { timeoutMs: 30_000 },
    );
    this.#note(machine!);
    await this.until(
      `Machine ${machine!.id} is started`,
      async () => (await this.machine(machine!.id)).state === MachineState.STARTED,
    );
    return this.machine(machine!.id);
  }

  /** Runs several Machines, a few at a time; answers them in their order. */
  async runAll(machines: readonly Parameters<TestCluster['run']>[]): Promise<Machine[]> {
    const started: Machine[] = [];
    for (let at = 0; at < machines.length; at += runsAtOnce) {
      const batch = machines.slice(at, at + runsAtOnce);
      started.push(...(await Promise.all(batch.map((each) => this.run(...each)))));
    }
    return started;
  }

  /** A Machine as its owner sees it. */
  async machine(machineId: string): Promise<Machine> {
    const machine = (await this.machines.getMachine({ machineId }, { timeoutMs: 5000 })).machine!;
    this.#note(machine);
    return machine;
  }

  /** Where a Machine's program listens now, "address" or "[address]" for IPv6; told by its owner, without a coordinator. */
  async whereabouts(machineId: string): Promise<string> {
    const asked = [...this.#addresses.keys()].map((host) =>
      this.agent(host).agentGetMachine({ machineId }, { timeoutMs: 1000 }),
    );
    const { machine } = await Promise.any(asked);
    this.#note(machine!);
    const address = machine!.bindIp || machine!.privateIp;
    return address.includes(':') ? `[${address}]` : address;
  }

  #note({ id, privateIp }: Machine): void {
    this.#seen.set(`${id} ${privateIp}`, { id, privateIp });
  }

  /** Begins a migration; answers its ID. On a busy machine a host can be late with its heartbeats: it is waited for. */
  async migrate(
    machineId: string,
    destination: string,
    strategy: MigrationStrategy = MigrationStrategy.UNSPECIFIED,
  ): Promise<string> {
    let id = '';
    await this.until(`Machine ${machineId} can be moved`, async () => {
      try {
        const wish = { machineId, destination, strategy };
        id = (await this.migrations.migrateMachine(wish, { timeoutMs: 10_000 })).migration!.id;
      } catch (error) {
        if (toFerryError(error).reason !== 'host_unreachable') throw new Refused(error);
      }
      return id !== '';
    });
    return id;
  }

  /** A migration as it is now. */
  async migration(migrationId: string): Promise<Migration> {
    return (await this.migrations.getMigration({ migrationId }, { timeoutMs: 5000 })).migration!;
  }

  /** Waits until a migration has ended (and, if it moved, settled); answers it. */
  async ended(migrationId: string, deadlineMs = 90_000): Promise<Migration> {
    let migration = await this.migration(migrationId).catch(() => undefined);
    await this.until(
      `migration ${migrationId} ends`,
      async () => {
        migration = await this.migration(migrationId);
        if (migration.state === MigrationState.MOVED) return migration.settled;
        return migration.state !== MigrationState.RUNNING;
      },
      deadlineMs,
    );
    return migration!;
  }

  /** Which agents have a process of this Machine now, told by the processes themselves. */
  processes(): number[] {
    return machineProcesses(this.dir, [...this.#seen.values()]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#daemons.keys()].map((name) => this.kill(name, 'SIGKILL')));
    await this.#redis?.[Symbol.asyncDispose]();
    sweepLeftovers(this.dir, [...this.#seen.values()]);
    await this.until('no process, mount or loop device is left', () => {
      sweepLeftovers(this.dir, [...this.#seen.values()]);
      return this.processes().length === 0 && mountsUnder(this.dir).length === 0 && loopsUnder(this.dir).length === 0;
    });
    rmSync(this.dir, { recursive: true, force: true });
  }
}
