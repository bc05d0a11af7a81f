import { DrainMachineState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { HostStatus } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { type Migration, MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import type { Agents } from '../agents.ts';
import type { Cluster } from '../placement/cluster.ts';
import { readCluster } from '../placement/cluster.ts';
import { type History, historyOf } from '../placement/estimate.ts';
import type { Site } from '../placement/site.ts';
import { type VolumeFacts, volumesOf } from '../placement/volumes.ts';
import type { Roster } from '../roster.ts';
import type { DrainRecord, HostRow, Placement, Store } from '../store/store.ts';

const { MOVED, GONE } = DrainMachineState;

/** Migrations that are looked at for speeds and downtimes. */
const historyMax = 200;

/** Where facts come from. */
export interface FactSources {
  readonly store: Store;
  readonly roster: Roster;
  readonly agents: Agents;
  /** Longest last copy of a migration that names none. */
  readonly downtimeBudgetMs: number;
}

/** A parked migration that keeps its network locked. */
export type Blocker = Pick<Migration, 'id' | 'machineId' | 'reason'>;

/** What a round of a drain needs to know. */
export interface RoundFacts {
  readonly nowMs: number;
  readonly source: HostRow;
  readonly standing: Site['standing'];
  /** Machines that the directory has on the host. */
  readonly here: ReadonlyMap<string, Placement>;
  /** Where the Machines of the drain are that have not moved and are not there any more. */
  readonly elsewhere: ReadonlyMap<string, string>;
  /** Migrations that the drain names, by migration ID. */
  readonly migrations: ReadonlyMap<string, Migration>;
  /** All that run, whoever ordered them. */
  readonly running: readonly Migration[];
  /** Networks that a parked migration keeps locked, with that migration. */
  readonly blocked: ReadonlyMap<string, Blocker>;
  /** Limits of copies of other hosts. */
  readonly hosts: ReadonlyMap<string, HostRow>;
}

/** What it needs besides when a Machine looks for a place. */
export interface PlaceFacts {
  readonly cluster: Cluster;
  readonly source: Site;
  readonly volumes: ReadonlyMap<string, VolumeFacts> | undefined;
  readonly history: History;
  readonly downtimeBudgetMs: number;
}

/** Reads what a round needs. */
export async function readRound(
  { store, roster }: FactSources,
  { drain }: Pick<DrainRecord, 'drain'>,
  nowMs: number,
): Promise<RoundFacts> {
  const source = await roster.host(drain.hostId);
  const leaving = drain.machines.filter(({ state }) => state !== MOVED && state !== GONE);
  // Migrations before places: one that has ended by then has left. The other way round it would look as if it had come back.
  const migrations = new Map<string, Migration>();
  for (const { migrationId } of leaving) {
    const migration = migrationId === '' ? undefined : (await store.migration(migrationId))?.migration;
    if (migration !== undefined) migrations.set(migrationId, migration);
  }
  const [open, hosts, blocked] = await Promise.all([store.openMigrations(), store.hosts(), readBlocked(store)]);
  const here = await store.placements({ hostId: drain.hostId });
  const present = new Map(here.map((place) => [place.machineId, place]));
  const elsewhere = new Map<string, string>();
  for (const { machineId } of leaving) {
    const place = present.has(machineId) ? undefined : await store.placement(machineId);
    if (place !== undefined) elsewhere.set(machineId, place.hostId);
  }
  return {
    nowMs,
    source,
    standing: standingOf(roster.status(source)),
    here: present,
    elsewhere,
    migrations,
    running: open.map(({ migration }) => migration).filter(({ state }) => state === MigrationState.RUNNING),
    blocked,
    hosts: new Map(hosts.map((host) => [host.id, host])),
  };
}

/** Reads what placing Machines of a host needs. */
export async function readPlaces(sources: FactSources, hostId: string, drainId: string): Promise<PlaceFacts> {
  const { store, roster, agents, downtimeBudgetMs } = sources;
  await roster.host(hostId);
  const [cluster, volumes, records] = await Promise.all([
    readCluster(store, roster, { drainId }),
    volumesOf(agents, hostId),
    store.migrations(historyMax),
  ]);
  const history = historyOf(records.map(({ migration }) => migration));
  return { cluster, source: cluster.sites.get(hostId)!, volumes, history, downtimeBudgetMs };
}

/** Networks that a parked migration keeps locked, with that migration; not while another one goes on under its lock. */
export async function readBlocked(store: Store): Promise<ReadonlyMap<string, Blocker>> {
  const blocked = new Map<string, Blocker>();
  const open = await store.openMigrations();
  for (const { network, migrationId } of await store.locks()) {
    const holder = (await store.migration(migrationId))?.migration;
    if (holder?.state !== MigrationState.PARKED || !holder.holdsLock) continue;
    const goesOn = open.some(
      ({ migration, plan }) => plan.lockHolder === migrationId && migration.state === MigrationState.RUNNING,
    );
    if (!goesOn) blocked.set(network, holder);
  }
  return blocked;
}

function standingOf(status: HostStatus): Site['standing'] {
  if (status === HostStatus.OK) return 'ok';
  return status === HostStatus.UNREACHABLE ? 'unreachable' : 'unknown';
}
