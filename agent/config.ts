import { join, resolve } from 'node:path';
import { invalidArgument } from '../shared/error.ts';
import { type Flag, type ListenAddress, parseFlagDurationMs, parseFlags, parseListen } from '../shared/flags.ts';
import { checkId } from '../shared/ids.ts';

/** Flags of `ferry agent`. */
export const agentFlags = {
  host: { value: 'NAME', help: 'name of this host' },
  'data-dir': { value: 'DIR', help: 'journal, volumes and Machines of this host' },
  coordinator: { value: 'HOST:PORT', help: 'coordinator to report to; several with commas', default: '127.0.0.1:7400' },
  region: { value: 'NAME', help: 'region of this host', default: 'local' },
  listen: { value: 'HOST:PORT', help: 'where orders arrive; port 0 = any', default: '127.0.0.1:0' },
  'stream-listen': { value: 'HOST:PORT', help: 'where other agents read volumes', default: '127.0.0.1:0' },
  'nbd-listen': { value: 'HOST:PORT', help: 'where NBD tools read exported volumes', default: '127.0.0.1:0' },
  'dns-listen': {
    value: 'HOST:PORT',
    help: 'where names are answered; several with commas; [fdaa::3]:53 needs root; "" = nowhere',
    default: '127.0.0.1:0',
  },
  'tls-cert': { value: 'FILE', help: 'certificate (PEM) for the volume streams', default: '' },
  'tls-key': { value: 'FILE', help: 'its key (PEM)', default: '' },
  'tls-ca': { value: 'FILE', help: 'authority (PEM) that signs the certificates of agents', default: '' },
  'import-dir': {
    value: 'DIR',
    help: 'disk images in it may become volumes (default: "import" in the data folder)',
    default: '',
  },
  retention: { value: 'TIME', help: 'how long a copy is kept after its Machine moved away', default: '7d' },
  'driver-silence': {
    value: 'TIME',
    help: 'a Machine stopped for a migration that nobody drives starts again after this',
    default: '60s',
  },
  'prepared-expiry': {
    value: 'TIME',
    help: 'a prepared copy that nobody drives is declined after this',
    default: '10m',
  },
  'start-deadline': { value: 'TIME', help: 'a moved Machine must be healthy within this', default: '60s' },
  'log-level': { value: 'LEVEL', help: 'trace, debug, info, warn, error', default: 'info' },
} as const satisfies Record<string, Flag>;

/** Certificate files of the volume streams. */
export interface TlsFiles {
  readonly certPath: string;
  readonly keyPath: string;
  readonly caPath: string;
}

/** How an agent runs. */
export interface AgentConfig {
  readonly hostId: string;
  readonly region: string;
  readonly dataDir: string;
  /** Disk images in it may become volumes. */
  readonly importDir: string;
  readonly coordinators: readonly string[];
  readonly listen: ListenAddress;
  readonly streamListen: ListenAddress;
  readonly nbdListen: ListenAddress;
  readonly dnsListen: readonly ListenAddress[];
  readonly tls: TlsFiles | null;
  readonly retentionMs: number;
  readonly driverSilenceMs: number;
  readonly preparedExpiryMs: number;
  readonly startDeadlineMs: number;
  readonly logLevel: string;
}

/** The resolver's own 6PN address; it is put on the loopback interface only. */
export const resolverIp = 'fdaa::3';

const dayMs = 86_400_000;
const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'];

/** Reads the command line of `ferry agent`. Throws invalid_argument naming the flag. */
export function parseAgentConfig(
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): AgentConfig {
  const flags = parseFlags(agentFlags, argv, env, 'AGENT');
  const coordinators = flags.coordinator.split(',').filter((address) => address !== '');
  for (const address of coordinators) {
    if (!/^[^\s:]+:\d{1,5}$/.test(address))
      throw invalidArgument('--coordinator', `has ${JSON.stringify(address)}`, 'HOST:PORT, several with commas');
  }
  if (!logLevels.includes(flags['log-level'])) {
    throw invalidArgument('--log-level', `is ${JSON.stringify(flags['log-level'])}`, `one of ${logLevels.join(', ')}`);
  }
  const dataDir = resolve(flags['data-dir']);
  return {
    hostId: checkId('name', flags.host, '--host'),
    region: checkId('name', flags.region, '--region'),
    dataDir,
    importDir: flags['import-dir'] === '' ? join(dataDir, 'import') : resolve(flags['import-dir']),
    coordinators,
    listen: parseListen(flags.listen, 'listen'),
    streamListen: parseListen(flags['stream-listen'], 'stream-listen'),
    nbdListen: parseListen(flags['nbd-listen'], 'nbd-listen'),
    dnsListen: flags['dns-listen']
      .split(',')
      .filter((each) => each !== '')
      .map(parseDnsListen),
    tls: parseTls(flags['tls-cert'], flags['tls-key'], flags['tls-ca']),
    retentionMs: parseFlagDurationMs(flags.retention, 'retention', 0, 365 * dayMs),
    driverSilenceMs: parseFlagDurationMs(flags['driver-silence'], 'driver-silence', 1000, dayMs),
    preparedExpiryMs: parseFlagDurationMs(flags['prepared-expiry'], 'prepared-expiry', 1000, dayMs),
    startDeadlineMs: parseFlagDurationMs(flags['start-deadline'], 'start-deadline', 1000, dayMs),
    logLevel: flags['log-level'],
  };
}

function parseDnsListen(text: string): ListenAddress {
  const port = /^\[fdaa::3\]:(\d{1,5})$/.exec(text)?.[1];
  if (port === undefined) return parseListen(text, 'dns-listen');
  return { ...parseListen(`[::1]:${port}`, 'dns-listen'), host: resolverIp };
}

function parseTls(certPath: string, keyPath: string, caPath: string): TlsFiles | null {
  const given = [certPath, keyPath, caPath].filter((path) => path !== '').length;
  if (given === 0) return null;
  if (given < 3) throw invalidArgument('--tls-cert, --tls-key, --tls-ca', 'are not all given', 'all three, or none');
  return { certPath: resolve(certPath), keyPath: resolve(keyPath), caPath: resolve(caPath) };
}
