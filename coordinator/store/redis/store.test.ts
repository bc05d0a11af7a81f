import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll } from 'vitest';
import { systemRandom } from '../../../shared/random.ts';
import { RedisServer, redisMissing } from '../../testing/redis-server.ts';
import { describeStore } from '../conformance.ts';
import { RedisStore } from './store.ts';

let server: RedisServer;
beforeAll(async () => {
  if (redisMissing === '') server = await RedisServer.start('--appendfsync', 'everysec');
});
afterAll(() => server?.dispose());

const makeFixture = () => {
  const prefix = `${randomUUID()}:`;
  const opened: RedisStore[] = [];
  const open = async () => {
    const target = { host: '127.0.0.1', port: server.port, db: 0, username: '', password: '', tls: false };
    const store = await RedisStore.open({ target, prefix, random: systemRandom });
    opened.push(store);
    return store;
  };
  return {
    open,
    pair: async () => [await open(), await open()] as const,
    // By the server's clock, which nobody can move.
    pass: async (ms: number) => {
      const now = async () => {
        const [seconds, micros] = ((await server.ask('TIME')) as string[]).map(Number);
        return seconds! * 1000 + micros! / 1000;
      };
      for (const until = (await now()) + ms + 1; (await now()) < until; ) await sleep(1);
    },
    dispose: async () => {
      for (const store of opened) await store.close();
    },
  };
};

describeStore(`Redis${redisMissing}`, makeFixture, redisMissing !== '');
