import { create } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import {
  type ClusterService,
  type GetStatusResponse,
  GetStatusResponseSchema,
} from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import { DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { DesiredState, HostStatus, type Machine, MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { isWell } from '../migrations/back.ts';
import type { Rebuild } from '../rebuild/rebuild.ts';
import type { Roster } from '../roster.ts';
import type { Sessions } from '../sessions.ts';
import type { HostRow, MigrationRecord, SessionState, Store } from '../store/store.ts';

/** Entries of each list that are told; a status is for a look, the lists of each kind tell all. */
const listedMax = 100;
const migrationsMax = 10_000;

/** What the cluster's status needs. */
export interface ClusterParts {
  readonly store: Store;
  readonly roster: Roster;
  readonly rebuild: Pick<Rebuild, 'waitsFor'>;
  readonly sessions: Sessions;
}

/** ClusterService: the whole cluster at a glance, most urgent first. */
export function clusterService(parts: ClusterParts): ServiceImpl<typeof ClusterService> {
  return { getStatus: () => statusOf(parts) };
}

async function statusOf({ store, roster, rebuild, sessions }: ClusterParts): Promise<GetStatusResponse> {
  const [rows, hosts, placements, unended, locks, drains] = await Promise.all([
    store.sessions(),
    roster.hosts(),
    roster.machines({}),
    store.unendedMigrations(migrationsMax),
    store.locks(),
    store.openDrains(),
  ]);
  const running = unended.filter(({ migration }) => migration.state === MigrationState.RUNNING);
  const parked = unended.filter(
    ({ migration }) => migration.state === MigrationState.PARKED && migration.answered === '',
  );
  const unreachable = hosts.filter((host) => roster.status(host) === HostStatus.UNREACHABLE);
  const silent = new Set(unreachable.map(({ id }) => id));
  const moving = new Set(running.map(({ migration }) => migration.machineId));
  const troubled = placements.filter((machine) => !moving.has(machine.id) && isTroubled(machine, silent));
  const self = sessions.current?.id;
  return create(GetStatusResponseSchema, {
    coordinators: newestOfEach(rows).map(({ id, coordinator, address, alive, version }) => ({
      id: coordinator,
      address,
      alive,
      version,
      self: id === self,
      driving: running.filter(({ driver }) => driver === id).length,
    })),
    store: store.describe().where,
    hostsOk: hosts.filter((host) => roster.status(host) === HostStatus.OK).length,
    hostsUnreachable: unreachable.map(({ id }) => id),
    hostsCordoned: hosts.filter(({ cordoned }) => cordoned).map(({ id }) => id),
    machines: placements.length,
    machinesTroubled: troubled.slice(0, listedMax).map(({ id }) => id),
    migrationsRunning: running.length,
    migrationsParked: parked.slice(0, listedMax).map(({ migration }) => migration.id),
    locksHeld: locks.length,
    drainsOpen: drains.map(({ drain }) => drain.id),
    attention: [
      ...rebuildingText(rebuild.waitsFor),
      ...parked.map(parkedText),
      ...unreachable.map(unreachableText),
      ...hosts.filter((host) => host.journalWentBack).map(wentBackText),
      ...troubled.map(troubledText),
      ...drains.flatMap(({ drain }) =>
        drain.state === DrainState.BLOCKED ? [`Drain ${drain.id} of ${drain.hostId}: ${drain.message}`] : [],
      ),
      ...store.describe().notes,
    ].slice(0, listedMax),
    rebuilding: rebuild.waitsFor,
  });
}

/** The session of each coordinator that is alive, or else one that has run out. */
function newestOfEach(rows: readonly SessionState[]): SessionState[] {
  const byName = new Map<string, SessionState>();
  for (const row of rows) if (row.alive || !byName.has(row.coordinator)) byName.set(row.coordinator, row);
  return [...byName.values()];
}

function isTroubled(machine: Machine, silent: ReadonlySet<string>): boolean {
  if (machine.desiredState !== DesiredState.STARTED || silent.has(machine.hostId)) return false;
  // A program that rests by its own restart policy is stopped, not in trouble.
  return machine.state !== MachineState.STOPPED && !isWell(machine);
}

function rebuildingText(waitsFor: string): string[] {
  return waitsFor === ''
    ? []
    : [`Nothing is locked, so nothing is stopped, until this is over: it waits for ${waitsFor}.`];
}

function parkedText({ migration }: MigrationRecord): string {
  const { id, machineId, reason, nextAction, network, holdsLock } = migration;
  const locked = holdsLock ? ` Network ${network} stays locked.` : '';
  return `Migration ${id} of Machine ${machineId} is parked: ${reason}.${locked} ${nextAction}`.trim();
}

function unreachableText({ id, lastHeartbeatMs }: HostRow): string {
  const since = new Date(lastHeartbeatMs).toISOString();
  return `Host ${id} has not reported since ${since}: look at its agent; if it is gone for good, "ferry host remove ${id}".`;
}

function wentBackText({ id }: HostRow): string {
  return `The journal of host ${id} went back to an older copy: it starts nothing; restore the newer one, then uncordon it.`;
}

function troubledText({ id, hostId, reason }: Machine): string {
  return `Machine ${id} on ${hostId} is not well${reason === '' ? '' : `: ${reason}`}: "ferry machine status ${id}".`;
}
