import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { freePort } from '../../cli/cluster.ts';
import { TcpProxy } from './proxy.ts';

const readyMsMax = 15_000;
const pollMs = 20;

/** Why there can be no redis-server here, or null. */
export function redisMissing(): string | null {
  return spawnSync('redis-server', ['--version'], { stdio: 'ignore' }).error === undefined
    ? null
    : 'needs redis-server';
}

/** A redis-server of its own on 127.0.0.1 that syncs its append-only file at each write. */
export class RedisServer implements AsyncDisposable {
  readonly port: number;
  readonly #child: ChildProcess;

  private constructor(port: number, child: ChildProcess) {
    this.port = port;
    this.#child = child;
  }

  /** Starts it in the folder `dir`; resolves once it answers. */
  static async start(dir: string): Promise<RedisServer> {
    mkdirSync(dir, { recursive: true });
    const port = await freePort();
    const log = openSync(join(dir, 'redis.log'), 'a', 0o600);
    const flags = ['--port', String(port), '--bind', '127.0.0.1', '--dir', dir, '--save', ''];
    const durable = ['--appendonly', 'yes', '--appendfsync', 'always', '--repl-diskless-sync-delay', '0'];
    const child = spawn('redis-server', [...flags, ...durable], { stdio: ['ignore', log, log] });
    closeSync(log);
    const server = new RedisServer(port, child);
    await until(`redis-server answers on ${port}`, async () => (await server.ask('PING')) === 'PONG');
    return server;
  }

  /** One command on a connection of its own. */
  async ask(command: string, ...words: readonly string[]): Promise<unknown> {
    const redis = new Redis({ port: this.port, host: '127.0.0.1', lazyConnect: true, retryStrategy: () => null });
    redis.on('error', () => {});
    try {
      await redis.connect();
      return await redis.call(command, ...words);
    } finally {
      redis.disconnect();
    }
  }

  /** A field of INFO. */
  async info(field: string): Promise<string> {
    const text = String(await this.ask('INFO'));
    return new RegExp(`^${field}:(.*?)\\r?$`, 'm').exec(text)?.[1] ?? '';
  }

  /** Ends it by SIGKILL. Twice is harmless. */
  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = new Promise<void>((resolve) => this.#child.once('exit', () => resolve()));
    this.#child.kill('SIGKILL');
    await exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}

/**
 * The Redis of a cluster: each coordinator reaches it through a proxy of its own. With a replica it can fail over, also
 * to a replica that lacks the last writes.
 */
export class RedisStore implements AsyncDisposable {
  readonly #dir: string;
  readonly #proxies = new Map<string, TcpProxy>();
  readonly #ports = new Map<string, number>();
  #primary: RedisServer;
  #replica: RedisServer | null = null;
  /** What the replica reads the primary through. */
  #link: TcpProxy | null = null;

  private constructor(dir: string, primary: RedisServer) {
    this.#dir = dir;
    this.#primary = primary;
  }

  /** Starts the server, and a proxy for each of these coordinators. */
  static async start(dir: string, coordinators: readonly string[]): Promise<RedisStore> {
    const store = new RedisStore(dir, await RedisServer.start(join(dir, 'redis')));
    for (const name of coordinators) {
      const port = await freePort();
      store.#ports.set(name, port);
      store.#proxies.set(name, await TcpProxy.start(port, store.#primary.port));
    }
    return store;
  }

  /** Address of the store for a coordinator. */
  url(coordinator: string): string {
    return `redis://127.0.0.1:${this.#ports.get(coordinator)!}`;
  }

  /** What a coordinator reaches the store through. */
  proxy(coordinator: string): TcpProxy {
    return this.#proxies.get(coordinator)!;
  }

  /** The server that takes the writes. */
  get primary(): RedisServer {
    return this.#primary;
  }

  /** Adds a replica; resolves once it has everything. */
  async addReplica(): Promise<void> {
    const replica = await RedisServer.start(join(this.#dir, `redis-replica-${this.#primary.port}`));
    const port = await freePort();
    this.#link = await TcpProxy.start(port, this.#primary.port);
    this.#replica = replica;
    await replica.ask('REPLICAOF', '127.0.0.1', String(port));
    await until('the replica has everything', async () => {
      const up = (await replica.info('master_link_status')) === 'up';
      const [sent, read] = await Promise.all([
        this.#primary.info('master_repl_offset'),
        replica.info('slave_repl_offset'),
      ]);
      return up && sent === read;
    });
  }

  /** From now on the replica gets no writes. */
  loseWrites(): void {
    this.#link!.cut('drop');
  }

  /** The primary dies and the replica takes over, with what it has. */
  async failOver(): Promise<void> {
    await this.#primary.kill();
    const replica = this.#replica!;
    await replica.ask('REPLICAOF', 'NO', 'ONE');
    await this.#link?.[Symbol.asyncDispose]();
    this.#replica = null;
    this.#primary = replica;
    for (const proxy of this.#proxies.values()) proxy.retarget(replica.port);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const proxy of this.#proxies.values()) await proxy[Symbol.asyncDispose]();
    await this.#link?.[Symbol.asyncDispose]();
    await Promise.all([this.#primary.kill(), this.#replica?.kill()]);
  }
}

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  const endMs = performance.now() + readyMsMax;
  while (!(await holds().catch(() => false))) {
    if (performance.now() > endMs) throw new Error(`not within ${readyMsMax / 1000} s: ${what}`);
    await sleep(pollMs);
  }
}
