import { parseArgs } from 'node:util';
import { parseDurationMs } from './duration.ts';
import { invalidArgument } from './error.ts';
import { isLoopback } from './rpc/server.ts';

/** One flag of a daemon: `--name VALUE`, or `FERRY_<PREFIX>_NAME` in the environment. */
export interface Flag {
  /** What VALUE is, for the help text. */
  readonly value: string;
  /** One sentence. */
  readonly help: string;
  /** Used when neither flag nor environment gives one; without a default the flag must be given. */
  readonly default?: string;
}

/** The values of a daemon's flags, by name; the command line beats the environment beats the default. */
export type FlagValues<Name extends string> = Readonly<Record<Name, string>>;

/** Reads the flags of a daemon. Throws invalid_argument naming the flag. */
export function parseFlags<Name extends string>(
  flags: Readonly<Record<Name, Flag>>,
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
  prefix: string,
): FlagValues<Name> {
  const names = Object.keys(flags) as Name[];
  const parsed = parseTolerant(names, argv);
  const values = {} as Record<Name, string>;
  for (const name of names) {
    const variable = `FERRY_${prefix}_${name.replaceAll('-', '_').toUpperCase()}`;
    const value = parsed[name] ?? env[variable] ?? flags[name].default;
    if (value === undefined)
      throw invalidArgument(`--${name}`, 'is missing', `${flags[name].value}: ${flags[name].help}`);
    values[name] = value;
  }
  return values;
}

function parseTolerant(names: readonly string[], argv: readonly string[]): Record<string, string | undefined> {
  const options = Object.fromEntries(names.map((name) => [name, { type: 'string' as const }]));
  try {
    return parseArgs({ args: [...argv], options, strict: true, allowPositionals: false }).values;
  } catch (error) {
    const found = (error as Error).message.split('\n')[0] ?? '';
    throw invalidArgument('command line', found, `only these flags: ${names.map((name) => `--${name}`).join(' ')}`);
  }
}

/** The help text of a daemon's flags. */
export function describeFlags(flags: Readonly<Record<string, Flag>>): string {
  return Object.entries(flags)
    .map(([name, flag]) => {
      const fallback =
        flag.default === undefined ? 'required' : flag.default === '' ? 'optional' : `default ${flag.default}`;
      return `  ${`--${name} ${flag.value}`.padEnd(34)} ${flag.help} (${fallback})`;
    })
    .join('\n');
}

/** An address to listen on. */
export interface ListenAddress {
  readonly host: string;
  /** 0 = any free one. */
  readonly port: number;
}

/** Reads "HOST:PORT" of an address to listen on; without certificates it must be loopback. */
export function parseListen(text: string, flag: string): ListenAddress {
  const match = /^(\[[0-9a-f:]+\]|[^:[\]]+):(\d{1,5})$/.exec(text);
  const port = Number(match?.[2]);
  if (match === null || port > 65_535)
    throw invalidArgument(`--${flag}`, `is ${JSON.stringify(text)}`, 'HOST:PORT, for example 127.0.0.1:7400');
  const host = match[1]!.replace(/^\[|\]$/g, '');
  if (!isLoopback(host))
    throw invalidArgument(
      `--${flag}`,
      `is ${text}, beyond loopback`,
      'a loopback address such as 127.0.0.1, until agents and coordinators have certificates',
    );
  return { host, port };
}

/** Reads a time such as "60s" within bounds; answers milliseconds. */
export function parseFlagDurationMs(text: string, flag: string, minMs: number, maxMs: number): number {
  const ms = parseDurationMs(text, `--${flag}`);
  if (ms < minMs || ms > maxMs)
    throw invalidArgument(`--${flag}`, `is ${text}`, `between ${minMs / 1000}s and ${maxMs / 1000}s`);
  return ms;
}
