import type { DescService } from '@bufbuild/protobuf';
import type { Command } from 'commander';
import { Health } from '../proto/gen/grpc/health/v1/health_pb.ts';
import type { Clock } from '../shared/clock.ts';
import { FerryError, toFerryError } from '../shared/error.ts';
import type { Reason } from '../shared/reasons.ts';
import { type CallOptions, type Client, ClientPool } from '../shared/rpc/client.ts';

/** What a command ends with. */
export interface Outcome {
  exitCode: number;
}

/** What a command may touch of the world. */
export interface Terminal {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  /** Whether people read the output as it comes. */
  readonly isTerminal: boolean;
  readonly columns: () => number;
  /** Lines of the window; what is drawn in place never exceeds it. */
  readonly rows: () => number;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly clock: Clock;
  /** A signal that aborts at ctrl-C (SIGINT, SIGTERM, SIGHUP); called by commands that end something of their own then. */
  readonly interrupted: () => AbortSignal;
}

/** Where coordinators listen unless told otherwise. */
export const defaultCoordinator = '127.0.0.1:7400';

const coordinatorsMax = 16;
const callMsDefault = 10_000;
/** A coordinator that does not even say that it lives for so long is not waited for alone: the next one is asked, too. */
const awakeMsMax = 1500;
/** Error numbers of connections that never came to be. */
const noConnection = new Set(['ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH', 'ENOTFOUND', 'EAI_AGAIN']);

/** Options that every command has. */
export interface CommonOptions {
  readonly coordinator?: string;
  readonly json?: boolean;
}

/** Adds `--coordinator` and `--json` to a command. */
export function withCommonOptions(command: Command): Command {
  return command
    .option(
      '--coordinator <host:port>',
      `the coordinator to ask; several with commas: the next one is asked when one is silent (or FERRY_COORDINATOR; default ${defaultCoordinator})`,
    )
    .option('--json', 'one JSON document (one a line for watches) in protobuf JSON, for programs');
}

/** The addresses of the coordinators, from the option or the environment. Throws invalid_argument. */
export function coordinatorAddresses(options: CommonOptions, env: Terminal['env']): string[] {
  const fromEnv = env.FERRY_COORDINATOR === '' ? undefined : env.FERRY_COORDINATOR;
  const text = options.coordinator ?? fromEnv ?? defaultCoordinator;
  const addresses = text.split(',').map((each) => each.trim());
  const isAddress = (address: string) => {
    const match = /^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):(\d{1,5})$/.exec(address);
    return match !== null && Number(match[2]) >= 1 && Number(match[2]) <= 65_535;
  };
  if (addresses.length <= coordinatorsMax && addresses.every(isAddress)) return [...new Set(addresses)];
  const field = options.coordinator === undefined ? 'FERRY_COORDINATOR' : '--coordinator';
  const expected = `HOST:PORT, for example ${defaultCoordinator}; at most ${coordinatorsMax}, with commas`;
  throw new FerryError('invalid_argument', `${field}: is ${JSON.stringify(text.slice(0, 200))}`, { field, expected });
}

/** What a command that asks a coordinator works with. */
export class Session {
  readonly terminal: Terminal;
  readonly json: boolean;
  readonly #coordinators: readonly string[];
  readonly #pool = new ClientPool();
  /** Which of the coordinators is asked now. */
  #at = 0;

  constructor(terminal: Terminal, options: CommonOptions) {
    this.terminal = terminal;
    this.json = options.json === true;
    this.#coordinators = coordinatorAddresses(options, terminal.env);
  }

  /** The coordinator that is asked now. */
  get coordinator(): string {
    return this.#coordinators[this.#at]!;
  }

  /** A client of the coordinator that is asked now. */
  client<S extends DescService>(service: S): Client<S> {
    return this.#pool.client(service, this.coordinator);
  }

  /** Goes on to the next coordinator; with a single one that is the same again. */
  next(): void {
    this.#at = (this.#at + 1) % this.#coordinators.length;
  }

  /**
   * Makes a call that may be made twice without harm: when a coordinator is silent or has lost its store, the next one is
   * asked. Errors arrive as FerryErrors that name whoever does not answer.
   */
  call<T>(make: (options: CallOptions) => Promise<T>, timeoutMs = callMsDefault): Promise<T> {
    const goesOn = ({ reason }: FerryError) => reason === 'store_unreachable' || isSilence(reason);
    return this.#ask(make, timeoutMs, goesOn, (error) => this.typed(error));
  }

  /**
   * Makes a call that must not be made twice: the next coordinator is asked only when the call reached nobody. Without an
   * answer to a call that may have arrived it is unknown whether it was done; the error says so.
   */
  order<T>(make: (options: CallOptions) => Promise<T>, timeoutMs = callMsDefault): Promise<T> {
    return this.#ask(make, timeoutMs, reachedNobody, (error) => {
      if (!isSilence(error.reason) || reachedNobody(error)) return this.typed(error);
      const message = `the coordinator at ${this.coordinator} went silent before it answered (${error.message}): whether it was done is unknown`;
      return new FerryError('deadline', message, {
        expected: 'an answer',
        nextAction: 'Look first ("ferry status" and the list of what was ordered), then repeat it if it was not done.',
        cause: error,
      });
    });
  }

  /**
   * Looks, where there are several coordinators, for one that answers, beginning with the one that is asked now: a process that
   * stands still takes connections and orders, and says nothing. Throws unreachable when none answers.
   */
  async findAwake(signal?: AbortSignal): Promise<void> {
    const all = this.#coordinators;
    if (all.length === 1) return;
    const over = new AbortController();
    const until = signal === undefined ? over.signal : AbortSignal.any([signal, over.signal]);
    const probes: Promise<number>[] = [];
    let silence = new FerryError('deadline', `it has said nothing for ${awakeMsMax / 1000} s`);
    try {
      for (let at = this.#at; probes.length < all.length; at = (at + 1) % all.length) {
        if (probes.length > 0) this.#goOn(silence);
        probes.push(this.#probe(at, until));
        const isLast = probes.length === all.length;
        const late = isLast ? [] : [this.terminal.clock.sleep(awakeMsMax, until).then(() => undefined)];
        const none = (error: AggregateError) => {
          silence = toFerryError(error.errors.at(-1));
          return undefined;
        };
        const found = await Promise.race([Promise.any(probes).catch(none), ...late]);
        if (found !== undefined) {
          this.#at = found;
          return;
        }
      }
    } finally {
      over.abort();
    }
    signal?.throwIfAborted();
    throw this.typed(new FerryError('unreachable', silence.message, { cause: silence }));
  }

  /** Resolves with the place of a coordinator that answers, whatever it says. */
  async #probe(at: number, signal: AbortSignal): Promise<number> {
    try {
      await this.#pool.client(Health, this.#coordinators[at]!).check({}, { signal, timeoutMs: callMsDefault });
    } catch (thrown) {
      const error = toFerryError(thrown);
      if (isSilence(error.reason)) throw error;
    }
    return at;
  }

  /** What a stream answers; as long as nothing has come, the next coordinator is asked like in `call`. */
  async *stream<T>(make: () => AsyncIterable<T>): AsyncIterable<T> {
    let begun = false;
    await this.findAwake();
    for (let tried = 1; ; tried += 1) {
      try {
        for await (const response of make()) {
          begun = true;
          yield response;
        }
        return;
      } catch (thrown) {
        const error = toFerryError(thrown);
        if (begun || tried >= this.#coordinators.length || !isSilence(error.reason)) throw this.typed(error);
        this.#goOn(error);
      }
    }
  }

  async #ask<T>(
    make: (options: CallOptions) => Promise<T>,
    timeoutMs: number,
    goesOn: (error: FerryError) => boolean,
    failure: (error: FerryError) => FerryError,
  ): Promise<T> {
    await this.findAwake();
    for (let tried = 1; ; tried += 1) {
      try {
        return await make({ timeoutMs });
      } catch (thrown) {
        const error = toFerryError(thrown);
        if (tried >= this.#coordinators.length || !goesOn(error)) throw failure(error);
        this.#goOn(error);
      }
    }
  }

  /** Says who is silent, and goes on to the next. */
  #goOn(error: FerryError): void {
    const silent = this.coordinator;
    this.next();
    if (!this.json) {
      this.terminal.err(`ferry: the coordinator at ${silent}: ${error.message}; asking ${this.coordinator}\n`);
    }
  }

  /** The FerryError of whatever a call threw. */
  typed(thrown: unknown): FerryError {
    const error = toFerryError(thrown);
    if (error.reason !== 'unreachable' && error.reason !== 'cancelled') return error;
    const who =
      this.#coordinators.length === 1
        ? `the coordinator at ${this.coordinator} does not answer`
        : `none of the coordinators ${this.#coordinators.join(', ')} answers`;
    return new FerryError('unreachable', `${who} (${error.message})`, {
      expected: 'a running coordinator, such as "ferry dev" or "ferry coordinator" starts',
      nextAction: 'Start it, or name its address with --coordinator or FERRY_COORDINATOR.',
      cause: error,
    });
  }

  /** Prints a line for people; nothing with --json. */
  line(text = ''): void {
    if (!this.json) this.terminal.out(`${text}\n`);
  }
}

/** No answer came; whether the call arrived is another question. A connection that breaks shows as a cancel of the call. */
function isSilence(reason: Reason): boolean {
  return reason === 'unreachable' || reason === 'deadline' || reason === 'cancelled';
}

/** Whether a call failed before anybody could have heard it: there was no connection to send it on. */
function reachedNobody(error: FerryError): boolean {
  for (let cause: unknown = error, depth = 0; cause instanceof Error && depth < 8; depth += 1) {
    const { code } = cause as { code?: unknown };
    if (typeof code === 'string' && noConnection.has(code)) return true;
    cause = cause.cause;
  }
  return false;
}

/** Aborts at the first SIGINT, SIGTERM or SIGHUP; a second one ends the process at once. */
export function untilInterrupted(): AbortSignal {
  const controller = new AbortController();
  const interrupt = () => {
    if (controller.signal.aborted) process.exit(130);
    controller.abort();
  };
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, interrupt);
  return controller.signal;
}
