import { resolve } from 'node:path';
import { invalidArgument } from '../shared/error.ts';
import { type Flag, type ListenAddress, parseFlagDurationMs, parseFlags, parseListen } from '../shared/flags.ts';
import { checkId } from '../shared/ids.ts';
import { parseStoreAddress, type StoreAddress } from './store/address.ts';

/** Flags of `ferry coordinator`; each can also come from the environment as FERRY_COORDINATOR_NAME. */
export const coordinatorFlags = {
  'data-dir': { value: 'DIR', help: 'roster, locks and migrations; needed unless --store names a Redis', default: '' },
  listen: { value: 'HOST:PORT', help: 'where operators and agents call; port 0 = any', default: '127.0.0.1:7400' },
  'heartbeat-interval': {
    value: 'TIME',
    help: 'time between heartbeats; a host that misses three is unreachable',
    default: '2s',
  },
  'start-deadline': { value: 'TIME', help: 'a moved Machine must be healthy within this', default: '60s' },
  concurrency: { value: 'N', help: 'migrations that run at once; others wait', default: '64' },
  'drain-per-destination': { value: 'N', help: 'moves to one host that drains have under way at once', default: '4' },
  'drain-total': { value: 'N', help: 'moves that all drains together have under way at once', default: '16' },
  'downtime-budget': {
    value: 'TIME',
    help: 'what the last copy, made while a Machine is down, may take; rounds before it aim at that',
    default: '300ms',
  },
  store: {
    value: 'URL',
    help: 'redis://HOST:PORT/DB, shared by several coordinators; empty = one file in the data directory, for one',
    default: '',
  },
  'store-password-file': {
    value: 'FILE',
    help: 'password of the store; or within FERRY_COORDINATOR_STORE',
    default: '',
  },
  id: {
    value: 'NAME',
    help: 'name of this coordinator, one process a name; empty = from host name and port',
    default: '',
  },
  lease: { value: 'TIME', help: 'another coordinator takes over from one that is silent for so long', default: '15s' },
  'log-level': { value: 'LEVEL', help: 'trace, debug, info, warn, error', default: 'info' },
} as const satisfies Record<string, Flag>;

/** How a coordinator runs. */
export interface CoordinatorConfig {
  /** Empty when the store is elsewhere and none is needed. */
  readonly dataDir: string;
  readonly listen: ListenAddress;
  readonly heartbeatIntervalMs: number;
  /** Unless a migration names another. */
  readonly startDeadlineMs: number;
  readonly concurrentMax: number;
  /** Moves that drains have under way at once: to one host, and all together. */
  readonly drainPerDestination: number;
  readonly drainTotal: number;
  /** Unless a migration names another. */
  readonly downtimeBudgetMs: number;
  /** Where locks, migrations and roster are. */
  readonly store: StoreAddress;
  /** File with the store's password; empty = none. */
  readonly storePasswordFile: string;
  /** Name of the coordinator; empty = from host name and port. */
  readonly id: string;
  /** Life of a driver's session. */
  readonly leaseMs: number;
  readonly logLevel: string;
}

/** Bounds of a downtime budget, also of one that a migration names. */
export const downtimeBudgetMsMin = 10;
export const downtimeBudgetMsMax = 600_000;

/** Bounds of a start deadline, also of one that a migration names. */
export const startDeadlineMsMin = 100;
export const startDeadlineMsMax = 3_600_000;

const concurrencyMax = 1000;
const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'];

/** Reads the command line of `ferry coordinator`. Throws invalid_argument naming the flag. */
export function parseCoordinatorConfig(
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): CoordinatorConfig {
  const flags = parseFlags(coordinatorFlags, argv, env, 'COORDINATOR');
  if (!logLevels.includes(flags['log-level'])) {
    throw invalidArgument('--log-level', `is ${JSON.stringify(flags['log-level'])}`, `one of ${logLevels.join(', ')}`);
  }
  const store = parseStoreAddress(flags.store, '--store');
  if (store.kind === 'sqlite' && flags['data-dir'] === '') {
    throw invalidArgument(
      '--data-dir',
      'is missing',
      'DIR: a directory for roster, locks and migrations, or --store redis://...',
    );
  }
  if (store.kind === 'redis' && store.target.password !== '' && flags.store !== env.FERRY_COORDINATOR_STORE) {
    const expected = 'FERRY_COORDINATOR_STORE in the environment, or --store-password-file FILE';
    throw invalidArgument('--store', 'has a password, which every user of this machine can see there', expected);
  }
  return {
    dataDir: flags['data-dir'] === '' ? '' : resolve(flags['data-dir']),
    listen: parseListen(flags.listen, 'listen'),
    heartbeatIntervalMs: parseFlagDurationMs(flags['heartbeat-interval'], 'heartbeat-interval', 50, 60_000),
    startDeadlineMs: parseFlagDurationMs(
      flags['start-deadline'],
      'start-deadline',
      startDeadlineMsMin,
      startDeadlineMsMax,
    ),
    concurrentMax: parseCount(flags, 'concurrency'),
    drainPerDestination: parseCount(flags, 'drain-per-destination'),
    drainTotal: parseCount(flags, 'drain-total'),
    downtimeBudgetMs: parseFlagDurationMs(
      flags['downtime-budget'],
      'downtime-budget',
      downtimeBudgetMsMin,
      downtimeBudgetMsMax,
    ),
    store,
    storePasswordFile: flags['store-password-file'],
    id: flags.id === '' ? '' : checkId('name', flags.id, '--id'),
    leaseMs: parseFlagDurationMs(flags.lease, 'lease', 1000, 300_000),
    logLevel: flags['log-level'],
  };
}

function parseCount<N extends string>(flags: Readonly<Record<N, string>>, name: N): number {
  const count = Number(flags[name]);
  if (/^\d{1,4}$/.test(flags[name]) && count >= 1 && count <= concurrencyMax) return count;
  throw invalidArgument(`--${name}`, `is ${JSON.stringify(flags[name])}`, `1 to ${concurrencyMax}`);
}
