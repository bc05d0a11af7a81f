import type { DescField, DescMessage, DescMethod, DescService, Message } from '@bufbuild/protobuf';
import { BytesValueSchema } from '@bufbuild/protobuf/wkt';
import { ConnectError, type Transport } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { ErrorDetailSchema } from '../../proto/gen/ferry/v1/error_pb.ts';
import { type FerryError, fromConnectError } from '../../shared/error.ts';

/** A wrong request, and how it must be refused. */
export interface Attack {
  readonly what: string;
  readonly request: object;
  readonly reason: string;
  /** Path of the field that the error must name; not checked when left out. */
  readonly field?: string;
  /** Whom to send it to, where a service is at several hosts. */
  readonly host?: string;
}

/** How one RPC is attacked. */
export interface Target {
  /** A request that is good but for what an attack changes. */
  readonly good: object;
  /** Paths of IDs in it (as "header.migrationId") that must be there; each is replaced with each of `badIds`. */
  readonly ids?: readonly string[];
  /** Paths of names that may be left out, but not be wrong. */
  readonly optionalIds?: readonly string[];
  /** Paths of IDs that may be any text. */
  readonly opaqueIds?: readonly string[];
  readonly attacks?: readonly Attack[];
}

/** What no ID looks like. */
export const badIds = ['../x', '/etc/passwd', 'x'.repeat(300), 'ünïcode', 'D8DD625FED5568', 'a\nb', '-rf', ' ', '%00'];

/** A daemon's answer to one attack. */
export interface Answer {
  readonly error: FerryError | null;
  /** Whether the refusal carried its typed detail over the wire. */
  readonly typed: boolean;
}

/** Sends requests without the courtesies of our own client: no limit on what is sent, no reading of errors. */
export class Attacker {
  readonly #transport: Transport;

  constructor(address: string) {
    this.#transport = createGrpcTransport({ baseUrl: `http://${address}`, defaultTimeoutMs: 15_000 });
  }

  /** One call. */
  send(method: DescMethod, request: object): Promise<Answer> {
    return this.#call(method, request as Message);
  }

  /** One call whose request is not of the method's type: bytes under field 1. */
  sendBytes(method: DescMethod, value: Uint8Array): Promise<Answer> {
    return this.#call({ ...method, input: BytesValueSchema } as DescMethod, { value } as object as Message);
  }

  async #call(method: DescMethod, message: Message): Promise<Answer> {
    try {
      if (method.methodKind === 'unary') {
        await this.#transport.unary(method as never, undefined, undefined, undefined, message as never);
      } else {
        const one = (async function* () {
          yield message;
        })();
        const response = await this.#transport.stream(method as never, undefined, undefined, undefined, one as never);
        for await (const _ of response.message) break;
      }
      return { error: null, typed: true };
    } catch (thrown) {
      const error = ConnectError.from(thrown);
      return { error: fromConnectError(error), typed: error.findDetails(ErrorDetailSchema).length > 0 };
    }
  }
}

/** The request with one field replaced, by its path of local names. */
export function replaced(request: object, path: string, value: unknown): object {
  const [name = '', ...rest] = path.split('.');
  const old = (request as Record<string, unknown>)[name];
  return { ...request, [name]: rest.length === 0 ? value : replaced((old ?? {}) as object, rest.join('.'), value) };
}

/** "header.migrationId" as the wire's names have it: "header.migration_id". */
export function wirePath(path: string): string {
  return path.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** Every field of a message whose name says that it is an ID, as paths; two levels deep. */
export function idFieldsOf(message: DescMessage, prefix = ''): string[] {
  return message.fields.flatMap((field: DescField) => {
    const path = `${prefix}${field.localName}`;
    if (field.fieldKind === 'scalar' && /(^|_)id$/.test(field.name)) return [path];
    return field.fieldKind === 'message' && prefix === '' ? idFieldsOf(field.message, `${path}.`) : [];
  });
}

/** All attacks on one method: its own, and the ones that follow from its IDs. */
export function attacksOn(target: Target): Attack[] {
  const { good, ids = [], optionalIds = [], attacks = [] } = target;
  const wrong = (path: string, values: readonly string[]) =>
    values.map((value) => ({
      what: `${path} = ${JSON.stringify(value.slice(0, 20))}`,
      request: replaced(good, path, value),
      reason: 'invalid_argument',
      field: wirePath(path),
    }));
  return [
    ...ids.flatMap((path) => wrong(path, ['', ...badIds])),
    ...optionalIds.flatMap((path) => wrong(path, badIds)),
    ...attacks,
  ];
}

/** Methods of a service that have no target: a new RPC must be attacked too. */
export function unattacked(service: DescService, targets: Readonly<Record<string, Target>>): string[] {
  return service.methods.map((method) => method.localName).filter((name) => targets[name] === undefined);
}
