import type { CoordinatorStatus, GetStatusResponse } from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import type { Drain } from '../../proto/gen/ferry/v1/drain_pb.ts';
import type { Host } from '../../proto/gen/ferry/v1/host_pb.ts';
import type { NetworkLock } from '../../proto/gen/ferry/v1/lock_pb.ts';
import type { Machine } from '../../proto/gen/ferry/v1/machine_pb.ts';
import type { Migration } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { bullets, drainState, renderDrainList } from './drain.ts';
import { renderHostList } from './host.ts';
import { renderLockList } from './lock.ts';
import { stateOf } from './machine.ts';
import { renderMigrationList } from './migration.ts';
import { keyValues } from './table.ts';
import { plural } from './units.ts';

/** Everything that `ferry status` shows; a list that could not be had is undefined, and `missing` says why. */
export interface StatusParts {
  /** Address of the coordinator that answered. */
  readonly asked: string;
  readonly status: GetStatusResponse;
  readonly hosts: readonly Host[] | undefined;
  readonly machines: readonly Machine[] | undefined;
  readonly migrations: readonly Migration[] | undefined;
  readonly locks: readonly NetworkLock[] | undefined;
  readonly drains: readonly Drain[] | undefined;
  readonly missing: readonly string[];
}

/** `ferry status`: what needs attention comes first; the lists below are only what is open. */
export function renderStatus(parts: StatusParts): string {
  const { status, hosts, machines, migrations, locks, drains, missing } = parts;
  const attention = [...missing.map((what) => `could not be asked for: ${what}`), ...status.attention];
  const head =
    attention.length === 0 ? 'Attention: nothing; all is well\n' : bullets('Attention', attention).trimStart();
  const troubled = status.machinesTroubled;
  const pairs: [string, string][] = [
    ...coordinatorPairs(status.coordinators, parts.asked),
    ['Store', status.store],
    ['Hosts', hostsText(status)],
    ['Machines', `${machines === undefined ? status.machines : machinesText(machines)}`],
    ['In trouble', troubled.length === 0 ? 'none' : troubled.join(', ')],
    ['Migrations', migrationsText(status)],
    ['Drains', drainsText(status.drainsOpen, drains)],
    ['Locks', status.locksHeld === 0 ? 'none held' : `${status.locksHeld} held`],
  ];
  let text = `${head}\n${keyValues(pairs)}`;
  if (hosts !== undefined) text += `\nHosts\n${renderHostList(hosts)}`;
  if (drains !== undefined && drains.length > 0) text += `\nDrains\n${renderDrainList(drains)}`;
  if (migrations !== undefined && migrations.length > 0) {
    text += `\nOpen migrations\n${renderMigrationList(migrations)}`;
  }
  if (locks !== undefined && locks.length > 0) text += `\nLocks\n${renderLockList(locks)}`;
  return text;
}

/** One line for each coordinator. */
function coordinatorPairs(coordinators: readonly CoordinatorStatus[], asked: string): [string, string][] {
  if (coordinators.length === 0) return [['Coordinator', asked]];
  return coordinators.map(({ id, address, alive, driving, version, self }) => {
    const life = alive ? `drives ${plural(driving, 'migration')}` : 'NOT ALIVE: its lease has run out';
    const facts = [`${id} at ${address}`, life, `version ${version}`];
    if (self) facts.push('answers this');
    return ['Coordinator', facts.join(', ')];
  });
}

function hostsText({ hostsOk, hostsUnreachable, hostsCordoned }: GetStatusResponse): string {
  const parts = [`${hostsOk} ok`];
  if (hostsUnreachable.length > 0)
    parts.push(`${hostsUnreachable.length} unreachable (${hostsUnreachable.join(', ')})`);
  if (hostsCordoned.length > 0) parts.push(`${hostsCordoned.length} cordoned (${hostsCordoned.join(', ')})`);
  return parts.join(', ');
}

/** "drn_... (running), drn_... (blocked)"; without the list what the coordinator counts as open. */
function drainsText(open: readonly string[], drains: readonly Drain[] | undefined): string {
  const told = drains?.map((drain) => `${drain.id} (${drainState(drain)})`) ?? open;
  return told.join(', ') || 'none';
}

/** "3 started, 1 failed". */
function machinesText(machines: readonly Machine[]): string {
  const counts = new Map<string, number>();
  for (const machine of machines) counts.set(stateOf(machine), (counts.get(stateOf(machine)) ?? 0) + 1);
  return [...counts].map(([state, count]) => `${count} ${state}`).join(', ') || 'none';
}

function migrationsText({ migrationsRunning, migrationsParked }: GetStatusResponse): string {
  const parked =
    migrationsParked.length === 0 ? '' : `, ${migrationsParked.length} parked (${migrationsParked.join(', ')})`;
  return `${migrationsRunning} running${parked}`;
}
