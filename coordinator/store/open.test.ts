import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { afterEach, describe, expect, test } from 'vitest';
import { systemClock } from '../../shared/clock.ts';
import { systemRandom } from '../../shared/random.ts';
import { RedisServer, redisMissing } from '../testing/redis-server.ts';
import { parseStoreAddress } from './address.ts';
import { openStore } from './open.ts';

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

const open = async (text: string, path = '', passwordFile = '') => {
  const address = parseStoreAddress(text, '--store');
  const store = await openStore({ address, passwordFile, path, clock: systemClock, random: systemRandom });
  cleanups.push(() => store.close());
  return store;
};
const refusalOf = async (text: string) => {
  const error: unknown = await open(text).catch((thrown: unknown) => thrown);
  expect(inspect(error, { depth: 9 })).not.toContain('secret');
  return error;
};

test('embedded: one file', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'ferry-open-'));
  cleanups.push(() => rmSync(directory, { recursive: true, force: true }));
  const path = join(directory, 'coordinator.db');
  expect((await open('', path)).describe()).toEqual({ where: `sqlite ${path}`, notes: [] });
});

test('nobody there: store_unreachable, with the address and without the password', async () => {
  expect(await refusalOf('redis://:secret@127.0.0.1:1')).toMatchObject({
    reason: 'store_unreachable',
    message: expect.stringContaining('redis://127.0.0.1:1/0'),
    facts: { store: 'redis://127.0.0.1:1/0' },
  });
});

test.each([
  ['5.0.7', 'noeviction', 'unsupported', 'Redis 5.0.7'],
  ['7.0.15', 'allkeys-lru', 'unsupported', 'maxmemory-policy is allkeys-lru'],
])('a server that says %s and %s is refused', async (version, policy, reason, text) => {
  const info = `role:master\r\nredis_version:${version}\r\nmaxmemory_policy:${policy}\r\nloading:0\r\n`;
  // Answers INFO with that, and each script with what admits a coordinator.
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.on('data', (bytes) => {
      const isScript = /\r\neval/i.test(String(bytes));
      const words = ['generation', 'incarnation', 'run', '0'].map((word) => `$${word.length}\r\n${word}\r\n`).join('');
      socket.write(isScript ? `*4\r\n${words}` : `$${info.length}\r\n${info}\r\n`);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanups.push(() => server.close());
  const { port } = server.address() as { port: number };
  expect(await refusalOf(`redis://127.0.0.1:${port}`)).toMatchObject({
    reason,
    message: expect.stringContaining(text),
  });
});

describe.skipIf(redisMissing !== '')(`with a server${redisMissing}`, () => {
  const start = async (...flags: readonly string[]) => {
    const server = await RedisServer.start(...flags);
    cleanups.push(() => server.dispose());
    return server;
  };

  test('a wrong or missing password is said at once, without the password', async () => {
    const { port } = await start('--requirepass', 'right');
    const wrong = await refusalOf(`redis://:secret@127.0.0.1:${port}`);
    expect(wrong).toMatchObject({
      reason: 'store_unreachable',
      message: expect.stringContaining('refuses us: WRONGPASS'),
    });
    expect(await refusalOf(`redis://127.0.0.1:${port}`)).toMatchObject({ message: expect.stringContaining('NOAUTH') });
    expect((await open(`redis://:right@127.0.0.1:${port}/2`)).describe()).toEqual({
      where: `redis://127.0.0.1:${port}/2`,
      notes: [],
    });
    const directory = mkdtempSync(join(tmpdir(), 'ferry-password-'));
    cleanups.push(() => rmSync(directory, { recursive: true, force: true }));
    writeFileSync(join(directory, 'password'), 'right\n');
    await open(`redis://127.0.0.1:${port}`, '', join(directory, 'password'));
    await expect(open(`redis://127.0.0.1:${port}`, '', join(directory, 'none'))).rejects.toMatchObject({
      reason: 'invalid_argument',
      field: '--store-password-file',
    });
  });

  test.each([
    [['--appendonly', 'no'], 'appendonly yes'],
    [['--appendfsync', 'no'], 'appendfsync always'],
    [['--appendfsync', 'everysec'], 'last second'],
    [['--maxmemory-policy', 'volatile-lru'], 'noeviction'],
  ])('%j is noted', async (flags, note) => {
    const { port } = await start(...flags);
    expect((await open(`redis://127.0.0.1:${port}`)).describe().notes).toEqual([expect.stringContaining(note)]);
  });

  test('a store of another version of Ferry, and a replica, are refused', async () => {
    const server = await start();
    await open(`redis://127.0.0.1:${server.port}`);
    await server.ask('HSET', 'ferry:store', 'format', '2');
    expect(await refusalOf(`redis://127.0.0.1:${server.port}`)).toMatchObject({ reason: 'unsupported' });
    await open(`redis://127.0.0.1:${server.port}?prefix=other:`);
    const replica = await start();
    await replica.follow(server);
    expect(await refusalOf(`redis://127.0.0.1:${replica.port}`)).toMatchObject({
      reason: 'store_unreachable',
      message: expect.stringContaining('replica'),
    });
  });
});
