import { create } from '@bufbuild/protobuf';
import { describe, expect, test } from 'vitest';
import { MachineConfigSchema } from '../proto/gen/ferry/v1/machine_pb.ts';
import { durationToMs } from './duration.ts';
import { FerryError } from './error.ts';
import { checkMachineConfig, normalizeConfig, parseFlyToml, parseMachineJson } from './machine-config.ts';

function refusal(work: () => unknown): FerryError {
  try {
    work();
  } catch (error) {
    if (error instanceof FerryError) return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

const full = {
  name: 'ledger',
  region: 'ams',
  config: {
    image: '/usr/bin/redis-server',
    env: { LOG: 'debug', PORT: 6379 },
    init: { cmd: ['--port', '6379'] },
    guest: { cpu_kind: 'shared', cpus: 1, memory_mb: 256 },
    metadata: { role: 'primary' },
    mounts: [{ path: '/data', name: 'data', size_gb: 1 }],
    services: [{ protocol: 'tcp', internal_port: 6379 }],
    checks: { alive: { type: 'tcp', port: 6379, interval: '15s', timeout: 2_000_000_000 } },
    restart: { policy: 'always', max_retries: 3 },
    stop_config: { signal: 'SIGTERM', timeout: '1m30s' },
    auto_destroy: true,
    dns: { skip_registration: true },
  },
};

describe('Machines API JSON', () => {
  test('is read with all its fields; times as text or nanoseconds', () => {
    const { name, app, region, config } = parseMachineJson(full);
    expect([name, app, region]).toEqual(['ledger', '', 'ams']);
    expect(config).toMatchObject({
      image: '/usr/bin/redis-server',
      env: { LOG: 'debug', PORT: '6379' },
      init: { cmd: ['--port', '6379'] },
      guest: { cpuKind: 'shared', cpus: 1, memoryMb: 256 },
      metadata: { role: 'primary' },
      mounts: [{ path: '/data', name: 'data', sizeGb: 1 }],
      services: [{ protocol: 'tcp', internalPort: 6379 }],
      restart: { policy: 'always', maxRetries: 3 },
      autoDestroy: true,
      dns: { skipRegistration: true },
    });
    expect(durationToMs(config.stopConfig?.timeout)).toBe(90_000);
    expect(durationToMs(config.checks.alive?.interval)).toBe(15_000);
    expect(durationToMs(config.checks.alive?.timeout)).toBe(2000);
  });

  test('may be the config alone', () => {
    expect(parseMachineJson({ image: '/bin/true' }).config.image).toBe('/bin/true');
  });

  test.each([
    [{ image: '/bin/true', stopConfig: {} }, 'stopConfig', 'stop_config, perhaps?'],
    [{ image: '/bin/true', stop_config: { signl: 'SIGTERM' } }, 'stop_config.signl', 'signal, perhaps?'],
    [{ config: { image: '/bin/true', zzzzzzzzzz: 1 } }, 'config.zzzzzzzzzz', 'one of image'],
    [{ config: { image: 7 } }, 'config.image', 'a text'],
    [{ config: { image: '/bin/true', mounts: { path: '/data' } } }, 'config.mounts', 'a list of tables'],
    [{ config: { image: '/bin/true', env: { A: {} } } }, 'config.env.A', 'a text'],
    [{ config: { image: '/bin/true', guest: { cpus: 1.5 } } }, 'config.guest.cpus', 'a whole number'],
    [{ config: { image: '/bin/true', stop_config: { timeout: 'soon' } } }, 'config.stop_config.timeout', 'a time'],
    [{ config: null }, 'config', 'a table of fields'],
    ['nonsense', 'file', 'a table of fields'],
  ])('refuses %j', (json, field, expected) => {
    const error = refusal(() => parseMachineJson(json));
    expect(error).toMatchObject({ reason: 'invalid_argument', field });
    expect(error.expected).toContain(expected);
  });
});

describe('a config', () => {
  const config = (init: Parameters<typeof create<typeof MachineConfigSchema>>[1]) =>
    create(MachineConfigSchema, { image: '/bin/true', ...init });

  test.each([
    ['config.image', { image: '' }],
    ['config.stop_config.signal', { stopConfig: { signal: 'SIGSTOP' } }],
    ['config.stop_config.timeout', { stopConfig: { timeout: { seconds: 301n } } }],
    ['config.stop_config.timeout', { stopConfig: { timeout: { seconds: -1n } } }],
    ['config.restart.policy', { restart: { policy: 'sometimes' } }],
    ['config.checks.a.type', { checks: { a: { type: 'grpc', port: 1 } } }],
    ['config.checks.a.port', { checks: { a: { type: 'tcp', port: 0 } } }],
    ['config.checks.a.port', { checks: { a: { type: 'tcp', port: 70_000 } } }],
    ['config.checks.a.path', { checks: { a: { type: 'http', port: 1, path: 'x' } } }],
    ['config.checks.a.method', { checks: { a: { type: 'http', port: 1, method: 'BREW' } } }],
    ['config.checks.a.interval', { checks: { a: { type: 'tcp', port: 1, interval: { nanos: 1 } } } }],
    [
      'config.mounts',
      {
        mounts: [
          { path: '/a', sizeGb: 1 },
          { path: '/b', sizeGb: 1 },
        ],
      },
    ],
    ['config.mounts[0].path', { mounts: [{ path: 'data', sizeGb: 1 }] }],
    ['config.mounts[0].path', { mounts: [{ path: '/data/../etc', sizeGb: 1 }] }],
    ['config.mounts[0].size_gb', { mounts: [{ path: '/data' }] }],
    ['config.mounts[0].volume', { mounts: [{ path: '/data', volume: '../x' }] }],
    ['config.env', { env: { 'A-B': '' } }],
    ['config.env.FERRY_REGION', { env: { FERRY_REGION: 'x' } }],
    ['config.env.A', { env: { A: 'a\0b' } }],
    ['config.init.tty', { init: { tty: true } }],
    ['config.guest.cpu_kind', { guest: { cpuKind: 'imaginary' } }],
    ['config.services[0].internal_port', { services: [{ protocol: 'tcp' }] }],
    ['config.services[0].protocol', { services: [{ protocol: 'sctp', internalPort: 1 }] }],
  ])('is refused for %s', (field, init) => {
    const error = refusal(() => checkMachineConfig(config(init as never)));
    expect(error).toMatchObject({ reason: 'invalid_argument', field });
    expect(error.expected).not.toBe('');
  });

  test('gets its defaults, and keeps what it says', () => {
    const { stopConfig, restart } = normalizeConfig(config({}));
    expect(stopConfig?.signal).toBe('SIGINT');
    expect(durationToMs(stopConfig?.timeout)).toBe(5000);
    expect(restart).toMatchObject({ policy: 'on-failure', maxRetries: 10 });
    const said = normalizeConfig(config({ stopConfig: { timeout: { seconds: 0n } }, restart: { policy: 'no' } }));
    expect(durationToMs(said.stopConfig?.timeout)).toBe(0);
    expect(said.restart?.policy).toBe('no');
  });
});

describe('fly.toml', () => {
  const text = `
    app = "ledger"
    primary_region = "ams"
    kill_signal = "SIGTERM"
    kill_timeout = 30
    [build]
      image = "/opt/ledger/server"
    [env]
      PORT = "8080"
    [processes]
      web = "serve --title 'two words' --port 8080"
    [mounts]
      source = "data"
      destination = "/data"
      initial_size = "3gb"
    [[vm]]
      memory = "1gb"
      cpus = 2
    [checks.alive]
      type = "http"
      port = 8080
      path = "/health"
      interval = "15s"
    [http_service]
      internal_port = 8080
    [[services]]
      internal_port = 9090
  `;

  test('becomes a config', () => {
    const { app, region, config } = parseFlyToml(text);
    expect([app, region]).toEqual(['ledger', 'ams']);
    expect(config).toMatchObject({
      image: '/opt/ledger/server',
      init: { cmd: ['serve', '--title', 'two words', '--port', '8080'] },
      env: { PORT: '8080' },
      mounts: [{ name: 'data', path: '/data', sizeGb: 3 }],
      guest: { memoryMb: 1024, cpus: 2 },
      services: [
        { protocol: 'tcp', internalPort: 8080 },
        { protocol: 'tcp', internalPort: 9090 },
      ],
      stopConfig: { signal: 'SIGTERM' },
    });
    expect(durationToMs(config.stopConfig?.timeout)).toBe(30_000);
    expect(config.checks.alive).toMatchObject({ type: 'http', port: 8080, path: '/health' });
  });

  test.each([
    ['kil_signal = "SIGTERM"', 'kil_signal', 'kill_signal, perhaps?'],
    ['[mounts]\nsource = "d"\ndestination = "data"\n[build]\nimage = "x"', 'fly.toml.mounts[0].path', 'absolute'],
    ['[[vm]]\nmemory = "lots"\n', 'vm[0].memory', '512mb'],
    ['[processes]\na = "x"\nb = "y"', 'processes', 'one of a, b'],
    ['[processes]\na = "x \'y"', 'processes.a', 'quotes'],
    ['app = ', 'fly.toml', 'TOML'],
  ])('%j is refused', (toml, field, expected) => {
    const error = refusal(() => parseFlyToml(toml));
    expect(error).toMatchObject({ reason: 'invalid_argument', field });
    expect(error.expected).toContain(expected);
  });

  test('one of several process groups is chosen', () => {
    expect(parseFlyToml('[processes]\na = "x"\nb = "y z"', 'b').config.init?.cmd).toEqual(['y', 'z']);
  });
});
