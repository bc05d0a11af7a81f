import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { describe, expect, test } from 'vitest';
import { MachineConfigSchema } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { durationFromMs } from '../../shared/duration.ts';
import { readConfig } from './config.ts';
import { buildEnvironment, workingDirectory } from './environment.ts';

type Shape = MessageInitShape<typeof MachineConfigSchema>;
const read = (config: Shape) => readConfig(create(MachineConfigSchema, config));

describe('defaults', () => {
  test('of an almost empty config', () => {
    expect(read({ image: 'redis-server' })).toEqual({
      rules: { policy: 'on-failure', restartsMax: 10, stopSignal: 'SIGINT', stopTimeoutMs: 5_000, autoDestroy: false },
      command: ['redis-server'],
      memoryMb: null,
      checks: [],
    });
  });

  test('of a check', () => {
    expect(read({ image: 'x', checks: { web: { type: 'http', port: 80 } } }).checks).toEqual([
      {
        name: 'web',
        type: 'http',
        port: 80,
        intervalMs: 2_000,
        timeoutMs: 2_000,
        gracePeriodMs: 1_000,
        method: 'GET',
        path: '/',
      },
    ]);
  });
});

test('the command: exec replaces everything, else image, entrypoint, cmd', () => {
  expect(read({ image: 'a', init: { entrypoint: ['b'], cmd: ['c', 'd'] } }).command).toEqual(['a', 'b', 'c', 'd']);
  expect(read({ image: 'a', init: { exec: ['e', 'f'], cmd: ['c'] } }).command).toEqual(['e', 'f']);
  expect(read({ init: { entrypoint: ['b'], cmd: ['c'] } }).command).toEqual(['b', 'c']);
});

const wrong: [string, Shape, string][] = [
  ['no command', {}, 'config.image'],
  ['a terminal', { image: 'x', init: { tty: true } }, 'config.init.tty'],
  ['two volumes', { image: 'x', mounts: [{}, {}] }, 'config.mounts'],
  ['an unknown signal', { image: 'x', stopConfig: { signal: 'SIGFOO' } }, 'config.stop_config.signal'],
  ['a long timeout', { image: 'x', stopConfig: { timeout: durationFromMs(301_000) } }, 'config.stop_config.timeout'],
  ['an unknown policy', { image: 'x', restart: { policy: 'maybe' } }, 'config.restart.policy'],
  ['a variable of ours', { image: 'x', env: { FERRY_REGION: 'x' } }, 'config.env'],
  ['a variable that sh would drop', { image: 'x', env: { 'a-b': 'x' } }, 'config.env'],
  ['an unknown check', { image: 'x', checks: { c: { type: 'icmp', port: 1 } } }, 'config.checks.c.type'],
  ['a check without a port', { image: 'x', checks: { c: { type: 'tcp' } } }, 'config.checks.c.port'],
  ['a relative path', { image: 'x', checks: { c: { type: 'http', port: 1, path: 'up' } } }, 'config.checks.c.path'],
  ['another method', { image: 'x', checks: { c: { type: 'http', port: 1, method: 'X' } } }, 'config.checks.c.method'],
];

test.each(wrong)('refuses %s, naming the field', (_, config, field) => {
  expect(() => read(config)).toThrow(expect.objectContaining({ reason: 'invalid_argument', field }));
});

test('the environment: what the config says, and where the Machine is', () => {
  const config = create(MachineConfigSchema, {
    image: '/bin/ledger',
    env: { MODE: 'fast' },
    guest: { memoryMb: 256 },
    metadata: { process_group: 'web' },
  });
  const placement = { appName: 'shop', machineId: 'm', region: 'ams', privateIp: 'fdaa::1', bindIp: '127.1.2.3' };
  const volume = { path: '/mnt/v', kind: 'ext4' } as const;
  expect(buildEnvironment(config, placement, 'I', volume)).toEqual({
    MODE: 'fast',
    FERRY_APP_NAME: 'shop',
    FERRY_MACHINE_ID: 'm',
    FERRY_INSTANCE_ID: 'I',
    FERRY_REGION: 'ams',
    FERRY_PRIVATE_IP: 'fdaa::1',
    FERRY_BIND_IP: '127.1.2.3',
    FERRY_PROCESS_GROUP: 'web',
    FERRY_IMAGE_REF: '/bin/ledger',
    FERRY_VM_MEMORY_MB: '256',
    FERRY_VOLUME_PATH: '/mnt/v',
    FERRY_VOLUME_KIND: 'ext4',
  });
  expect(buildEnvironment(config, placement, 'I', null)).not.toHaveProperty('FERRY_VOLUME_PATH');
  expect([workingDirectory(volume), workingDirectory({ path: '/v.img', kind: 'raw' })]).toEqual(['/mnt/v', '/']);
});
