import { Redis, type RedisOptions } from 'ioredis';
import { FerryError } from '../../../shared/error.ts';
import { defineScripts } from './scripts.ts';

const reconnectMsMin = 20;
const reconnectMsMax = 1000;
/** A connection that does not hang up by itself is torn down after this. */
const hangUpMs = 50;

/** How a server is reached. */
export interface RedisTarget {
  readonly host: string;
  readonly port: number;
  readonly db: number;
  readonly username: string;
  readonly password: string;
  readonly tls: boolean;
}

/** The first word of a refusal of the server, and what it means. Whatever is not here is a defect of ours. */
const refusals: Readonly<Record<string, 'unreachable' | 'credentials' | 'rebuilding' | 'format'>> = {
  REBUILDING: 'rebuilding',
  FORMAT: 'format',
  NOAUTH: 'credentials',
  WRONGPASS: 'credentials',
  NOPERM: 'credentials',
  REPLICA: 'unreachable',
  READONLY: 'unreachable',
  LOADING: 'unreachable',
  MASTERDOWN: 'unreachable',
  MISCONF: 'unreachable',
  OOM: 'unreachable',
  NOREPLICAS: 'unreachable',
  BUSY: 'unreachable',
  UNKILLABLE: 'unreachable',
};

/** What a test of a new connection does before anything else runs on it. */
export type Admit = (redis: Redis) => Promise<void>;

/**
 * One connection to Redis that comes back by itself. Nothing is queued while it is down and nothing is sent twice: whether a
 * command was done whose reply is missing is for the caller to find out, so every operation must be harmless to repeat.
 */
export class RedisConnection {
  readonly #redis: Redis;
  readonly #target: RedisTarget;
  readonly #deadlineMs: number;
  /** Resolved while there is a connection that may be used. */
  #admitted = Promise.withResolvers<void>();
  #isAdmitted = false;
  #connections = 0;
  #isClosed = false;
  #restart: NodeJS.Timeout | undefined;
  /** Why the last try failed. */
  #trouble: unknown = new Error('no connection yet');
  #onHopeless: (error: unknown) => void = () => {};

  /** Begins to connect. Each operation is given up after `deadlineMs`. */
  constructor(target: RedisTarget, deadlineMs: number, admit: Admit) {
    this.#target = target;
    this.#deadlineMs = deadlineMs;
    const { host, port, db, username, password, tls } = target;
    const options: RedisOptions = {
      host,
      port,
      db,
      ...(username === '' ? {} : { username }),
      ...(password === '' ? {} : { password }),
      ...(tls ? { tls: {} } : {}),
      protocol: 2,
      disableClientInfo: true,
      enableOfflineQueue: false,
      autoResendUnfulfilledCommands: false,
      maxRetriesPerRequest: 0,
      connectTimeout: deadlineMs,
      commandTimeout: deadlineMs,
      disconnectTimeout: hangUpMs,
      retryStrategy: (times) => Math.min(reconnectMsMin * 2 ** Math.min(times - 1, 10), reconnectMsMax),
    };
    this.#redis = new Redis(options);
    defineScripts(this.#redis);
    this.#redis.on('error', (error) => this.#failed(error));
    this.#redis.on('close', () => this.#leave());
    // The client stops trying when a connection could not even be begun.
    this.#redis.on('end', () => {
      if (!this.#isClosed) this.#restart = setTimeout(() => this.#redis.connect().catch(() => {}), reconnectMsMax);
    });
    this.#redis.on('ready', () => void this.#admit(admit));
  }

  /** The connection is used no longer; whoever comes waits for the next one. */
  #leave(): void {
    this.#connections += 1;
    if (this.#isAdmitted) this.#admitted = Promise.withResolvers();
    this.#isAdmitted = false;
  }

  #giveUp(): void {
    this.#leave();
    // Otherwise it is being replaced already.
    if (this.#redis.status === 'ready') this.#redis.disconnect(true);
  }

  async #admit(admit: Admit): Promise<void> {
    const connection = this.#connections;
    try {
      await admit(this.#redis);
      if (connection !== this.#connections) return;
      this.#isAdmitted = true;
      this.#admitted.resolve();
    } catch (error) {
      this.#failed(error);
      if (connection === this.#connections) this.#giveUp();
    }
  }

  /** "redis://host:port/db", without credentials. */
  get address(): string {
    const { tls, host, port, db } = this.#target;
    return `${tls ? 'rediss' : 'redis'}://${host.includes(':') ? `[${host}]` : host}:${port}/${db}`;
  }

  /** Runs commands on the connection once there is one. Throws store_unreachable, rebuilding, unsupported or internal. */
  async run<T>(work: (redis: Redis) => Promise<T>): Promise<T> {
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(() => late.reject(new Error(`no answer within ${this.#deadlineMs} ms`)), this.#deadlineMs);
    let sentOn: number | undefined;
    const working = this.#admitted.promise.then(() => {
      sentOn = this.#connections;
      return work(this.#redis);
    });
    working.catch(() => {});
    try {
      return await Promise.race([working, late.promise]);
    } catch (error) {
      // A connection without answers, or to a server that became a replica, is given up: the next one may be better.
      if (sentOn === this.#connections && isOfConnection(error)) this.#giveUp();
      throw this.#explain(sentOn === undefined ? this.#trouble : error);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Resolves with the first connection; throws what is wrong with it as soon as trying again would not help. */
  async first(): Promise<void> {
    const hopeless = Promise.withResolvers<never>();
    this.#onHopeless = hopeless.reject;
    try {
      await Promise.race([this.run(async () => {}), hopeless.promise]);
    } catch (error) {
      throw this.#explain(error);
    }
  }

  #failed(error: unknown): void {
    this.#trouble = error;
    if (['credentials', 'format'].includes(refusals[codeOf(error)] ?? '')) this.#onHopeless(error);
  }

  /** Never hands the error of the client on: it carries the arguments of the command, a password among them. */
  #explain(error: unknown): FerryError {
    if (error instanceof FerryError) return error;
    const { message } = error as Error;
    const facts = { store: this.address };
    switch (isReply(error) ? refusals[codeOf(error)] : 'unreachable') {
      case 'rebuilding':
        return new FerryError('rebuilding', `the store ${this.address} was lost or another server took it over`, {
          facts,
        });
      case 'credentials':
        return new FerryError('store_unreachable', `${this.address} refuses us: ${message}`, {
          nextAction:
            'Give user and password in the address of the store (FERRY_COORDINATOR_STORE), or the password by --store-password-file.',
          facts,
        });
      case 'format':
        return new FerryError('unsupported', `${this.address} was written by another version of Ferry`, {
          nextAction: 'Run that version, or give this one another prefix (?prefix=NAME:).',
          facts,
        });
      case 'unreachable':
        return new FerryError('store_unreachable', `${this.address} cannot be used: ${message}`, { facts });
      default:
        return new FerryError('internal', `${this.address} refused a command: ${message}`, { facts });
    }
  }

  /** Hangs up; twice is harmless. */
  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#restart);
    this.#redis.disconnect();
  }
}

function isReply(error: unknown): boolean {
  return (error as { name?: unknown } | null)?.name === 'ReplyError';
}

/** The first word of a refusal, as the protocol has it; empty for other errors. */
function codeOf(error: unknown): string {
  return isReply(error) ? ((error as Error).message.split(' ', 1)[0] ?? '') : '';
}

function isOfConnection(error: unknown): boolean {
  if (error instanceof FerryError) return false;
  return !isReply(error) || ['READONLY', 'REPLICA', 'MASTERDOWN'].includes(codeOf(error));
}
