import { spawnSync } from 'node:child_process';
import { afterEach, describe, expect, test } from 'vitest';
import { capabilitiesHere } from '../../agent/volumes/store.testkit.ts';
import { MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { TestCluster } from '../harness/cluster.ts';
import { doubles, observe } from '../harness/observe.ts';
import { RedisClient, RedisLoad, redisConfig } from '../harness/redis.ts';

const hasRedis = spawnSync('redis-server', ['--version'], { stdio: 'ignore' }).error === undefined;
const { mount, reasons } = await capabilitiesHere();
const clients = 8;
const moves = ['host-b', 'host-a', 'host-b', 'host-a', 'host-b'];

let cluster: TestCluster | undefined;
afterEach(async () => cluster?.[Symbol.asyncDispose]());

describe('a database moves under load', () => {
  test.skipIf(!hasRedis || !mount)(
    `redis-server keeps every acknowledged increment over five moves (needs redis-server, and root to mount: ${reasons.mount ?? 'works here'})`,
    async () => {
      cluster = await TestCluster.start();
      const first = await cluster.run(redisConfig, { host: 'host-a' });
      const observation = observe();
      const load = new RedisLoad(cluster, first.id, clients);
      await load.more(20);
      for (const [index, destination] of moves.entries()) {
        const migration = await cluster.ended(await cluster.migrate(first.id, destination));
        expect(migration, migration.reason).toMatchObject({
          state: MigrationState.MOVED,
          settled: true,
          destination,
          failure: '',
        });
        expect(migration.sourceRoot).toMatch(/^[0-9a-f]{64}$/);
        expect(migration.destinationRoot).toBe(migration.sourceRoot);
        expect(await cluster.machine(first.id)).toMatchObject({
          hostId: destination,
          state: MachineState.STARTED,
          epoch: BigInt(index + 2),
        });
        await load.more(20);
      }
      const reports = await load.stop();
      const client = new RedisClient(cluster, first.id);
      for (const { key, acknowledged, unanswered } of reports) {
        // A value that comes twice, or goes back, is an acknowledged increment that was lost on the way.
        expect(acknowledged.filter((value, at) => at > 0 && value <= acknowledged[at - 1]!)).toEqual([]);
        const value = Number(await client.ask('GET', key));
        expect(value).toBeGreaterThanOrEqual(acknowledged.at(-1)!);
        expect(value).toBeLessThanOrEqual(acknowledged.length + unanswered);
        expect(acknowledged.length).toBeGreaterThanOrEqual(20 * (moves.length + 1));
      }
      client.close();
      const report = await observation.report();
      expect(doubles(report)).toEqual([]);
      // It did see the server: at both hosts, and at neither in between.
      const states = new Set(
        report.sightings.map(({ alive }) => alive.filter((each) => each.startsWith(first.id)).join()),
      );
      expect(states.size).toBe(3);
      const told = reports.map(({ acknowledged, unanswered }) => `${acknowledged.length} (+${unanswered})`).join(' ');
      console.log(`acknowledged (+ unanswered) by client: ${told}; longest blink ${report.longestBlindMs} ms`);
    },
  );
});
