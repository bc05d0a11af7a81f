import { afterEach, describe, expect, test, vi } from 'vitest';
import { capabilitiesHere } from '../../agent/volumes/store.testkit.ts';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { TestCluster } from '../harness/cluster.ts';
import { xfsMissing } from '../harness/disk.ts';
import { doubles, observe } from '../harness/observe.ts';
import { RowsLoad } from '../harness/rows-load.ts';

// Real processes, many of them: on a busy machine they take their time.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

const missing = xfsMissing();
const { mount, reasons } = await capabilitiesHere();
const writers = 4;

let cluster: TestCluster | undefined;
afterEach(async () => cluster?.[Symbol.asyncDispose]());

describe('a SQLite database that several processes write to moves while they write', () => {
  test.skipIf(missing !== null || !mount)(
    `no acknowledged row is lost over three moves (${missing ?? reasons.mount ?? 'works here'})`,
    async () => {
      cluster = await TestCluster.start({ xfsMib: { 'host-a': 3072, 'host-b': 3072 } });
      const load = await RowsLoad.start(cluster, 'host-a', writers);
      const observation = observe();
      await load.more(100);
      for (const destination of ['host-b', 'host-a', 'host-b']) {
        const migration = await cluster.ended(await cluster.migrate(load.machine.id, destination));
        expect(migration, migration.reason).toMatchObject({ state: MigrationState.MOVED, settled: true, failure: '' });
        await load.more(100);
        expect(await load.missing()).toMatchObject({ lost: [], integrity: 'ok' });
      }
      expect(doubles(await observation.report())).toEqual([]);
    },
  );
});
