import { create } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import {
  type ClusterService,
  type GetStatusResponse,
  GetStatusResponseSchema,
} from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import { type Drain, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { DesiredState, HostStatus, type Machine, MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { isWell } from '../migrations/back.ts';
import type { Rebuild } from '../rebuild/rebuild.ts';
import type { Roster } from '../roster.ts';
import type { Sessions } from '../sessions.ts';
import type { DrainRecord, HostRow, MigrationRecord, SessionState, Store } from '../store/store.ts';

/** Entries of each list that are told; a status is for a look, the lists of each kind tell all. */
const listedMax = 100;
const migrationsMax = 10_000;
/** Drains that are looked through for those that are blocked. */
const drainsMax = 200;
/** Texts of one kind that call for attention; the others are only counted. */
const textsMax = 20;

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
  const [rows, hosts, placements, unended, locks, drains, latest] = await Promise.all([
    store.sessions(),
    roster.hosts(),
    roster.machines({}),
    store.unendedMigrations(migrationsMax),
    store.locks(),
    store.openDrains(),
    store.drains(drainsMax),
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
      ...atMost(parked.map(parkedText), 'migrations are parked: "ferry migration list --open"'),
      ...atMost(unreachable.map(unreachableText), 'hosts have not reported: "ferry host list"'),
      ...atMost(
        hosts.filter((host) => host.journalWentBack).map(wentBackText),
        'journals went back: "ferry host list"',
      ),
      ...atMost(blockedOf(latest).map(blockedText), 'drains are blocked: "ferry drain list"'),
      ...atMost(troubled.map(troubledText), 'Machines are not well: "ferry machine list"'),
      ...store.describe().notes,
    ],
    rebuilding: rebuild.waitsFor,
  });
}

/** The session of each coordinator that is alive, or else one that has run out. */
function newestOfEach(rows: readonly SessionState[]): SessionState[] {
  const byName = new Map<string, SessionState>();
  for (const row of rows) if (row.alive || !byName.has(row.coordinator)) byName.set(row.coordinator, row);
  return [...byName.values()];
}

/** Drains that were blocked and that no newer one of their host has followed. Given newest first. */
function blockedOf(drains: readonly DrainRecord[]): Drain[] {
  const hosts = new Set<string>();
  return drains.flatMap(({ drain }) => {
    const isNewest = !hosts.has(drain.hostId);
    hosts.add(drain.hostId);
    return isNewest && drain.state === DrainState.BLOCKED ? [drain] : [];
  });
}

/** No kind of text crowds out another. */
function atMost(texts: readonly string[], more: string): string[] {
  if (texts.length <= textsMax) return [...texts];
  return [...texts.slice(0, textsMax), `${texts.length - textsMax} more ${more}.`];
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

function blockedText({ id, hostId, message, nextAction }: Drain): string {
  return `Drain ${id} of ${hostId} is blocked: ${message}. ${nextAction}`.trim();
}

function troubledText({ id, hostId, reason }: Machine): string {
  return `Machine ${id} on ${hostId} is not well${reason === '' ? '' : `: ${reason}`}: "ferry machine status ${id}".`;
}
