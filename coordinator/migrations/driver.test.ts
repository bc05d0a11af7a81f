import { expect, test } from 'vitest';
import { MigrationState, MigrationStep } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { Harness } from '../testing/harness.ts';

const machine = 'd8dd625fed5568';

async function twoHosts(): Promise<Harness> {
  const harness = new Harness();
  harness.world.add('h1').give(machine);
  harness.world.add('h2');
  await harness.start();
  return harness;
}

test('a Machine moves: every step in order, lock and permits free, directory right', async () => {
  await using harness = await twoHosts();
  const id = await harness.migrate(machine, 'h2');
  const migration = await harness.ended(id);
  expect(migration).toMatchObject({
    state: MigrationState.MOVED,
    settled: true,
    holdsLock: false,
    source: 'h1',
    destination: 'h2',
    sourceRoot: `root-${machine}`,
    destinationRoot: `root-${machine}`,
    epoch: 2n,
    downtime: { totalMs: 42n },
  });
  const steps = migration.steps.map((report) => report.step);
  expect(steps).toEqual(Object.values(MigrationStep).filter((step) => step !== MigrationStep.UNSPECIFIED));
  expect(migration.steps.every((report) => report.endedAt !== undefined && report.message !== '')).toBe(true);
  expect(harness.world.runningOn(machine)).toEqual(['h2']);
  expect((await harness.store.placement(machine))?.hostId).toBe('h2');
  expect(await harness.store.locks()).toEqual([]);
  for (const agent of harness.world.agents.values()) expect(agent.permits.get('alpha')?.holder).toBe('');
  const { machine: seen } = await harness.machines.getMachine({ machineId: machine });
  expect(seen?.hostId).toBe('h2');
});
