import type { DescService } from '@bufbuild/protobuf';
import { AgentService } from '../proto/gen/ferry/v1/agent_pb.ts';
import { HandoverService } from '../proto/gen/ferry/v1/handover_pb.ts';
import { FerryError, toFerryError } from '../shared/error.ts';
import type { CallOptions, Client } from '../shared/rpc/client.ts';

/** Makes clients; the product's is shared/rpc's ClientPool. */
export interface Clients {
  client<S extends DescService>(service: S, address: string): Client<S>;
}

/** Where the agents are. */
export interface AddressBook {
  /** Address of a host's agent; throws unknown_host. */
  addressOf(hostId: string): Promise<string>;
}

/** How a call is made. */
export interface AgentCall {
  /** Ends the call; its reason is thrown. */
  readonly signal?: AbortSignal | undefined;
  /** Deadline; 5 s when left out. */
  readonly timeoutMs?: number;
}

const defaultTimeoutMs = 5_000;

/** Calls to the agents of the hosts. Errors are FerryErrors that name the host; silence is host_unreachable or deadline. */
export class Agents {
  readonly #clients: Clients;
  readonly #book: AddressBook;
  readonly #mayCall: () => void;

  /** `mayCall` is asked right before each call leaves, and throws to keep it back. */
  constructor(clients: Clients, book: AddressBook, mayCall = () => {}) {
    this.#clients = clients;
    this.#book = book;
    this.#mayCall = mayCall;
  }

  /** The same agents, under a condition. */
  when(mayCall: () => void): Agents {
    return new Agents(this.#clients, this.#book, mayCall);
  }

  /** Calls a host's HandoverService. */
  handover<T>(
    hostId: string,
    call: (client: Client<typeof HandoverService>, options: CallOptions) => Promise<T>,
    options: AgentCall = {},
  ): Promise<T> {
    return this.#call(HandoverService, hostId, call, options);
  }

  /** Calls a host's AgentService. */
  machines<T>(
    hostId: string,
    call: (client: Client<typeof AgentService>, options: CallOptions) => Promise<T>,
    options: AgentCall = {},
  ): Promise<T> {
    return this.#call(AgentService, hostId, call, options);
  }

  /** A client for streams; the caller maps errors with `named`. */
  async streams(hostId: string): Promise<Client<typeof AgentService>> {
    return this.#clients.client(AgentService, await this.#book.addressOf(hostId));
  }

  async #call<S extends DescService, T>(
    service: S,
    hostId: string,
    call: (client: Client<S>, options: CallOptions) => Promise<T>,
    { signal, timeoutMs = defaultTimeoutMs }: AgentCall,
  ): Promise<T> {
    signal?.throwIfAborted();
    const client = this.#clients.client(service, await this.#book.addressOf(hostId));
    this.#mayCall();
    try {
      return await call(client, { timeoutMs, ...(signal === undefined ? {} : { signal }) });
    } catch (error) {
      signal?.throwIfAborted();
      throw named(error, hostId);
    }
  }
}

/** Whether an error leaves open what the agent did or whether it lives. */
export function isSilence(error: FerryError): boolean {
  return error.reason === 'host_unreachable' || error.reason === 'deadline';
}

/** The error of a call, with the host in it. */
export function named(error: unknown, hostId: string): FerryError {
  const known = toFerryError(error);
  const { reason, message, field, expected, nextAction } = known;
  const facts = { ...known.facts, host: hostId };
  // An agent that dies or stops during a call breaks it off as "cancelled"; nobody here has called it off then.
  if (reason === 'unreachable' || reason === 'host_unreachable' || reason === 'cancelled') {
    return new FerryError('host_unreachable', `host ${hostId} does not answer`, { facts, cause: error });
  }
  if (reason === 'deadline')
    return new FerryError(reason, `host ${hostId} did not answer in time`, { facts, cause: error });
  return new FerryError(reason, `${hostId}: ${message}`, { field, expected, nextAction, facts, cause: error });
}
