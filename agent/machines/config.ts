import type { Check, MachineConfig } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { durationToMs } from '../../shared/duration.ts';
import { invalidArgument } from '../../shared/error.ts';
import type { RestartPolicy, Rules } from './lifecycle.ts';

/** A health check with its defaults filled in. */
export interface CheckSettings {
  readonly name: string;
  readonly type: 'tcp' | 'http';
  readonly port: number;
  readonly intervalMs: number;
  readonly timeoutMs: number;
  readonly gracePeriodMs: number;
  readonly method: string;
  readonly path: string;
}

/** What a MachineConfig means, with its defaults filled in. */
export interface Settings {
  readonly rules: Rules;
  /** Program and arguments. */
  readonly command: readonly string[];
  /** Null = no limit. */
  readonly memoryMb: number | null;
  readonly checks: readonly CheckSettings[];
}

const STOP_SIGNALS = ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGKILL', 'SIGUSR1', 'SIGUSR2', 'SIGTERM'] as const;
const STOP_TIMEOUT_MS = 5_000;
const STOP_TIMEOUT_MAX_MS = 300_000;
const POLICIES: readonly RestartPolicy[] = ['no', 'always', 'on-failure'];
const RESTARTS_MAX = 10;
const CHECKS_MAX = 32;
const CHECK_MS = 2_000;
const CHECK_GRACE_MS = 1_000;
const CHECK_MIN_MS = 100;
const CHECK_MAX_MS = 3_600_000;
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH'];
const ENVIRONMENT_BYTES_MAX = 128 * 1024;

/** Reads a config. Throws invalid_argument naming the field (below `config`) and what would be right. */
export function readConfig(config: MachineConfig): Settings {
  requireEnvironment(config.env);
  if (config.init?.tty === true) {
    throw invalidArgument('config.init.tty', 'is true', 'false: this runtime gives no terminal');
  }
  if (config.mounts.length > 1) {
    throw invalidArgument('config.mounts', `has ${config.mounts.length} entries`, 'at most one volume');
  }
  return {
    rules: readRules(config),
    command: readCommand(config),
    memoryMb: config.guest === undefined || config.guest.memoryMb === 0 ? null : config.guest.memoryMb,
    checks: readChecks(config.checks),
  };
}

/** A stop signal by its name; empty means the default, SIGINT. */
export function readStopSignal(name: string, field: string): NodeJS.Signals {
  if (name === '') return 'SIGINT';
  const signal = STOP_SIGNALS.find((known) => known === name);
  if (signal === undefined)
    throw invalidArgument(field, `is ${JSON.stringify(name)}`, `one of ${STOP_SIGNALS.join(', ')}`);
  return signal;
}

/** A stop timeout; undefined means the default, 5 s. */
export function readStopTimeoutMs(ms: number | undefined, field: string): number {
  return within(ms ?? STOP_TIMEOUT_MS, 0, STOP_TIMEOUT_MAX_MS, field);
}

function readRules(config: MachineConfig): Rules {
  const stop = config.stopConfig;
  const name = config.restart?.policy ?? '';
  const policy = name === '' ? 'on-failure' : POLICIES.find((known) => known === name);
  if (policy === undefined) {
    throw invalidArgument('config.restart.policy', `is ${JSON.stringify(name)}`, `one of ${POLICIES.join(', ')}`);
  }
  return {
    policy,
    restartsMax: config.restart?.maxRetries || RESTARTS_MAX,
    stopSignal: readStopSignal(stop?.signal ?? '', 'config.stop_config.signal'),
    stopTimeoutMs: readStopTimeoutMs(durationToMs(stop?.timeout), 'config.stop_config.timeout'),
    autoDestroy: config.autoDestroy,
  };
}

/** init.exec replaces everything; otherwise image, entrypoint and cmd, in this order. */
function readCommand(config: MachineConfig): string[] {
  const { exec = [], entrypoint = [], cmd = [] } = config.init ?? {};
  const command = exec.length > 0 ? exec : [...(config.image === '' ? [] : [config.image]), ...entrypoint, ...cmd];
  if (command[0] === undefined || command[0] === '') {
    throw invalidArgument('config.image', 'is empty', 'an executable, or a command in config.init.exec');
  }
  if (command.some((argument) => argument.includes('\0'))) {
    throw invalidArgument('config.init', 'has a NUL character', 'arguments without NUL');
  }
  return [...command];
}

/** Only names that a shell keeps: others would be lost on the way to the program. */
function requireEnvironment(env: Readonly<Record<string, string>>): void {
  let bytes = 0;
  for (const [name, value] of Object.entries(env)) {
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) {
      throw invalidArgument('config.env', `has the name ${JSON.stringify(name)}`, 'names of A-Z, a-z, 0-9 and "_"');
    }
    if (/^ferry_/i.test(name)) {
      throw invalidArgument('config.env', `has the name ${name}`, 'names that do not begin with FERRY_, which is ours');
    }
    if (value.includes('\0')) throw invalidArgument(`config.env.${name}`, 'has a NUL character', 'text without NUL');
    bytes += name.length + Buffer.byteLength(value) + 2;
  }
  if (bytes > ENVIRONMENT_BYTES_MAX) {
    throw invalidArgument('config.env', `has ${bytes} bytes`, `at most ${ENVIRONMENT_BYTES_MAX} bytes`);
  }
}

function readChecks(checks: Readonly<Record<string, Check>>): CheckSettings[] {
  const entries = Object.entries(checks);
  if (entries.length > CHECKS_MAX) {
    throw invalidArgument('config.checks', `has ${entries.length} entries`, `at most ${CHECKS_MAX}`);
  }
  return entries.map(([name, check]) => readCheck(name, check));
}

function readCheck(name: string, check: Check): CheckSettings {
  const field = `config.checks.${name}`;
  const { type } = check;
  if (type !== 'tcp' && type !== 'http') {
    throw invalidArgument(`${field}.type`, `is ${JSON.stringify(type)}`, '"tcp" or "http"');
  }
  const method = check.method === '' ? 'GET' : check.method.toUpperCase();
  if (!METHODS.includes(method)) {
    throw invalidArgument(`${field}.method`, `is ${JSON.stringify(check.method)}`, `one of ${METHODS.join(', ')}`);
  }
  const path = check.path === '' ? '/' : check.path;
  if (!/^\/[\x21-\x7e]*$/.test(path)) {
    throw invalidArgument(`${field}.path`, `is ${JSON.stringify(path)}`, 'a path that begins with "/", without spaces');
  }
  const timeMs = (value: Check['interval'], defaultMs: number, minMs: number, what: string): number =>
    within(durationToMs(value) ?? defaultMs, minMs, CHECK_MAX_MS, `${field}.${what}`);
  return {
    name,
    type,
    port: within(check.port, 1, 65_535, `${field}.port`),
    intervalMs: timeMs(check.interval, CHECK_MS, CHECK_MIN_MS, 'interval'),
    timeoutMs: timeMs(check.timeout, CHECK_MS, CHECK_MIN_MS, 'timeout'),
    gracePeriodMs: timeMs(check.gracePeriod, CHECK_GRACE_MS, 0, 'grace_period'),
    method,
    path,
  };
}

function within(value: number, min: number, max: number, field: string): number {
  if (value >= min && value <= max) return value;
  const unit = field.endsWith('port') ? '' : ' ms';
  throw invalidArgument(field, `is ${value}${unit}`, `${min} to ${max}${unit}`);
}
