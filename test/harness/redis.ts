import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { durationFromMs } from '../../shared/duration.ts';
import type { TestCluster } from './cluster.ts';

const port = 6379;
/** Without an answer for so long a connection is given up; what was asked on it may have been done. */
const replyMsMax = 2000;
const retryMs = 10;

/** Config of a Machine that runs a redis-server which acknowledges nothing before its fsync. */
export const redisConfig = {
  init: {
    exec: [
      '/bin/sh',
      '-c',
      `exec redis-server --port ${port} --bind "$FERRY_BIND_IP" --protected-mode no --dir "$FERRY_VOLUME_PATH" --appendonly yes --appendfsync always --save ""`,
    ],
  },
  stopConfig: { signal: 'SIGTERM', timeout: durationFromMs(30_000) },
  mounts: [{ name: 'redis', path: '/data', sizeGb: 1 }],
  checks: {
    redis: {
      type: 'tcp',
      port,
      interval: durationFromMs(200),
      timeout: durationFromMs(1000),
      gracePeriod: durationFromMs(30_000),
    },
  },
};

/** Connections to the redis-server of a Machine, wherever it is now. */
export class RedisClient {
  readonly #cluster: TestCluster;
  readonly #machineId: string;
  #connection: RedisConnection | null = null;

  constructor(cluster: TestCluster, machineId: string) {
    this.#cluster = cluster;
    this.#machineId = machineId;
  }

  /**
   * One command. Rejects with `sent` false when it surely did not reach the server, else true: it may have been done.
   * A refusal of the server (LOADING and the like) is `sent` false: it was not done.
   */
  async ask(...words: readonly string[]): Promise<string> {
    if (this.#connection === null) {
      try {
        const address = await this.#cluster.whereabouts(this.#machineId);
        this.#connection = await RedisConnection.open(address.replace(/^\[|\]$/g, ''));
      } catch (error) {
        throw new RedisError(false, String(error));
      }
    }
    try {
      return await this.#connection.ask(words);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  close(): void {
    this.#connection?.close();
    this.#connection = null;
  }
}

/** Thrown by RedisClient.ask. */
class RedisError extends Error {
  readonly sent: boolean;

  constructor(sent: boolean, message: string) {
    super(message);
    this.sent = sent;
  }
}

/** One command at a time over one connection, in RESP. */
class RedisConnection {
  readonly #socket: Socket;
  #received = '';
  #waiting: PromiseWithResolvers<string> | null = null;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setTimeout(replyMsMax, () => socket.destroy(new Error('no answer')));
    socket.on('error', () => {});
    socket.on('close', () => this.#waiting?.reject(new RedisError(true, 'the connection ended before the answer')));
    socket.on('data', (bytes) => {
      this.#received += bytes.toString('latin1');
      const reply = takeReply(this.#received);
      if (reply === null) return;
      this.#received = reply.rest;
      if (reply.error) this.#waiting?.reject(new RedisError(false, reply.text));
      else this.#waiting?.resolve(reply.text);
      this.#waiting = null;
    });
  }

  static async open(host: string): Promise<RedisConnection> {
    const socket = connect({ host, port, noDelay: true });
    const connection = new RedisConnection(socket);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('close', () => reject(new Error(`no connection to ${host}`)));
    });
    return connection;
  }

  ask(words: readonly string[]): Promise<string> {
    if (this.#socket.destroyed) return Promise.reject(new RedisError(false, 'the connection has ended'));
    const waiting = Promise.withResolvers<string>();
    this.#waiting = waiting;
    const bulks = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
    this.#socket.write(`*${words.length}\r\n${bulks.join('')}`);
    return waiting.promise;
  }

  close(): void {
    this.#socket.destroy();
  }
}

/** The first whole reply of what has been received: an integer, a status, an error or a bulk string. */
function takeReply(received: string): { text: string; error: boolean; rest: string } | null {
  const end = received.indexOf('\r\n');
  if (end < 0) return null;
  const text = received.slice(1, end);
  const rest = received.slice(end + 2);
  if (received[0] !== '$') return { text, error: received[0] === '-', rest };
  const length = Number(text);
  if (length < 0) return { text: '', error: false, rest };
  if (rest.length < length + 2) return null;
  return { text: rest.slice(0, length), error: false, rest: rest.slice(length + 2) };
}

/** What one client saw of its own key. */
export interface CounterReport {
  readonly key: string;
  /** Every acknowledged value, in the order of the acknowledgements. */
  readonly acknowledged: readonly number[];
  /** Increments that had no answer: done or not. */
  readonly unanswered: number;
}

/** Clients that increment all the time, each its own key, over whatever happens to the server. */
export class RedisLoad {
  readonly #counters: { key: string; acknowledged: number[]; unanswered: number }[];
  readonly #over = new AbortController();
  readonly #running: Promise<unknown>;
  readonly #cluster: TestCluster;

  constructor(cluster: TestCluster, machineId: string, clients: number) {
    this.#cluster = cluster;
    this.#counters = Array.from({ length: clients }, (_, index) => ({
      key: `counter:${index}`,
      acknowledged: [],
      unanswered: 0,
    }));
    this.#running = Promise.all(this.#counters.map((counter) => this.#count(counter, machineId)));
  }

  /** Resolves when every client has so many more acknowledgements. */
  async more(count: number): Promise<void> {
    const wanted = this.#counters.map(({ acknowledged }) => acknowledged.length + count);
    await this.#cluster.until(`${count} more increments of each client`, () =>
      this.#counters.every(({ acknowledged }, index) => acknowledged.length >= wanted[index]!),
    );
  }

  /** Stops all clients; answers what they saw. */
  async stop(): Promise<readonly CounterReport[]> {
    this.#over.abort();
    await this.#running;
    return this.#counters;
  }

  async #count(counter: { key: string; acknowledged: number[]; unanswered: number }, machineId: string): Promise<void> {
    const client = new RedisClient(this.#cluster, machineId);
    while (!this.#over.signal.aborted) {
      try {
        counter.acknowledged.push(Number(await client.ask('INCR', counter.key)));
      } catch (error) {
        if (error instanceof RedisError && error.sent) counter.unanswered += 1;
        await sleep(retryMs);
      }
    }
    client.close();
  }
}
