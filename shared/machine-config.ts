// Longer than usual: one place that reads a Machine's config from JSON, from fly.toml and from a message, so that each
// field has one name, one rule and one message.
import { clone, create, type MessageInitShape } from '@bufbuild/protobuf';
import { parse as parseToml } from 'smol-toml';
import {
  type Check,
  type CheckSchema,
  type MachineConfig,
  MachineConfigSchema,
  type MachinePortSchema,
  RestartSchema,
  StopConfigSchema,
} from '../proto/gen/ferry/v1/machine_pb.ts';
import { durationFromMs, durationToMs, parseDurationMs } from './duration.ts';
import { FerryError, invalidArgument } from './error.ts';
import { idPatterns } from './ids.ts';

const stopSignals = ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGKILL', 'SIGUSR1', 'SIGUSR2', 'SIGTERM'];
const restartPolicies = ['no', 'always', 'on-failure'];
const checkTypes = ['tcp', 'http'];
const protocols = ['tcp', 'udp'];
const cpuKinds = ['shared', 'performance'];
const methods = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH'];
const stopTimeoutMsDefault = 5_000;
const stopTimeoutMsMax = 300_000;
const restartsDefault = 10;
const checkMsMin = 100;
const checkMsMax = 3_600_000;
const sizeGbMax = 16_384;
const memoryMbMax = 4_194_304;
const listMax = 256;
const textMax = 131_072;
const checksMax = 32;
const environmentBytesMax = 131_072;

/** What a file says about a Machine. */
export interface MachineFile {
  /** Empty when the file names none. */
  readonly name: string;
  readonly app: string;
  readonly region: string;
  /** Checked; defaults not filled in. */
  readonly config: MachineConfig;
}

// ---- checks of a message ------------------------------------------------------------------------------------------

/** Refuses a signal that cannot stop a Machine. */
export function checkSignal(signal: string, field: string): string {
  return oneOf(signal, stopSignals, field);
}

/** A checked copy with the defaults filled in: SIGINT, 5 s, on-failure, 10. Throws invalid_argument naming the field. */
export function normalizeConfig(config: MachineConfig, field = 'config'): MachineConfig {
  checkMachineConfig(config, field);
  const full = clone(MachineConfigSchema, config);
  full.stopConfig ??= create(StopConfigSchema);
  full.stopConfig.signal ||= 'SIGINT';
  full.stopConfig.timeout ??= durationFromMs(stopTimeoutMsDefault);
  full.restart ??= create(RestartSchema);
  full.restart.policy ||= 'on-failure';
  full.restart.maxRetries ||= restartsDefault;
  return full;
}

/** Refuses a config that no agent could run. Throws invalid_argument naming the field and what would be right. */
export function checkMachineConfig(config: MachineConfig, field = 'config'): void {
  const { init, guest, restart, stopConfig } = config;
  checkCommand(config, field);
  checkEnvironment(config.env, `${field}.env`);
  if (init?.tty === true) throw invalidArgument(`${field}.init.tty`, 'is true', 'false: Machines have no terminal');
  if (guest !== undefined) {
    if (guest.cpuKind !== '') oneOf(guest.cpuKind, cpuKinds, `${field}.guest.cpu_kind`);
    within(guest.cpus, 0, 1024, `${field}.guest.cpus`);
    within(guest.memoryMb, 0, memoryMbMax, `${field}.guest.memory_mb`);
  }
  checkMounts(config, `${field}.mounts`);
  atMost(config.services, listMax, `${field}.services`);
  for (const [index, { protocol, internalPort }] of config.services.entries()) {
    const at = `${field}.services[${index}]`;
    if (protocol !== '') oneOf(protocol, protocols, `${at}.protocol`);
    within(internalPort, 1, 65_535, `${at}.internal_port`);
  }
  const checks = Object.entries(config.checks);
  atMost(checks, checksMax, `${field}.checks`);
  for (const [name, check] of checks) checkCheck(check, `${field}.checks.${name}`);
  if (restart !== undefined) {
    if (restart.policy !== '') oneOf(restart.policy, restartPolicies, `${field}.restart.policy`);
    within(restart.maxRetries, 0, 1000, `${field}.restart.max_retries`);
  }
  if (stopConfig === undefined) return;
  if (stopConfig.signal !== '') checkSignal(stopConfig.signal, `${field}.stop_config.signal`);
  const timeoutMs = durationToMs(stopConfig.timeout) ?? 0;
  if (timeoutMs >= 0 && timeoutMs <= stopTimeoutMsMax) return;
  throw invalidArgument(`${field}.stop_config.timeout`, `is ${timeoutMs / 1000} s`, '0 s to 300 s');
}

function checkCommand({ image, init }: MachineConfig, field: string): void {
  const words = [image, ...(init?.exec ?? []), ...(init?.entrypoint ?? []), ...(init?.cmd ?? [])];
  if (words.every((word) => word === '')) {
    throw invalidArgument(`${field}.image`, 'is empty', 'an executable, or a command in init.exec');
  }
  if (words.some((word) => word.includes('\0'))) {
    throw invalidArgument(`${field}.init`, 'has a NUL character', 'words without NUL');
  }
  if (words.join(' ').length > textMax) throw invalidArgument(`${field}.init`, 'is too long', `${textMax} characters`);
}

function checkEnvironment(env: Readonly<Record<string, string>>, field: string): void {
  let bytes = 0;
  for (const [name, value] of Object.entries(env)) {
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) {
      throw invalidArgument(field, `has the name ${JSON.stringify(name)}`, 'names of A-Z, a-z, 0-9 and "_"');
    }
    if (/^ferry_/i.test(name)) {
      throw invalidArgument(`${field}.${name}`, 'is given', 'names that do not begin with FERRY_, which Ferry sets');
    }
    if (value.includes('\0')) throw invalidArgument(`${field}.${name}`, 'has a NUL character', 'text without NUL');
    bytes += name.length + Buffer.byteLength(value) + 2;
  }
  if (bytes > environmentBytesMax) {
    throw invalidArgument(field, `has ${bytes} bytes`, `at most ${environmentBytesMax} bytes`);
  }
}

function checkMounts({ mounts }: MachineConfig, field: string): void {
  if (mounts.length > 1) throw invalidArgument(field, `has ${mounts.length} entries`, 'at most one volume');
  for (const { volume, path, name, sizeGb } of mounts) {
    const at = `${field}[0]`;
    if (!/^\/[^\0]*$/.test(path) || path.split('/').includes('..')) {
      throw invalidArgument(`${at}.path`, `is ${JSON.stringify(path)}`, 'an absolute path such as "/data"');
    }
    if (volume !== '' && !idPatterns.volume.pattern.test(volume)) {
      throw invalidArgument(`${at}.volume`, `is ${JSON.stringify(volume)}`, idPatterns.volume.shape);
    }
    if (name !== '' && !/^[a-z0-9][a-z0-9_-]{0,62}$/.test(name)) {
      throw invalidArgument(`${at}.name`, `is ${JSON.stringify(name)}`, '1 to 63 characters of a-z, 0-9, "_" and "-"');
    }
    within(sizeGb, 0, sizeGbMax, `${at}.size_gb`);
    if (volume === '' && sizeGb === 0) {
      throw invalidArgument(`${at}.size_gb`, 'is missing', 'the size of the volume to create, or an existing volume');
    }
  }
}

function checkCheck(check: Check, field: string): void {
  oneOf(check.type, checkTypes, `${field}.type`);
  within(check.port, 1, 65_535, `${field}.port`);
  if (check.method !== '') oneOf(check.method.toUpperCase(), methods, `${field}.method`);
  if (check.path !== '' && !/^\/[\x21-\x7e]*$/.test(check.path)) {
    throw invalidArgument(`${field}.path`, `is ${JSON.stringify(check.path)}`, 'a path that begins with "/"');
  }
  const times = [
    ['interval', check.interval, checkMsMin],
    ['timeout', check.timeout, checkMsMin],
    ['grace_period', check.gracePeriod, 0],
  ] as const;
  for (const [name, value, msMin] of times) {
    const ms = durationToMs(value);
    if (ms === undefined || (ms >= msMin && ms <= checkMsMax)) continue;
    throw invalidArgument(`${field}.${name}`, `is ${ms} ms`, `${msMin} ms to ${checkMsMax / 1000} s`);
  }
}

function oneOf(value: string, allowed: readonly string[], field: string): string {
  if (allowed.includes(value)) return value;
  throw invalidArgument(field, `is ${JSON.stringify(value)}`, `one of ${allowed.join(', ')}`);
}

function within(value: number, min: number, max: number, field: string): number {
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  throw invalidArgument(field, `is ${value}`, `a whole number from ${min} to ${max}`);
}

function atMost(list: readonly unknown[], max: number, field: string): void {
  if (list.length > max) throw invalidArgument(field, `has ${list.length} entries`, `at most ${max}`);
}

// ---- readers of plain data ----------------------------------------------------------------------------------------

/** A table of a file, with its place for messages. Fields that nobody asked for are errors. */
class Table {
  readonly #data: Readonly<Record<string, unknown>>;
  readonly #path: string;

  constructor(value: unknown, path: string, known: readonly string[]) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw invalidArgument(path || 'file', `is ${kindOf(value)}`, 'a table of fields');
    }
    this.#data = value as Record<string, unknown>;
    this.#path = path;
    for (const field of Object.keys(value)) {
      if (known.includes(field)) continue;
      const near = nearest(field, known);
      const hint = near === undefined ? `one of ${known.join(', ')}` : `${near}, perhaps?`;
      throw invalidArgument(this.at(field), 'is not a field of Ferry', hint);
    }
  }

  at(field: string): string {
    return this.#path === '' ? field : `${this.#path}.${field}`;
  }

  has(field: string): boolean {
    return this.#data[field] !== undefined && this.#data[field] !== null;
  }

  raw(field: string): unknown {
    return this.#data[field];
  }

  text(field: string): string {
    return this.#typed(field, '', (value) => typeof value === 'string', 'a text') as string;
  }

  number(field: string): number {
    const whole = (value: unknown) => typeof value === 'number' && Number.isInteger(value) && value >= 0;
    return this.#typed(field, 0, whole, 'a whole number, not negative') as number;
  }

  flag(field: string): boolean {
    return this.#typed(field, false, (value) => typeof value === 'boolean', 'true or false') as boolean;
  }

  texts(field: string): string[] {
    const texts = (value: unknown) => Array.isArray(value) && value.every((each) => typeof each === 'string');
    return this.#typed(field, [], texts, 'a list of texts') as string[];
  }

  textMap(field: string): Record<string, string> {
    if (!this.has(field)) return {};
    const table = this.#data[field];
    if (typeof table !== 'object' || Array.isArray(table)) throw this.#wrong(field, 'a table of texts');
    return Object.fromEntries(
      Object.entries(table as object).map(([name, value]) => {
        const scalar = typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean';
        if (!scalar) throw invalidArgument(`${this.at(field)}.${name}`, `is ${kindOf(value)}`, 'a text');
        return [name, String(value)];
      }),
    );
  }

  duration(field: string) {
    return this.has(field) ? durationFromMs(parseDurationMs(this.#data[field], this.at(field))) : undefined;
  }

  table(field: string, known: readonly string[]): Table | undefined {
    return this.has(field) ? new Table(this.#data[field], this.at(field), known) : undefined;
  }

  tables(field: string, known: readonly string[]): Table[] {
    if (!this.has(field)) return [];
    const list = this.#data[field];
    if (!Array.isArray(list)) throw this.#wrong(field, 'a list of tables');
    atMost(list, listMax, this.at(field));
    return list.map((each, index) => new Table(each, `${this.at(field)}[${index}]`, known));
  }

  named(field: string, known: readonly string[]): [string, Table][] {
    if (!this.has(field)) return [];
    const table = this.#data[field];
    if (typeof table !== 'object' || Array.isArray(table)) throw this.#wrong(field, 'a table of tables');
    return Object.entries(table as object).map(([name, value]) => [
      name,
      new Table(value, `${this.at(field)}.${name}`, known),
    ]);
  }

  #typed(field: string, fallback: unknown, fits: (value: unknown) => boolean, expected: string): unknown {
    if (!this.has(field)) return fallback;
    if (fits(this.#data[field])) return this.#data[field];
    throw this.#wrong(field, expected);
  }

  #wrong(field: string, expected: string): FerryError {
    return invalidArgument(this.at(field), `is ${kindOf(this.#data[field])}`, expected);
  }
}

function kindOf(value: unknown): string {
  return (JSON.stringify(value) ?? 'missing').slice(0, 80);
}

/** The known field that is closest in spelling, if one is close. */
function nearest(field: string, known: readonly string[]): string | undefined {
  const ranked = known.map((each) => ({ each, distance: editDistance(field.toLowerCase(), each) }));
  const best = ranked.sort((a, b) => a.distance - b.distance)[0];
  return best !== undefined && best.distance <= Math.max(2, field.length / 3) ? best.each : undefined;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (const [i, letter] of [...a.slice(0, 64)].entries()) {
    const next = [i + 1];
    for (let j = 0; j < b.length; j += 1) {
      next.push(Math.min(next[j]! + 1, row[j + 1]! + 1, row[j]! + (letter === b[j] ? 0 : 1)));
    }
    row = next;
  }
  return row.at(-1)!;
}

// ---- Machines API JSON --------------------------------------------------------------------------------------------

const configFields = [
  'image',
  'env',
  'init',
  'guest',
  'metadata',
  'mounts',
  'services',
  'checks',
  'restart',
  'stop_config',
  'auto_destroy',
  'dns',
];
const checkFields = ['type', 'port', 'interval', 'timeout', 'grace_period', 'method', 'path'];

/** Reads a parsed Machines API JSON: `{name, region, config: {...}}`, or the config alone. */
export function parseMachineJson(json: unknown): MachineFile {
  const wrapped = typeof json === 'object' && json !== null && 'config' in json;
  if (!wrapped)
    return { name: '', app: '', region: '', config: readConfig(new Table(json, '', configFields), 'config') };
  const file = new Table(json, '', ['name', 'app', 'region', 'config']);
  return {
    name: file.text('name'),
    app: file.text('app'),
    region: file.text('region'),
    config: readConfig(new Table(file.raw('config'), 'config', configFields), 'config'),
  };
}

function readConfig(table: Table, field: string): MachineConfig {
  const init = table.table('init', ['exec', 'entrypoint', 'cmd', 'tty']);
  const guest = table.table('guest', ['cpu_kind', 'cpus', 'memory_mb']);
  const restart = table.table('restart', ['policy', 'max_retries']);
  const stop = table.table('stop_config', ['signal', 'timeout']);
  const dns = table.table('dns', ['skip_registration']);
  const config = create(MachineConfigSchema, {
    image: table.text('image'),
    env: table.textMap('env'),
    metadata: table.textMap('metadata'),
    autoDestroy: table.flag('auto_destroy'),
    mounts: table.tables('mounts', ['volume', 'path', 'name', 'size_gb']).map((mount) => ({
      volume: mount.text('volume'),
      path: mount.text('path'),
      name: mount.text('name'),
      sizeGb: mount.number('size_gb'),
    })),
    services: table.tables('services', ['protocol', 'internal_port']).map((service) => ({
      protocol: service.text('protocol'),
      internalPort: service.number('internal_port'),
    })),
    checks: Object.fromEntries(table.named('checks', checkFields).map(([name, check]) => [name, readCheck(check)])),
    ...(init && {
      init: {
        exec: init.texts('exec'),
        entrypoint: init.texts('entrypoint'),
        cmd: init.texts('cmd'),
        tty: init.flag('tty'),
      },
    }),
    ...(guest && {
      guest: { cpuKind: guest.text('cpu_kind'), cpus: guest.number('cpus'), memoryMb: guest.number('memory_mb') },
    }),
    ...(restart && { restart: { policy: restart.text('policy'), maxRetries: restart.number('max_retries') } }),
    ...(stop && { stopConfig: { signal: stop.text('signal'), ...given('timeout', stop.duration('timeout')) } }),
    ...(dns && { dns: { skipRegistration: dns.flag('skip_registration') } }),
  });
  checkMachineConfig(config, field);
  return config;
}

function readCheck(table: Table): MessageInitShape<typeof CheckSchema> {
  return {
    type: table.text('type'),
    port: table.number('port'),
    method: table.text('method'),
    path: table.text('path'),
    ...given('interval', table.duration('interval')),
    ...given('timeout', table.duration('timeout')),
    ...given('gracePeriod', table.duration('grace_period')),
  };
}

function given<Name extends string, Value>(name: Name, value: Value | undefined) {
  return (value === undefined ? {} : { [name]: value }) as { [K in Name]?: Value };
}

// ---- fly.toml -----------------------------------------------------------------------------------------------------

const flyFields = [
  'app',
  'primary_region',
  'kill_signal',
  'kill_timeout',
  'build',
  'mounts',
  'env',
  'processes',
  'vm',
  'checks',
  'http_service',
  'services',
  'restart',
];
const flyMountFields = ['source', 'destination', 'initial_size', 'processes'];
const flyHttpFields = ['internal_port', 'processes'];
const flyServiceFields = ['protocol', 'internal_port', 'processes', 'ports'];
const flyVmFields = ['memory', 'memory_mb', 'cpus', 'cpu_kind', 'size', 'processes'];

/** Reads the text of a `fly.toml`. The command is `[processes]`' only one, or [build].image; `group` chooses among several. */
export function parseFlyToml(text: string, group = ''): MachineFile {
  const file = new Table(readToml(text), '', flyFields);
  const command = processOf(file, group);
  const stops = file.has('kill_signal') || file.has('kill_timeout');
  const vm = vmOf(file);
  const restart = (file.has('restart') ? asList(file, 'restart') : []).map(
    (table, index) => new Table(table, `restart[${index}]`, ['policy', 'retries', 'processes']),
  )[0];
  const config = create(MachineConfigSchema, {
    image: file.table('build', ['image'])?.text('image') ?? '',
    env: file.textMap('env'),
    metadata: group === '' ? {} : { process_group: group },
    mounts: asList(file, 'mounts').map((each, index) => {
      const mount = new Table(each, `mounts[${index}]`, flyMountFields);
      return {
        name: mount.text('source'),
        path: mount.text('destination'),
        sizeGb: gigabytes(mount, 'initial_size') || 1,
      };
    }),
    services: servicesOf(file),
    checks: Object.fromEntries(
      file.named('checks', [...checkFields, 'processes']).map(([name, check]) => [name, readCheck(check)]),
    ),
    ...(command.length > 0 && { init: { cmd: command } }),
    ...(vm && { guest: vm }),
    ...(restart && { restart: { policy: restart.text('policy'), maxRetries: restart.number('retries') } }),
    ...(stops && {
      stopConfig: { signal: file.text('kill_signal'), ...given('timeout', killTimeout(file)) },
    }),
  });
  checkMachineConfig(config, 'fly.toml');
  return { name: '', app: file.text('app'), region: file.text('primary_region'), config };
}

function readToml(text: string): unknown {
  try {
    return parseToml(text);
  } catch (error) {
    throw new FerryError('invalid_argument', `fly.toml: ${error instanceof Error ? error.message : String(error)}`, {
      field: 'fly.toml',
      expected: 'a file in TOML',
      cause: error,
    });
  }
}

/** fly.toml counts seconds where it gives a bare number; the Machines API counts nanoseconds. */
function killTimeout(file: Table) {
  const seconds = file.raw('kill_timeout');
  return typeof seconds === 'number' ? durationFromMs(seconds * 1000) : file.duration('kill_timeout');
}

function processOf(file: Table, group: string): string[] {
  const processes = file.textMap('processes');
  const names = Object.keys(processes);
  const chosen = group === '' && names.length === 1 ? names[0]! : group;
  if (chosen === '' && names.length === 0) return [];
  const command = processes[chosen];
  if (command === undefined) {
    const expected = names.length === 0 ? 'no process group' : `one of ${names.join(', ')}`;
    throw invalidArgument('processes', chosen === '' ? `has ${names.length} groups` : `has no ${chosen}`, expected);
  }
  return splitCommand(command, `processes.${chosen}`);
}

/** Splits a command line at blanks; single and double quotes keep blanks together. */
function splitCommand(line: string, field: string): string[] {
  const words = [...line.matchAll(/(?:[^\s"']+|"[^"]*"|'[^']*')+/g)].map(([word]) =>
    word.replace(/"([^"]*)"|'([^']*)'/g, (_, double?: string, single?: string) => double ?? single ?? ''),
  );
  const quotes = line.replace(/"[^"]*"|'[^']*'/g, '');
  if (/["']/.test(quotes)) throw invalidArgument(field, 'has a quote that does not end', 'quotes in pairs');
  return words;
}

/** fly.toml writes one table or a list of tables for the same thing. */
function asList(file: Table, field: string): unknown[] {
  const value = file.raw(field);
  if (value === undefined) return [];
  return Array.isArray(value) ? value : [value];
}

function servicesOf(file: Table): MessageInitShape<typeof MachinePortSchema>[] {
  const http = file.table('http_service', flyHttpFields);
  const services = file.tables('services', flyServiceFields);
  return [
    ...(http === undefined ? [] : [{ protocol: 'tcp', internalPort: http.number('internal_port') }]),
    ...services.map((service) => ({
      protocol: service.text('protocol') || 'tcp',
      internalPort: service.number('internal_port'),
    })),
  ];
}

function vmOf(file: Table) {
  const tables = asList(file, 'vm').map((each, index) => new Table(each, `vm[${index}]`, flyVmFields));
  const vm = tables[0];
  if (vm === undefined) return undefined;
  if (vm.has('size')) throw invalidArgument('vm[0].size', 'is given', 'memory and cpus: Ferry has no size names');
  const memoryMb = vm.has('memory') ? megabytes(vm, 'memory') : vm.number('memory_mb');
  return { cpuKind: vm.text('cpu_kind'), cpus: vm.number('cpus'), memoryMb };
}

const sizeUnits: Readonly<Record<string, number>> = {
  '': 1,
  m: 1,
  mb: 1,
  g: 1024,
  gb: 1024,
  t: 1_048_576,
  tb: 1_048_576,
};

/** Megabytes of "512", 512, "512mb" or "1gb". */
function megabytes(table: Table, field: string, bareFactor = 1): number {
  const value = table.raw(field);
  const match = /^(\d+)\s*([a-z]*)$/i.exec(String(value).trim());
  const unit = match?.[2]?.toLowerCase() ?? '?';
  const factor = unit === '' ? bareFactor : sizeUnits[unit];
  if (match === null || factor === undefined) {
    throw invalidArgument(table.at(field), `is ${kindOf(value)}`, 'a size such as "512mb" or "1gb"');
  }
  return Number(match[1]) * factor;
}

/** Gigabytes, rounded up; a bare number counts gigabytes. */
function gigabytes(table: Table, field: string): number {
  return table.has(field) ? Math.ceil(megabytes(table, field, 1024) / 1024) : 0;
}
