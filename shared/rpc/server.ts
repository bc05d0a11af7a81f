import { createServer, type Http2Server, type ServerHttp2Session } from 'node:http2';
import type { AddressInfo, Socket } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import type { ConnectRouter, Interceptor } from '@connectrpc/connect';
import { connectNodeAdapter } from '@connectrpc/connect-node';
import { FerryError, toConnectError, toFerryError } from '../error.ts';
import type { Logger } from '../log.ts';
import { registerHealth } from './health.ts';
import { registerReflection } from './reflection.ts';

/** Largest message either way, in bytes: an event log with its config is far below. */
export const messageBytesMax = 4 * 1024 * 1024;
/** Longest call, in milliseconds: a stop (300 s) and some room. Watches end then too; clients call again. */
const callMsMax = 3_600_000;
const streamsMax = 256;
/** Time that calls have to hear the end of the daemon, in milliseconds. */
const closeGraceMs = 500;

/** How a server is made. */
export interface RpcServerOptions {
  /** Host to listen on; without certificates a loopback address. */
  readonly host: string;
  /** Port; 0 = any free one. */
  readonly port: number;
  readonly log: Logger;
  /** Calls wait for this before they are answered; none by default. */
  readonly ready?: Promise<void>;
  /** Registers the services. */
  readonly routes: (router: ConnectRouter) => void;
}

/** Whether an address can be reached from this machine only. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);
}

function readyInterceptor(ready: Promise<void> | undefined): Interceptor {
  return (next) => async (request) => {
    await ready;
    return next(request);
  };
}

/** Turns every error into a typed RPC error and logs those that are our own fault. */
function errorInterceptor(log: Logger): Interceptor {
  return (next) => async (request) => {
    const typed = (error: unknown) => {
      // What a caller breaks off, or its deadline, is no defect of ours.
      const isOurs = toFerryError(error).reason === 'internal' && !request.signal.aborted;
      if (isOurs) log.error({ method: request.method.name, err: error }, 'call failed');
      return toConnectError(error);
    };
    try {
      const response = await next(request);
      return response.stream ? { ...response, message: typedErrors(response.message, typed) } : response;
    } catch (error) {
      throw typed(error);
    }
  };
}

async function* typedErrors<T>(messages: AsyncIterable<T>, typed: (error: unknown) => unknown): AsyncIterable<T> {
  try {
    yield* messages;
  } catch (error) {
    throw typed(error);
  }
}

/** A server for gRPC, gRPC-Web and Connect over HTTP/2 on one port, with reflection and health. */
export class RpcServer {
  readonly #options: RpcServerOptions;
  readonly #server: Http2Server;
  readonly #sessions = new Set<ServerHttp2Session>();
  readonly #sockets = new Set<Socket>();
  /** Health says NOT_SERVING from here on; calls go on. */
  readonly #draining = new AbortController();
  /** Calls end. */
  readonly #shutdown = new AbortController();

  constructor(options: RpcServerOptions) {
    this.#options = options;
    if (!isLoopback(options.host)) {
      throw new FerryError(
        'not_loopback',
        `cannot listen on ${options.host}: there are no certificates, so anybody there could give orders`,
        {
          field: 'listen',
          expected: 'a loopback address such as 127.0.0.1',
        },
      );
    }
    const handler = connectNodeAdapter({
      routes: (router) => {
        options.routes(router);
        registerHealth(router, this.#draining.signal);
        registerReflection(router);
      },
      interceptors: [readyInterceptor(options.ready), errorInterceptor(options.log)],
      readMaxBytes: messageBytesMax,
      writeMaxBytes: messageBytesMax,
      maxTimeoutMs: callMsMax,
      shutdownSignal: this.#shutdown.signal,
    });
    this.#server = createServer({ settings: { maxConcurrentStreams: streamsMax } }, handler);
    this.#server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
    });
    this.#server.on('session', (session) => {
      this.#sessions.add(session);
      session.once('close', () => this.#sessions.delete(session));
      session.on('error', () => session.destroy());
    });
  }

  /** Begins to listen; answers the address as "host:port". */
  async listen(): Promise<string> {
    const { host, port } = this.#options;
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', (error: NodeJS.ErrnoException) => {
        const inUse = error.code === 'EADDRINUSE';
        reject(
          inUse
            ? new FerryError('invalid_argument', `port ${port} of ${host} is taken by another process`, {
                field: 'listen',
                expected: 'a free port (0 = any)',
                nextAction: 'Stop the other process or name another port.',
              })
            : error,
        );
      });
      this.#server.listen(port, host, resolve);
    });
    return `${host}:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Ends all calls and stops listening; twice is harmless. */
  async close(): Promise<void> {
    this.#draining.abort();
    await setImmediate();
    this.#shutdown.abort(new FerryError('unreachable', 'the daemon is going down'));
    if (!this.#server.listening) return;
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const session of this.#sessions) session.close();
    const grace = setTimeout(() => {
      // A session that is closing waits for its peer to hang up, and a peer that does not read never does.
      for (const socket of this.#sockets) socket.destroy();
    }, closeGraceMs);
    await closed;
    clearTimeout(grace);
  }
}
