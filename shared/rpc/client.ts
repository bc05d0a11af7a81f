import type { DescService } from '@bufbuild/protobuf';
import {
  type CallOptions,
  type Client,
  ConnectError,
  createClient,
  type Interceptor,
  type Transport,
} from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { fromConnectError } from '../error.ts';
import { messageBytesMax } from './server.ts';

/** Deadline of a call that names none, in milliseconds. */
const defaultTimeoutMs = 10_000;

/** Errors of calls arrive as FerryError. */
const errorInterceptor: Interceptor = (next) => async (request) => {
  try {
    const response = await next(request);
    return response.stream ? { ...response, message: typedErrors(response.message) } : response;
  } catch (error) {
    throw ConnectError.from(error);
  }
};

async function* typedErrors<T>(messages: AsyncIterable<T>): AsyncIterable<T> {
  try {
    yield* messages;
  } catch (error) {
    throw fromConnectError(ConnectError.from(error));
  }
}

/** A gRPC connection to "host:port", made on first use. */
export function createTransport(address: string): Transport {
  return createGrpcTransport({
    baseUrl: `http://${address}`,
    interceptors: [errorInterceptor],
    defaultTimeoutMs,
    readMaxBytes: messageBytesMax,
    writeMaxBytes: messageBytesMax,
    pingIntervalMs: 10_000,
    pingTimeoutMs: 5_000,
    idleConnectionTimeoutMs: 60_000,
  });
}

/** Keeps one connection an address. */
export class ClientPool {
  readonly #transports = new Map<string, Transport>();

  /** A client of a service at "host:port". Errors are FerryErrors once passed through `toFerryError`. */
  client<S extends DescService>(service: S, address: string): Client<S> {
    let transport = this.#transports.get(address);
    if (transport === undefined) {
      transport = createTransport(address);
      this.#transports.set(address, transport);
    }
    return createClient(service, transport);
  }
}

export type { CallOptions, Client };
