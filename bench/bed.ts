import { createSocket, type Socket } from 'node:dgram';
import { request } from 'node:http';
import { join } from 'node:path';
import { type Machine, MachineState } from '../proto/gen/ferry/v1/machine_pb.ts';
import { type Migration, MigrationState, type MigrationStrategy } from '../proto/gen/ferry/v1/migration_pb.ts';
import { durationFromMs } from '../shared/duration.ts';
import { TestCluster } from '../test/harness/cluster.ts';
import { mountXfs, xfsMissing } from '../test/harness/disk.ts';

const port = 8080;
const probePauseMs = 2;

/** Two hosts on real processes, each with a disk of its own: XFS where that is possible. */
export interface Bed extends AsyncDisposable {
  readonly cluster: TestCluster;
  /** "XFS with reflinks", or why not. */
  readonly disks: string;
}

/** Starts two hosts. `diskGib`: size of each one's disk; sparse, so that only what is written counts. */
export async function makeBed(diskGib: number, coordinatorFlags: Readonly<Record<string, string>> = {}): Promise<Bed> {
  const hosts = ['host-a', 'host-b'];
  const missing = xfsMissing();
  const cluster = await TestCluster.start({
    hosts,
    agentFlags: { retention: '0s' },
    coordinatorFlags,
    prepare: (dir) => {
      if (missing === null) for (const host of hosts) mountXfs(join(dir, host), diskGib * 1024);
    },
  });
  const disks = missing === null ? 'XFS with reflinks on loop devices' : `the folder's own file system (${missing})`;
  return { cluster, disks, [Symbol.asyncDispose]: () => cluster[Symbol.asyncDispose]() };
}

/** What a Machine of the benchmarks shall be. */
export interface MachineWish {
  readonly volumeGib: number;
  readonly fillMib: number;
  readonly writeKbPerSecond?: number;
  readonly network?: string;
  readonly host?: string;
}

/** Runs a Machine of `bench/machine.ts`; resolves when it has filled its volume and answers. */
export async function runMachine({ cluster }: Bed, wish: MachineWish, announcePort = 9): Promise<Machine> {
  const { volumeGib, fillMib, writeKbPerSecond = 0, network = 'bench', host = 'host-a' } = wish;
  const env = {
    FILL_MIB: String(fillMib),
    WRITE_KB_PER_S: String(writeKbPerSecond),
    ANNOUNCE_PORT: String(announcePort),
  };
  const check = { interval: durationFromMs(100), timeout: durationFromMs(1000), gracePeriod: durationFromMs(300_000) };
  const machine = await cluster.run(
    {
      image: process.execPath,
      init: { cmd: [join(import.meta.dirname, 'machine.ts')] },
      env,
      mounts: [{ name: 'data', path: '/data', sizeGb: volumeGib }],
      checks: { answers: { type: 'http', port, path: '/', ...check } },
    },
    { host, network },
  );
  await untilAnswers(cluster, machine.id, 600_000);
  return machine;
}

/** Resolves once the Machine's checks pass. */
export async function untilAnswers(cluster: TestCluster, machineId: string, deadlineMs = 60_000): Promise<void> {
  await cluster.until(
    `Machine ${machineId} answers`,
    async () => {
      const { state, checks } = await cluster.machine(machineId);
      return state === MachineState.STARTED && checks.some(({ status }) => status === 'passing');
    },
    deadlineMs,
  );
}

/** Moves a Machine; answers the migration once it has ended and settled. Throws when it did not move. */
export async function move(
  { cluster }: Bed,
  machineId: string,
  to: string,
  strategy: MigrationStrategy,
): Promise<Migration> {
  const wish = { machineId, destination: to, strategy };
  const { migration } = await cluster.migrations.migrateMachine(wish, { timeoutMs: 10_000 });
  const ended = await cluster.ended(migration!.id, 900_000);
  if (ended.state !== MigrationState.MOVED) throw new Error(`the Machine was not moved: ${ended.reason}`);
  return ended;
}

/** Asks a Machine of the benchmarks for its address. */
export function urlOf({ bindIp, privateIp }: Machine): { host: string; port: number } {
  return { host: bindIp || privateIp, port };
}

/**
 * Asks a Machine all the time, from outside, where it last said that it answers. The downtime is the time from the last
 * answer before a silence to the first one after it.
 */
export class Probe implements AsyncDisposable {
  readonly port: number;
  readonly #socket: Socket;
  #target: { host: string; port: number } | null = null;
  #lastMs = 0;
  #longestMs = 0;
  #over = false;
  #moved = new AbortController();
  #running: Promise<void>;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.port = socket.address().port;
    socket.on('message', (message) => {
      const [host = '', at = ''] = message.toString().split(' ');
      this.#target = { host, port: Number(at) };
      // Nobody answers or refuses at an address that is gone: that wait would count as the Machine's.
      this.#moved.abort();
    });
    this.#running = this.#run();
  }

  static async start(): Promise<Probe> {
    const socket = createSocket('udp4');
    await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
    return new Probe(socket);
  }

  /** Runs `work` and answers the longest silence that it made, in milliseconds. */
  async silenceOf(work: () => Promise<unknown>): Promise<number> {
    const before = this.#lastMs;
    while (this.#lastMs === before) await pause();
    this.#longestMs = 0;
    await work();
    const after = this.#lastMs;
    while (this.#lastMs === after) await pause();
    return this.#longestMs;
  }

  async #run(): Promise<void> {
    while (!this.#over) {
      this.#moved = new AbortController();
      if (this.#target !== null && (await answers(this.#target, this.#moved.signal))) {
        const nowMs = performance.now();
        if (this.#lastMs > 0) this.#longestMs = Math.max(this.#longestMs, nowMs - this.#lastMs);
        this.#lastMs = nowMs;
      }
      await pause();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over = true;
    await this.#running;
    this.#socket.close();
  }
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, probePauseMs));
}

function answers({ host, port: at }: { host: string; port: number }, signal: AbortSignal): Promise<boolean> {
  return new Promise((resolve) => {
    const asked = request({ host, port: at, timeout: 250, agent: false, signal }, (response) => {
      response.resume();
      response.once('end', () => resolve(response.statusCode === 200));
      response.once('error', () => resolve(false));
    });
    asked.once('timeout', () => asked.destroy());
    asked.once('error', () => resolve(false));
    asked.end();
  });
}
