import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';

const startTriesMax = 500;
const retryMs = 10;

/** Why Redis cannot be tested here; empty when it can. */
export const redisMissing =
  spawnSync('redis-server', ['--version'], { stdio: 'ignore' }).error === undefined ? '' : ' (no redis-server here)';

/** A redis-server of a test's own; it keeps its folder and its port over restarts. */
export class RedisServer {
  readonly port: number;
  readonly #directory = mkdtempSync(join(tmpdir(), 'ferry-redis-'));
  readonly #flags: readonly string[];
  #child: ChildProcess | undefined;

  private constructor(port: number, flags: readonly string[]) {
    this.port = port;
    this.#flags = flags;
  }

  /** Starts one with an append-only file, synced at each write, unless the flags say otherwise. */
  static async start(...flags: readonly string[]): Promise<RedisServer> {
    const server = new RedisServer(await freePort(), flags);
    await server.restart();
    return server;
  }

  /** Starts it again with the data that it has. */
  async restart(...flags: readonly string[]): Promise<void> {
    const base = ['--port', String(this.port), '--bind', '127.0.0.1', '--dir', this.#directory, '--save', ''];
    const durable = ['--appendonly', 'yes', '--appendfsync', 'always', '--repl-diskless-sync-delay', '0'];
    this.#child = spawn('redis-server', [...base, ...durable, ...this.#flags, ...flags], { stdio: 'ignore' });
    for (let tries = 0; tries < startTriesMax; tries += 1) {
      const answer = await this.ask('PING').catch((error: Error) => error.message);
      if (answer === 'PONG' || String(answer).startsWith('NOAUTH')) return;
      await sleep(retryMs);
    }
    throw new Error(`redis-server on port ${this.port} does not answer`);
  }

  /** Runs one command on a connection of its own. */
  async ask(command: string, ...values: readonly string[]): Promise<unknown> {
    const options = { lazyConnect: true, retryStrategy: () => null, enableReadyCheck: false, protocol: 2 } as const;
    const redis = new Redis({ ...options, port: this.port });
    redis.on('error', () => {});
    try {
      await redis.connect();
      return await redis.call(command, ...values);
    } finally {
      redis.disconnect();
    }
  }

  /** Makes it a replica of another one; resolves once it has everything. */
  async follow(primary: { readonly port: number }): Promise<void> {
    await this.ask('REPLICAOF', '127.0.0.1', String(primary.port));
    for (let tries = 0; tries < startTriesMax; tries += 1) {
      const info = String(await this.ask('INFO'));
      // Until its first rewrite is through a replica writes nothing to its append-only file.
      const isWritten = info.includes('aof_rewrite_in_progress:0') && info.includes('aof_rewrite_scheduled:0');
      if (info.includes('master_link_status:up') && isWritten) return;
      await sleep(retryMs);
    }
    throw new Error('the replica does not follow');
  }

  /** SIGKILL, or another signal; resolves once it is gone. */
  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill(signal);
    await gone;
  }

  /** Stops it and removes its data. */
  async dispose(): Promise<void> {
    await this.kill();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

/** What a link does with bytes that come. */
export type LinkMode = 'pass' | 'silent' | 'cut-replies' | 'refuse';

/** A port in front of a server, that can be cut. */
export class Link {
  /** pass: all of them. silent: none. cut-replies: requests pass, replies end the connection. refuse: no connections. */
  mode: LinkMode = 'pass';
  /** Port that it leads to. */
  target: number;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(server: Server, target: number) {
    this.#server = server;
    this.target = target;
    server.on('connection', (near) => this.#join(near));
  }

  /** Opens a free port in front of `target`. */
  static async open(target: number): Promise<Link> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return new Link(server, target);
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  #join(near: Socket): void {
    if (this.mode === 'refuse') {
      near.destroy();
      return;
    }
    const far = connect(this.target, '127.0.0.1');
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      this.#sockets.add(from);
      from.on('error', () => {});
      from.on('close', () => {
        this.#sockets.delete(from);
        to.destroy();
      });
    }
    near.on('data', (bytes) => {
      if (this.mode !== 'silent') far.write(bytes);
    });
    far.on('data', (bytes) => {
      if (this.mode === 'pass') near.write(bytes);
      else if (this.mode === 'cut-replies') near.destroy();
    });
  }

  /** What is connected stays so and never hears anything again; new connections are not concerned. */
  mute(): void {
    for (const socket of this.#sockets) socket.removeAllListeners('data').resume();
  }

  /** Ends what is connected. */
  drop(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async close(): Promise<void> {
    this.drop();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
