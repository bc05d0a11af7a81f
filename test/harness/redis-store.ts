import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from '../../cli/cluster.ts';
import { RedisServer } from '../../coordinator/testing/redis-server.ts';
import { TcpProxy } from './proxy.ts';

const caughtUpMsMax = 15_000;
const pollMs = 20;

/**
 * The Redis of a cluster: each coordinator reaches it through a proxy of its own. With a replica it can fail over, also
 * to a replica that lacks the last writes.
 */
export class RedisStore implements AsyncDisposable {
  readonly #proxies = new Map<string, TcpProxy>();
  readonly #ports = new Map<string, number>();
  readonly #servers: RedisServer[];
  #primary: RedisServer;
  #replica: RedisServer | null = null;
  /** What the replica reads the primary through. */
  #link: TcpProxy | null = null;

  private constructor(primary: RedisServer) {
    this.#primary = primary;
    this.#servers = [primary];
  }

  /** Starts a server that syncs at each write, and a proxy for each of these coordinators. */
  static async start(coordinators: readonly string[]): Promise<RedisStore> {
    const store = new RedisStore(await RedisServer.start());
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

  /** One command to the server that takes the writes. */
  ask(command: string, ...words: readonly string[]): Promise<unknown> {
    return this.#primary.ask(command, ...words);
  }

  /** Adds a replica; resolves once it has everything. */
  async addReplica(): Promise<void> {
    const replica = await RedisServer.start();
    this.#servers.push(replica);
    const port = await freePort();
    this.#link = await TcpProxy.start(port, this.#primary.port);
    this.#replica = replica;
    await replica.follow({ port });
    const offset = async (server: RedisServer) =>
      /^(?:master|slave)_repl_offset:(\d+)/m.exec(String(await server.ask('INFO')))?.[1];
    const endMs = performance.now() + caughtUpMsMax;
    while ((await offset(this.#primary)) !== (await offset(replica))) {
      if (performance.now() > endMs) throw new Error('the replica does not catch up');
      await sleep(pollMs);
    }
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
    await Promise.all(this.#servers.map((server) => server.dispose()));
  }
}
