import { resolve } from 'node:path';
import { invalidArgument } from '../shared/error.ts';
import { type Flag, type ListenAddress, parseFlagDurationMs, parseFlags, parseListen } from '../shared/flags.ts';

/** Flags of `ferry coordinator`; each can also come from the environment as FERRY_COORDINATOR_NAME. */
export const coordinatorFlags = {
  'data-dir': { value: 'DIR', help: 'roster, locks and migrations' },
  listen: { value: 'HOST:PORT', help: 'where operators and agents call; port 0 = any', default: '127.0.0.1:7400' },
  'heartbeat-interval': {
    value: 'TIME',
    help: 'time between heartbeats; a host that misses three is unreachable',
    default: '2s',
  },
  'start-deadline': { value: 'TIME', help: 'a moved Machine must be healthy within this', default: '60s' },
  concurrency: { value: 'N', help: 'migrations that run at once; others wait', default: '64' },
  'log-level': { value: 'LEVEL', help: 'trace, debug, info, warn, error', default: 'info' },
} as const satisfies Record<string, Flag>;

/** How a coordinator runs. */
export interface CoordinatorConfig {
  readonly dataDir: string;
  readonly listen: ListenAddress;
  readonly heartbeatIntervalMs: number;
  /** Unless a migration names another. */
  readonly startDeadlineMs: number;
  readonly concurrentMax: number;
  readonly logLevel: string;
}

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
  const concurrentMax = Number(flags.concurrency);
  if (!/^\d{1,4}$/.test(flags.concurrency) || concurrentMax < 1 || concurrentMax > concurrencyMax) {
    throw invalidArgument('--concurrency', `is ${JSON.stringify(flags.concurrency)}`, `1 to ${concurrencyMax}`);
  }
  return {
    dataDir: resolve(flags['data-dir']),
    listen: parseListen(flags.listen, 'listen'),
    heartbeatIntervalMs: parseFlagDurationMs(flags['heartbeat-interval'], 'heartbeat-interval', 50, 60_000),
    startDeadlineMs: parseFlagDurationMs(
      flags['start-deadline'],
      'start-deadline',
      startDeadlineMsMin,
      startDeadlineMsMax,
    ),
    concurrentMax,
    logLevel: flags['log-level'],
  };
}
