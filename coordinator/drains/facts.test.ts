import { create } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { DrainMachineState, DrainSchema } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { HostStatus } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationSchema, MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { type FactSources, readRound } from './facts.ts';

test('a move that ends while a round looks has left: it does not look as if it had come back', async () => {
  const machineId = '1';
  // Whatever is looked at first, the move ends right behind it.
  let host = 'host-a';
  const seen = <T>(answer: T): T => {
    host = 'host-b';
    return answer;
  };
  const migration = () => {
    const state = host === 'host-a' ? MigrationState.RUNNING : MigrationState.MOVED;
    return create(MigrationSchema, { id: 'm', machineId, destination: 'host-b', state });
  };
  const place = () => ({ machineId, hostId: host });
  const sources = {
    roster: { host: async (id: string) => ({ id }), status: () => HostStatus.OK },
    store: {
      migration: async () => seen({ migration: migration() }),
      openMigrations: async () => seen([]),
      placements: async () => seen(host === 'host-a' ? [place()] : []),
      placement: async () => seen(place()),
      hosts: async () => [],
      locks: async () => [],
    },
  } as unknown as FactSources;
  const machines = [{ machineId, migrationId: 'm', state: DrainMachineState.MOVING }];
  const facts = await readRound(sources, { drain: create(DrainSchema, { hostId: 'host-a', machines }) }, 0);
  const hasMoved = facts.migrations.get('m')?.state === MigrationState.MOVED;
  expect(hasMoved && facts.here.has(machineId)).toBe(false);
});
