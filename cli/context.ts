import type { DescService } from '@bufbuild/protobuf';
import type { Command } from 'commander';
import type { Clock } from '../shared/clock.ts';
import { FerryError, toFerryError } from '../shared/error.ts';
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
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly clock: Clock;
  /** A signal that aborts at ctrl-C (SIGINT, SIGTERM, SIGHUP); called by commands that end something of their own then. */
  readonly interrupted: () => AbortSignal;
}

/** Where coordinators listen unless told otherwise. */
export const defaultCoordinator = '127.0.0.1:7400';

/** Options that every command has. */
export interface CommonOptions {
  readonly coordinator?: string;
  readonly json?: boolean;
}

/** Adds `--coordinator` and `--json` to a command. */
export function withCommonOptions(command: Command): Command {
  return command
    .option('--coordinator <host:port>', `the coordinator to ask (or FERRY_COORDINATOR; default ${defaultCoordinator})`)
    .option('--json', 'one JSON document (one a line for watches) in protobuf JSON, for programs');
}

/** The address of the coordinator, from the option or the environment. Throws invalid_argument. */
export function coordinatorAddress(options: CommonOptions, env: Terminal['env']): string {
  const fromEnv = env.FERRY_COORDINATOR === '' ? undefined : env.FERRY_COORDINATOR;
  const address = options.coordinator ?? fromEnv ?? defaultCoordinator;
  const match = /^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):(\d{1,5})$/.exec(address);
  if (match !== null && Number(match[2]) >= 1 && Number(match[2]) <= 65_535) return address;
  const field = options.coordinator === undefined ? 'FERRY_COORDINATOR' : '--coordinator';
  const expected = `HOST:PORT, for example ${defaultCoordinator}`;
  throw new FerryError('invalid_argument', `${field}: is ${JSON.stringify(address)}`, { field, expected });
}

/** What a command that asks a coordinator works with. */
export class Session {
  readonly terminal: Terminal;
  readonly json: boolean;
  readonly coordinator: string;
  readonly #pool = new ClientPool();

  constructor(terminal: Terminal, options: CommonOptions) {
    this.terminal = terminal;
    this.json = options.json === true;
    this.coordinator = coordinatorAddress(options, terminal.env);
  }

  client<S extends DescService>(service: S): Client<S> {
    return this.#pool.client(service, this.coordinator);
  }

  /** Makes a call; its errors arrive as FerryErrors that name the coordinator's address when it does not answer. */
  async call<T>(make: (options: CallOptions) => Promise<T>, timeoutMs = 10_000): Promise<T> {
    try {
      return await make({ timeoutMs });
    } catch (error) {
      throw this.typed(error);
    }
  }

  /** The FerryError of whatever a call threw. */
  typed(thrown: unknown): FerryError {
    const error = toFerryError(thrown);
    if (error.reason !== 'unreachable') return error;
    return new FerryError('unreachable', `the coordinator at ${this.coordinator} does not answer (${error.message})`, {
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
