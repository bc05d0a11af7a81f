import {
  create,
  type DescMessage,
  type DescService,
  fromBinary,
  type MessageShape,
  toBinary,
} from '@bufbuild/protobuf';
import {
  type ClientReadableStream,
  credentials,
  makeGenericClientConstructor,
  type ServiceDefinition,
  type ServiceError,
  type StatusObject,
} from '@grpc/grpc-js';

/** A service as grpc-js wants it, from our descriptors. */
function definitionOf(service: DescService): ServiceDefinition {
  const codec = (type: DescMessage) => ({
    serialize: (message: Record<string, unknown>) => Buffer.from(toBinary(type, create(type, message))),
    deserialize: (bytes: Buffer) => fromBinary(type, bytes),
  });
  const methods = service.methods.map((method) => {
    const [input, output] = [codec(method.input), codec(method.output)];
    const definition = {
      path: `/${service.typeName}/${method.name}`,
      requestStream: method.methodKind === 'client_streaming' || method.methodKind === 'bidi_streaming',
      responseStream: method.methodKind === 'server_streaming' || method.methodKind === 'bidi_streaming',
      requestSerialize: input.serialize,
      requestDeserialize: input.deserialize,
      responseSerialize: output.serialize,
      responseDeserialize: output.deserialize,
    };
    return [method.localName, definition] as const;
  });
  return Object.fromEntries(methods);
}

/** How a stream ended, and what came before. */
export interface StreamReport<T> {
  readonly messages: readonly T[];
  readonly code: number;
}

/** A client made of @grpc/grpc-js: another implementation of gRPC than the one that Ferry uses. */
export class GrpcClient implements Disposable {
  readonly #service: DescService;
  readonly #client: InstanceType<ReturnType<typeof makeGenericClientConstructor>>;

  constructor(service: DescService, address: string) {
    this.#service = service;
    const Client = makeGenericClientConstructor(definitionOf(service), service.typeName);
    this.#client = new Client(address, credentials.createInsecure());
  }

  /** One answer. Rejects with the ServiceError of grpc-js. */
  unary<T extends DescMessage>(method: string, output: T, request: object = {}): Promise<MessageShape<T>> {
    return new Promise((resolve, reject) => {
      const call = this.#method(method);
      const deadline = Date.now() + 20_000;
      call.call(this.#client, request, { deadline }, (error: ServiceError | null, response: unknown) => {
        if (error !== null) reject(error);
        else resolve(response as MessageShape<typeof output>);
      });
    });
  }

  /** Reads a stream to its end; `onMessage` sees each message as it comes. */
  stream<T extends DescMessage>(
    method: string,
    _output: T,
    request: object,
    onMessage: (message: MessageShape<T>) => void = () => {},
  ): Promise<StreamReport<MessageShape<T>>> {
    return new Promise((resolve) => {
      const messages: MessageShape<T>[] = [];
      const call = this.#method(method);
      const stream = call.call(this.#client, request) as ClientReadableStream<MessageShape<T>>;
      stream.on('data', (message: MessageShape<T>) => {
        messages.push(message);
        onMessage(message);
      });
      // The status says it; without a listener it would be thrown.
      stream.on('error', () => {});
      stream.on('status', ({ code }: StatusObject) => resolve({ messages, code }));
    });
  }

  #method(name: string): (...args: unknown[]) => unknown {
    const method = this.#client[name];
    if (method === undefined) throw new Error(`${this.#service.typeName} has no method ${name}`);
    return method as unknown as (...args: unknown[]) => unknown;
  }

  [Symbol.dispose](): void {
    this.#client.close();
  }
}
