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
    logLevel: 'info',
  });
  const env = { FERRY_COORDINATOR_DATA_DIR: '/e', FERRY_COORDINATOR_LISTEN: '127.0.0.1:1' };
  expect(parseCoordinatorConfig(['--listen', '127.0.0.1:2', '--start-deadline', '5s'], env)).toMatchObject({
    dataDir: '/e',
    listen: { port: 2 },
    startDeadlineMs: 5000,
  });
});

test.each([
  ['--data-dir', []],
  ['--listen', ['--data-dir', 'x', '--listen', '0.0.0.0:1']],
  ['--listen', ['--data-dir', 'x', '--listen', 'here']],
  ['--heartbeat-interval', ['--data-dir', 'x', '--heartbeat-interval', '1h']],
  ['--start-deadline', ['--data-dir', 'x', '--start-deadline', 'soon']],
  ['--concurrency', ['--data-dir', 'x', '--concurrency', '0']],
  ['--log-level', ['--data-dir', 'x', '--log-level', 'loud']],
  ['command line', ['--data-dir', 'x', '--nonsense']],
])('%s is refused: %j', (field, argv) => {
  expect(() => parseCoordinatorConfig(argv, {})).toThrow(
    expect.objectContaining({ reason: 'invalid_argument', field }),
  );
});
