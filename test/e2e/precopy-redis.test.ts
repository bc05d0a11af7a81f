import { afterEach, describe, expect, test, vi } from 'vitest';
import { redisMissing } from '../../coordinator/testing/redis-server.ts';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { TestCluster } from '../harness/cluster.ts';
import { xfsMissing } from '../harness/disk.ts';
import { doubles, observe } from '../harness/observe.ts';
import { RedisClient, RedisLoad, redisConfig } from '../harness/redis.ts';

// Real processes, many of them: on a busy machine they take their time.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

const missing = xfsMissing() ?? (redisMissing === '' ? null : 'needs redis-server');
const clients = 8;
const moves = 10;
const mib = 2 ** 20;
const fillMib = 64;

let cluster: TestCluster | undefined;
afterEach(async () => cluster?.[Symbol.asyncDispose]());

describe.skipIf(missing !== null)(`a redis-server moves under load${missing === null ? '' : ` (${missing})`}`, () => {
  test(`${moves} times with pre-copy: no acknowledged increment is lost; on the way back only what changed is sent`, async () => {
    cluster = await TestCluster.start({ xfsMib: { 'host-a': 4096, 'host-b': 4096 } });
    const { id } = await cluster.run(redisConfig, { host: 'host-a' });
    const client = new RedisClient(cluster, id);
    for (let index = 0; index < fillMib; index += 1) {
      // Text that does not compress and is no hole.
      const part = Array.from({ length: mib / 64 }, () => `${Math.random()}`.padEnd(64, `${index}`)).join('');
      await client.ask('SET', `fill:${index}`, part);
    }
    client.close();
    const observation = observe();
    const load = new RedisLoad(cluster, id, clients);
    await load.more(20);
    const told: string[] = [];
    for (let move = 0; move < moves; move += 1) {
      const destination = move % 2 === 0 ? 'host-b' : 'host-a';
      const migration = await cluster.ended(await cluster.migrate(id, destination));
      expect(migration, migration.reason).toMatchObject({ state: MigrationState.MOVED, settled: true, failure: '' });
      const { precopy, progress, downtime } = migration;
      expect(precopy).toMatchObject({ mode: 'snapshots', ended: 'fits' });
      const sentMib = Number(progress!.bytesTransferred) / mib;
      if (move === 0) expect(sentMib).toBeGreaterThan(fillMib);
      else {
        expect(precopy?.baseRoot).toMatch(/^[0-9a-f]{64}$/);
        expect(sentMib).toBeLessThan(fillMib / 2);
      }
      expect(Number(precopy?.finalBytes ?? 0n) / mib).toBeLessThan(fillMib / 2);
      const { signalToExitMs, exitToCopiedMs, copiedToVerifiedMs, verifiedToStartedMs, startedToHealthyMs } = downtime!;
      const parts = [signalToExitMs, exitToCopiedMs, copiedToVerifiedMs, verifiedToStartedMs, startedToHealthyMs];
      told.push(`${Math.round(sentMib)} MiB, last ${precopy?.finalBytes} B, down ${parts.join(' + ')} ms`);
      await load.more(20);
    }
    const reports = await load.stop();
    for (const { key, acknowledged, unanswered } of reports) {
      expect(acknowledged.filter((value, at) => at > 0 && value <= acknowledged[at - 1]!)).toEqual([]);
      const value = Number(await client.ask('GET', key));
      expect(value).toBeGreaterThanOrEqual(acknowledged.at(-1)!);
      expect(value).toBeLessThanOrEqual(acknowledged.length + unanswered);
    }
    client.close();
    expect(doubles(await observation.report())).toEqual([]);
    console.log(told.join('\n'));
  });
});
