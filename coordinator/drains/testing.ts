import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import {
  type DrainMachineSchema,
  DrainMachineState,
  DrainSchema,
  DrainState,
} from '../../proto/gen/ferry/v1/drain_pb.ts';
import { MachineSchema } from '../../proto/gen/ferry/v1/machine_pb.ts';
import {
  type Migration,
  MigrationSchema,
  MigrationState,
  MigrationStep,
} from '../../proto/gen/ferry/v1/migration_pb.ts';
import { historyOf } from '../placement/estimate.ts';
import type { Site } from '../placement/site.ts';
import { siteLike } from '../placement/testing.ts';
import type { HostRow, Placement } from '../store/store.ts';
import { type DrainDraft, newPlan } from './book.ts';
import type { PlaceFacts, RoundFacts } from './facts.ts';

/** A drain of h1 with these Machines, each waiting for its move to h2, for tests. */
export function draftLike(
  machines: readonly MessageInitShape<typeof DrainMachineSchema>[],
  changes: { readonly state?: DrainState } = {},
): DrainDraft {
  return {
    drain: create(DrainSchema, {
      id: 'drn_1',
      hostId: 'h1',
      state: DrainState.RUNNING,
      options: {},
      machines: machines.map((machine, index) => ({
        network: 'x',
        state: DrainMachineState.WAITING,
        destination: 'h2',
        order: index + 1,
        ...machine,
      })),
      ...changes,
    }),
    plan: newPlan(),
    open: true,
  };
}

/** A migration from h1 to h2, for tests. */
export function migrationLike(changes: MessageInitShape<typeof MigrationSchema>): Migration {
  return create(MigrationSchema, {
    id: 'mig_1',
    machineId: 'm1',
    network: 'x',
    source: 'h1',
    destination: 'h2',
    drainId: 'drn_1',
    state: MigrationState.RUNNING,
    step: MigrationStep.PRECOPY,
    ...changes,
  });
}

const placed = (machineId: string): Placement => ({
  machineId,
  hostId: 'h1',
  epoch: 1n,
  network: 'x',
  app: 'shop',
  machine: create(MachineSchema, { id: machineId, app: 'shop', network: 'x', hostId: 'h1' }),
  seenMs: 0,
});

/** Facts about h1, which answers and has these Machines, for tests. */
export function factsLike(
  here: readonly string[],
  changes: Partial<Omit<RoundFacts, 'migrations'>> & { readonly migrations?: readonly Migration[] } = {},
): RoundFacts {
  const migrations = changes.migrations ?? [];
  return {
    nowMs: 1_000_000,
    source: { id: 'h1', cordoned: true } as HostRow,
    standing: 'ok',
    here: new Map(here.map((id) => [id, placed(id)])),
    elsewhere: new Map(),
    running: migrations.filter(({ state }) => state === MigrationState.RUNNING),
    blocked: new Map(),
    hosts: new Map(),
    ...changes,
    migrations: new Map(migrations.map((migration) => [migration.id, migration])),
  };
}

/** A cluster of h1, which is drained, and these others, for tests. */
export function placesLike(...others: readonly Site[]): PlaceFacts {
  const source = siteLike('h1', { cordoned: true, draining: 'drn_1' });
  const sites = new Map([source, ...others].map((site) => [site.id, site]));
  const cluster = { sites, hosts: [], placements: [], migrations: [], drains: [] } as unknown as PlaceFacts['cluster'];
  const history = historyOf([]);
  return { cluster, source, volumes: new Map(), history, downtimeBudgetMs: 300 };
}

/** A wait for the lock that a parked migration holds, since then. */
export function lockWaitSince(sinceMs: number, holder: string) {
  return { kind: 'lock', subject: holder, message: 'its turn', since: timestampFromMs(sinceMs) };
}

/** A network, x unless named, that a parked migration keeps locked, for tests. */
export function blockedBy({ id = 'mig_9', machineId = 'm9', network = 'x' }): RoundFacts['blocked'] {
  return new Map([[network, { id, machineId, reason: 'not healthy at h2 and h1' }]]);
}
