import { connect, createServer, type Server, type Socket } from 'node:net';

/** How a connection is cut: nothing passes any more and nobody is told, or both ends are told. */
export type Cut = 'drop' | 'reset';

/** A TCP port of 127.0.0.1 in front of another one, that can be cut and restored. */
export class TcpProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  #target: number;
  #cut: Cut | null = null;

  private constructor(server: Server, target: number) {
    this.#server = server;
    this.#target = target;
  }

  /** Listens on `port` for `target`. */
  static async start(port: number, target: number): Promise<TcpProxy> {
    // A half that ends leaves the other one open until it has sent all.
    const server = createServer({ allowHalfOpen: false, noDelay: true });
    const proxy = new TcpProxy(server, target);
    server.on('connection', (client) => proxy.#join(client));
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, '127.0.0.1', resolve);
    });
    return proxy;
  }

  /** Cuts what is open and what comes. With "drop" bytes are held back, and delivered late when it is restored. */
  cut(how: Cut): void {
    this.#cut = how;
    for (const pair of this.#pairs) {
      if (how === 'reset') for (const socket of pair) socket.resetAndDestroy();
      else for (const socket of pair) socket.pause();
    }
  }

  restore(): void {
    this.#cut = null;
    for (const pair of this.#pairs) for (const socket of pair) socket.resume();
  }

  /** New connections go to another port; those that are open are reset. */
  retarget(target: number): void {
    this.#target = target;
    for (const pair of this.#pairs) for (const socket of pair) socket.resetAndDestroy();
  }

  #join(client: Socket): void {
    if (this.#cut === 'reset') {
      client.resetAndDestroy();
      return;
    }
    const server = connect({ port: this.#target, host: '127.0.0.1', noDelay: true });
    const pair = [client, server] as const;
    this.#pairs.add(pair);
    for (const [from, to] of [pair, [server, client] as const]) {
      from.on('data', (bytes) => to.write(bytes));
      from.on('error', () => {});
      from.on('close', () => {
        to.destroy();
        this.#pairs.delete(pair);
      });
      if (this.#cut === 'drop') from.pause();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const pair of this.#pairs) for (const socket of pair) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}
