import { timestampMs } from '@bufbuild/protobuf/wkt';
import { DrainMachineState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { HostStatus, type Machine } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { type Migration, MigrationState, MigrationStep } from '../../proto/gen/ferry/v1/migration_pb.ts';
import type { DrainRecord, HostRow, MigrationRecord, Placement } from '../store/store.ts';
import { noRoom, plus, type Room, roomOf, sharedPerCpu } from './room.ts';
import { promised, type Site } from './site.ts';

/** What the store knows that placement needs. */
export interface ClusterView {
  readonly hosts: readonly HostRow[];
  readonly statusOf: (host: HostRow) => HostStatus;
  readonly placements: readonly Placement[];
  /** Those that are open; others are passed over. */
  readonly migrations: readonly MigrationRecord[];
  /** Those that are open. */
  readonly drains: readonly DrainRecord[];
  /** Whose planned places are not counted. */
  readonly without?: Without;
}

/** Who asks: places that are planned for itself do not stand in its way. */
export interface Without {
  /** All that this drain has planned for Machines that have not begun to move. */
  readonly drainId?: string;
  /** What any drain has planned for this Machine. */
  readonly machineId?: string;
}

/** A place that is spoken for, though the Machine is not there yet. */
interface Pledge {
  readonly hostId: string;
  readonly app: string;
  readonly room: Room;
}

/**
 * All hosts with what is left on them: what they have, less the Machines on them, less those on their way there, less
 * those that an open drain has planned for them. What an agent has counted already is not counted twice.
 */
export function sitesOf(view: ClusterView): Map<string, Site> {
  const sites = new Map(view.hosts.map((host) => [host.id, siteOf(host, view)]));
  for (const { hostId, app, room } of pledges(view)) {
    const site = sites.get(hostId);
    if (site !== undefined) sites.set(hostId, promised(site, { app, room }));
  }
  return sites;
}

function siteOf(host: HostRow, { statusOf, placements, drains }: ClusterView): Site {
  const here = placements.filter((placement) => placement.hostId === host.id);
  const counts = new Map<string, number>();
  for (const { app } of here) counts.set(app, (counts.get(app) ?? 0) + 1);
  const {
    cpus = 0,
    memoryMb = 0n,
    memoryUsedMb = 0n,
    volumeFreeBytes = 0n,
    volumeTotalBytes = 0n,
  } = host.capacity ?? {};
  // The disk is counted by its agent, which alone sees what volumes really take.
  const used = here.map(({ machine }) => roomOf(machine.config, 0)).reduce(plus, noRoom);
  const total: Room = {
    cpuShares: cpus * sharedPerCpu,
    memoryMb: Number(memoryMb),
    diskBytes: Number(volumeTotalBytes > volumeFreeBytes ? volumeTotalBytes : volumeFreeBytes),
  };
  return {
    id: host.id,
    region: host.region,
    standing: standings[statusOf(host)] ?? 'unknown',
    cordoned: host.cordoned,
    draining: drains.find(({ drain }) => drain.hostId === host.id)?.drain.id ?? '',
    journalWentBack: host.journalWentBack,
    capabilities: new Set(host.capabilities),
    total,
    left: {
      cpuShares: total.cpuShares - used.cpuShares,
      memoryMb: total.memoryMb - Math.max(used.memoryMb, Number(memoryUsedMb)),
      diskBytes: Number(volumeFreeBytes),
    },
    machines: here.length,
    machinesOfApp: counts,
  };
}

const standings: Partial<Record<HostStatus, Site['standing']>> = {
  [HostStatus.OK]: 'ok',
  [HostStatus.UNREACHABLE]: 'unreachable',
};

function pledges({ hosts, placements, migrations, drains, without }: ClusterView): Pledge[] {
  const places = new Map(placements.map((placement) => [placement.machineId, placement]));
  const heartbeats = new Map(hosts.map((host) => [host.id, host.lastHeartbeatMs]));
  const planned = new Map(drains.flatMap(({ drain }) => drain.machines.map((each) => [each.machineId, each] as const)));
  const moving = new Set<string>();
  const found: Pledge[] = [];
  for (const { migration } of migrations) {
    const { machineId, destination, state } = migration;
    if (state !== MigrationState.RUNNING) continue;
    moving.add(machineId);
    const place = places.get(machineId);
    if (place === undefined || place.hostId === destination) continue;
    const isCounted = preparedAtMs(migration) <= (heartbeats.get(destination) ?? 0);
    const drained = planned.get(machineId);
    const bytes = drained?.destination === destination ? Number(drained.bytes) : undefined;
    found.push({ hostId: destination, ...wanted(place.machine, isCounted ? 0 : bytes) });
  }
  for (const { drain } of drains) {
    if (drain.id === without?.drainId) continue;
    for (const { machineId, state, destination, bytes } of drain.machines) {
      const waits = state === DrainMachineState.WAITING || state === DrainMachineState.MOVING;
      if (machineId === without?.machineId) continue;
      const place = places.get(machineId);
      if (!waits || destination === '' || moving.has(machineId) || place?.hostId !== drain.hostId) continue;
      found.push({ hostId: destination, ...wanted(place.machine, Number(bytes)) });
    }
  }
  return found;
}

function wanted(machine: Machine, bytes: number | undefined): Pick<Pledge, 'app' | 'room'> {
  return { app: machine.app, room: roomOf(machine.config, bytes) };
}

/** When the destination reserved the room of the copy: heartbeats after it count it. */
function preparedAtMs({ steps }: Migration): number {
  const endedAt = steps.find((report) => report.step === MigrationStep.PREPARE)?.endedAt;
  return endedAt === undefined ? Number.POSITIVE_INFINITY : timestampMs(endedAt);
}
