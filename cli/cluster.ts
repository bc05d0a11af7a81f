import { type ChildProcess, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { closeSync, fstatSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { HostService, MachineService, MigrationService } from '../proto/gen/ferry/v1/coordinator_pb.ts';
import { DesiredState, HostStatus, type Machine, MachineState } from '../proto/gen/ferry/v1/machine_pb.ts';
import { type Clock, systemClock } from '../shared/clock.ts';
import { FerryError, toFerryError } from '../shared/error.ts';
import { ClientPool } from '../shared/rpc/client.ts';
import { type KnownMachine, sweepLeftovers } from './sweep.ts';

const entry = fileURLToPath(new URL('main.ts', import.meta.url));
const readyMsMax = 30_000;
const pollMs = 50;
/** How long Machines may take to stop: their own timeouts (5 s unless configured) and a migration that ends first. */
const removeMsMax = 45_000;
const daemonStopMsMax = 10_000;
const logTailChars = 2000;

/** Which daemons, and where. */
export interface ClusterOptions {
  /** Holds a folder and a log file for each daemon. */
  readonly dataDir: string;
  readonly hosts: readonly string[];
  /** Ports of the coordinators, one each; taken as they are. */
  readonly ports: readonly number[];
  /** Where the coordinators keep their state, as their flag `--store` has it; several need a Redis. Their own disk by default. */
  readonly store?: string;
  /** Called with each daemon that ends without being told to. */
  readonly onDeath: (name: string, how: string) => void;
  readonly clock?: Clock;
}

interface Daemon {
  readonly name: string;
  readonly child: ChildProcess;
  readonly logPath: string;
  /** Where its log was when it was started. */
  readonly logFrom: number;
  readonly exited: Promise<void>;
}

/** Below the ports that the system gives to whoever asks for any, so that nobody takes one between here and its use. */
const lowestPort = 15_000;
const highestPort = 32_000;

/** A port of 127.0.0.1 that nobody listens on: `wanted` if it is free, else any. */
export async function freePort(wanted = 0): Promise<number> {
  const candidate = wanted === 0 ? randomInt(lowestPort, highestPort) : wanted;
  const server = createServer();
  const isFree = await new Promise<boolean>((resolve) => {
    server.once('error', () => resolve(false));
    server.listen(candidate, '127.0.0.1', () => resolve(true));
  });
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return isFree ? candidate : freePort();
}

/** Coordinators and agents, each a process of its own, on loopback. */
export class Cluster {
  /** Addresses of the coordinators. */
  readonly coordinators: readonly string[];
  readonly #options: ClusterOptions;
  readonly #clock: Clock;
  readonly #pool = new ClientPool();
  readonly #daemons: Daemon[] = [];
  readonly #machines = new Map<string, KnownMachine>();
  #stopping = false;

  constructor(options: ClusterOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.coordinators = options.ports.map((port) => `127.0.0.1:${port}`);
  }

  /** The first coordinator. */
  get coordinator(): string {
    return this.coordinators[0]!;
  }

  /** PIDs of the daemons, by name. */
  get pids(): ReadonlyMap<string, number> {
    return new Map(this.#daemons.map(({ name, child }) => [name, child.pid ?? 0]));
  }

  /** Machines that were there when they were ended. */
  get machines(): readonly KnownMachine[] {
    return [...this.#machines.values()];
  }

  /** Starts all daemons; resolves once every host is known and answers. */
  async start(signal: AbortSignal): Promise<void> {
    const { dataDir, hosts, store } = this.#options;
    // In the environment: a password on a command line is for everybody to see.
    const env: Record<string, string> = store === undefined ? {} : { FERRY_COORDINATOR_STORE: store };
    for (const [index, address] of this.coordinators.entries()) {
      const name = index === 0 ? 'coordinator' : `coordinator-${index + 1}`;
      this.#spawn(name, ['coordinator', '--data-dir', join(dataDir, name), '--listen', address], env);
    }
    for (const host of hosts) {
      const flags = ['--host', host, '--data-dir', join(dataDir, host), '--coordinator', this.coordinators.join()];
      this.#spawn(host, ['agent', ...flags, '--listen', '127.0.0.1:0']);
    }
    await this.#untilReady(signal);
  }

  #spawn(name: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): void {
    mkdirSync(this.#options.dataDir, { recursive: true, mode: 0o700 });
    const logPath = join(this.#options.dataDir, `${name}.log`);
    const log = openSync(logPath, 'a', 0o600);
    const logFrom = fstatSync(log).size;
    // A session of its own: ctrl-C reaches us alone, and we stop the Machines before the agents.
    const child = spawn(process.execPath, [entry, ...args], {
      detached: true,
      stdio: ['ignore', log, log],
      env: { ...process.env, ...env },
    });
    closeSync(log);
    const exited = new Promise<void>((resolve) => {
      child.once('error', () => resolve());
      child.once('exit', (code, signal) => {
        if (!this.#stopping) this.#options.onDeath(name, signal ?? `exit code ${code}`);
        resolve();
      });
    });
    this.#daemons.push({ name, child, logPath, logFrom, exited });
  }

  async #untilReady(signal: AbortSignal): Promise<void> {
    const deadlineMs = this.#clock.monotonicMs() + readyMsMax;
    for (;;) {
      signal.throwIfAborted();
      const dead = this.#daemons.find(({ child }) => child.exitCode !== null || child.signalCode !== null);
      if (dead !== undefined) throw notReady(dead, 'ended');
      // A coordinator remembers hosts from before, so each daemon must say itself that it is ready now.
      const late = this.#daemons.find((daemon) => !logOf(daemon).includes(' ready on '));
      if (late === undefined && (await this.#allAnswer())) return;
      if (this.#clock.monotonicMs() > deadlineMs) {
        throw notReady(late ?? this.#daemons[0]!, `is not ready after ${readyMsMax / 1000} s`);
      }
      await this.#clock.sleep(pollMs, signal);
    }
  }

  /** Whether the coordinator has heard each host. */
  async #allAnswer(): Promise<boolean> {
    const { hosts } = await this.#pool.client(HostService, this.coordinator).listHosts({}, { timeoutMs: 2000 });
    const ready = new Set(hosts.filter(({ status }) => status === HostStatus.OK).map(({ id }) => id));
    return this.#options.hosts.every((host) => ready.has(host));
  }

  /** The first coordinator that answers; the first of all when none does. */
  async #answering(): Promise<string> {
    for (const address of this.coordinators) {
      const answer = this.#pool.client(HostService, address).listHosts({}, { timeoutMs: 2000 });
      if (await answer.then(Boolean, () => false)) return address;
    }
    return this.coordinator;
  }

  /**
   * Stops or destroys all Machines, through the RPCs, cancelling migrations that hold them; answers the IDs of those that
   * ran and are stopped now. Throws deadline when some do not stop.
   */
  async endMachines(how: 'stop' | 'destroy'): Promise<string[]> {
    const coordinator = await this.#answering();
    const machines = this.#pool.client(MachineService, coordinator);
    const migrations = this.#pool.client(MigrationService, coordinator);
    const deadlineMs = this.#clock.monotonicMs() + removeMsMax;
    const ran = new Set<string>();
    const end = async (machine: Machine) => {
      const call = { timeoutMs: removeMsMax };
      const machineId = machine.id;
      if (machine.desiredState === DesiredState.STARTED) ran.add(machineId);
      try {
        if (machine.migrationId !== '')
          await migrations.cancelMigration({ migrationId: machine.migrationId }, call).catch(() => undefined);
        if (how === 'stop') await machines.stopMachine({ machineId }, call);
        else await machines.destroyMachine({ machineId, force: true }, call);
      } catch (error) {
        if (toFerryError(error).reason === 'unreachable') throw error;
      }
    };
    for (;;) {
      const { machines: all } = await machines.listMachines({}, { timeoutMs: 5000 });
      for (const { id, hostId, privateIp } of all) this.#machines.set(`${id} ${hostId}`, { id, privateIp });
      const left = all.filter((machine) => !isAtRest(machine, how));
      if (left.length === 0) return [...ran];
      if (this.#clock.monotonicMs() > deadlineMs) {
        throw new FerryError('deadline', `these Machines do not end: ${left.map(({ id }) => id).join(', ')}`);
      }
      await Promise.all(left.map(end));
      await this.#clock.sleep(pollMs);
    }
  }

  /** Ends the daemons, then whatever their Machines left behind; twice is harmless. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#daemons.map((daemon) => this.#end(daemon)));
    sweepLeftovers(this.#options.dataDir, this.machines);
  }

  /** Kills the daemons and their Machines at once. */
  kill(): void {
    this.#stopping = true;
    for (const { child } of this.#daemons) child.kill('SIGKILL');
    sweepLeftovers(this.#options.dataDir, this.machines);
  }

  async #end({ child, exited }: Daemon): Promise<void> {
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), daemonStopMsMax);
    await exited;
    clearTimeout(timer);
  }
}

function isAtRest(machine: Machine, how: 'stop' | 'destroy'): boolean {
  if (machine.state === MachineState.DESTROYED || machine.state === MachineState.MIGRATED) return true;
  if (how === 'destroy') return false;
  const resting = machine.state === MachineState.STOPPED || machine.state === MachineState.CREATED;
  return machine.desiredState !== DesiredState.STARTED && resting;
}

/** What a daemon has logged since it was started. */
function logOf({ logPath, logFrom }: Daemon): string {
  return readFileSync(logPath).subarray(logFrom).toString('utf8');
}

function notReady(daemon: Daemon, how: string): FerryError {
  const { name, logPath } = daemon;
  const tail = logOf(daemon).slice(-logTailChars).trim();
  return new FerryError('start_failed', `${name} ${how}; the end of its log:\n${tail || '(empty)'}`, {
    nextAction: `Read ${logPath}.`,
  });
}
