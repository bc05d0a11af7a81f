import { resolve } from 'node:path';
import { expect, test } from 'vitest';
import { parseCoordinatorConfig } from './config.ts';

test('defaults, flags, environment', () => {
  expect(parseCoordinatorConfig(['--data-dir', 'x'], {})).toEqual({
    dataDir: resolve('x'),
    listen: { host: '127.0.0.1', port: 7400 },
    heartbeatIntervalMs: 2000,
    startDeadlineMs: 60_000,
    concurrentMax: 64,
    drainTotal: 16,
    drainPerDestination: 4,
    downtimeBudgetMs: 300,
    store: { kind: 'sqlite' },
    storePasswordFile: '',
    id: '',
    leaseMs: 15_000,
    logLevel: 'info',
  });
  const env = { FERRY_COORDINATOR_DATA_DIR: '/e', FERRY_COORDINATOR_LISTEN: '127.0.0.1:1' };
  expect(parseCoordinatorConfig(['--listen', '127.0.0.1:2', '--start-deadline', '5s'], env)).toMatchObject({
    dataDir: '/e',
    listen: { port: 2 },
    startDeadlineMs: 5000,
  });
});

test('a shared store needs no data directory; its password comes from the environment or a file', () => {
  const target = { host: 'h', port: 6379, db: 0, username: '', tls: false };
  expect(parseCoordinatorConfig(['--store', 'redis://h', '--store-password-file', '/p'], {})).toMatchObject({
    dataDir: '',
    store: { kind: 'redis', target: { ...target, password: '' } },
    storePasswordFile: '/p',
  });
  expect(parseCoordinatorConfig([], { FERRY_COORDINATOR_STORE: 'redis://:secret@h' })).toMatchObject({
    store: { kind: 'redis', target: { ...target, password: 'secret' } },
  });
});

test.each([
  ['--data-dir', []],
  ['--store', ['--store', 'nowhere']],
  ['--store', ['--store', 'redis://:secret@h']],
  ['--listen', ['--data-dir', 'x', '--listen', '0.0.0.0:1']],
  ['--listen', ['--data-dir', 'x', '--listen', 'here']],
  ['--heartbeat-interval', ['--data-dir', 'x', '--heartbeat-interval', '1h']],
  ['--drain-total', ['--data-dir', 'x', '--drain-total', '0']],
  ['--drain-per-destination', ['--data-dir', 'x', '--drain-per-destination', 'many']],
  ['--start-deadline', ['--data-dir', 'x', '--start-deadline', 'soon']],
  ['--concurrency', ['--data-dir', 'x', '--concurrency', '0']],
  ['--log-level', ['--data-dir', 'x', '--log-level', 'loud']],
  ['command line', ['--data-dir', 'x', '--nonsense']],
])('%s is refused: %j', (field, argv) => {
  expect(() => parseCoordinatorConfig(argv, {})).toThrow(
    expect.objectContaining({ reason: 'invalid_argument', field }),
  );
});
