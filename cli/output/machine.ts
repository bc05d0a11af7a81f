import {
  type CheckStatus,
  type Downtime,
  HostStatus,
  type Machine,
  type MachineEvent,
  MachineState,
} from '../../proto/gen/ferry/v1/machine_pb.ts';
import { keyValues, table } from './table.ts';
import { formatTime, word } from './units.ts';

/** A number of milliseconds in seconds, as event logs have it. */
function seconds(ms: bigint): string {
  return `${(Number(ms) / 1000).toFixed(3)}s`;
}

/** "started", "stopped", ... */
export function stateOf(machine: Machine): string {
  return word(MachineState, machine.state);
}

/** "2/3": checks that pass of all; empty without checks. */
function checksOf(checks: readonly CheckStatus[]): string {
  if (checks.length === 0) return '';
  return `${checks.filter((check) => check.status === 'passing').length}/${checks.length}`;
}

/** The INFO column: how a program ended, or how a Machine came here. */
export function eventInfo(event: MachineEvent): string {
  const info: string[] = [];
  const exit = event.exitEvent;
  if (exit !== undefined) {
    if (exit.exitCode !== undefined) info.push(`exit_code=${exit.exitCode}`);
    if (exit.guestSignal !== '') info.push(`signal=${exit.guestSignal}`);
    info.push(`oom_killed=${exit.oomKilled ?? 'unknown'}`, `requested_stop=${exit.requestedStop}`);
    if (exit.restarting) info.push('restarting=true');
  }
  const move = event.migration;
  if (move?.migrated) {
    info.push('migrated=true', `from=${move.sourceHost}`, `to=${move.destinationHost}`);
    if (move.destinationVolumeId !== '') info.push(`volume=${move.sourceVolumeId}->${move.destinationVolumeId}`);
    if (move.downtime !== undefined) info.push(...downtimeInfo(move.downtime));
    if (move.moveReason !== '') info.push(`reason=${move.moveReason}`);
    if (move.orderedBy !== '') info.push(`by=${move.orderedBy}`);
    if (move.drainId !== '') info.push(`drain=${move.drainId}`);
  }
  if (event.restartCount > 0) info.push(`restart_count=${event.restartCount}`);
  if (event.message !== '') info.push(info.length > 0 ? `(${event.message})` : event.message);
  return info.join(',').replaceAll(',(', ' (');
}

/** The downtime of a move in an event's INFO: the total, then what it was made of. */
function downtimeInfo(downtime: Downtime): string[] {
  const parts: [string, bigint][] = [
    ['downtime', downtime.totalMs],
    ['exit', downtime.signalToExitMs],
    ['copied', downtime.exitToCopiedMs],
    ['verified', downtime.copiedToVerifiedMs],
    ['started', downtime.verifiedToStartedMs],
    ['healthy', downtime.startedToHealthyMs],
  ];
  if (downtime.longestWriteStallMs > 0n) parts.push(['write_stall', downtime.longestWriteStallMs]);
  return parts.map(([name, ms]) => `${name}=${seconds(ms)}`);
}

/** The downtime of a move, split, one part a line; and what its snapshots cost before. */
export function downtimeLines(downtime: Downtime): string {
  const { longestWriteStallMs } = downtime;
  const stall: [string, string][] =
    longestWriteStallMs > 0n ? [['longest write stall before', seconds(longestWriteStallMs)]] : [];
  return keyValues([
    ['signal -> exit', seconds(downtime.signalToExitMs)],
    ['exit -> copied', seconds(downtime.exitToCopiedMs)],
    ['copied -> verified', seconds(downtime.copiedToVerifiedMs)],
    ['verified -> started', seconds(downtime.verifiedToStartedMs)],
    ['started -> healthy', seconds(downtime.startedToHealthyMs)],
    ['total', seconds(downtime.totalMs)],
    ...stall,
  ]);
}

/** `machine status`: head, VM block, checks, event log (newest first). */
export function renderMachineStatus(machine: Machine): string {
  const { config } = machine;
  const unreachable = machine.hostStatus === HostStatus.UNREACHABLE;
  const pairs: [string, string][] = [
    ['ID', machine.id],
    ['Instance ID', machine.instanceId],
    ['State', stateOf(machine)],
    ['Image', config?.image ?? ''],
    ['Name', machine.name],
    ['Private IP', machine.privateIp],
    ['Region', machine.region],
    ['Process Group', config?.metadata.process_group ?? 'app'],
    ['CPU Kind', config?.guest?.cpuKind ?? ''],
    ['vCPUs', String(config?.guest?.cpus || '')],
    ['Memory', String(config?.guest?.memoryMb || '')],
    ['Created', formatTime(machine.createdAt)],
    ['Updated', formatTime(machine.updatedAt)],
    ['Entrypoint', config?.init?.entrypoint.join(' ') ?? ''],
    ['Command', ((config?.init?.exec.length ?? 0) > 0 ? config?.init?.exec : config?.init?.cmd)?.join(' ') ?? ''],
    ['Volume', machine.volumeId],
    ['App', machine.app],
    ['Network', machine.network],
    ['Host', `${machine.hostId}${unreachable ? ' (does not answer; shown as last seen)' : ''}`],
    ['Bind IP', machine.bindIp],
    ['Epoch', String(machine.epoch)],
  ];
  if (machine.migrationId !== '') pairs.push(['Migration', machine.migrationId]);
  if (machine.reason !== '') pairs.push(['Reason', machine.reason]);

  let text = `Machine ID: ${machine.id}\nInstance ID: ${machine.instanceId}\nState: ${stateOf(machine)}\n`;
  text += `\nVM\n${keyValues(pairs)}`;
  if (machine.checks.length > 0) {
    const rows = machine.checks.map((check) => [
      check.name,
      check.status,
      formatTime(check.updatedAt),
      check.output.trim().split('\n')[0] ?? '',
    ]);
    text += `\nChecks\n${table(['Name', 'Status', 'Last updated', 'Output'], rows)}`;
  }
  if (machine.events.length > 0) {
    const rows = machine.events
      .toReversed()
      .map((event) => [event.status, event.type, event.source, formatTime(event.timestamp), eventInfo(event)]);
    text += `\nEvent Logs\n${table(['State', 'Event', 'Source', 'Timestamp', 'Info'], rows)}`;
  }
  return text;
}

/** `machine list`: one Machine a line; those of hosts that do not answer carry a star. */
export function renderMachineList(machines: readonly Machine[]): string {
  if (machines.length === 0) return 'No Machines.\n';
  const starred = (machine: Machine) => machine.hostStatus === HostStatus.UNREACHABLE;
  const rows = machines.map((machine) => [
    `${machine.id}${starred(machine) ? '*' : ''}`,
    machine.name,
    stateOf(machine),
    checksOf(machine.checks),
    machine.region,
    machine.config?.image ?? '',
    machine.privateIp,
    machine.volumeId,
    formatTime(machine.createdAt),
    formatTime(machine.updatedAt),
    machine.hostId,
  ]);
  const headers = [
    'ID',
    'Name',
    'State',
    'Checks',
    'Region',
    'Image',
    'IP Address',
    'Volume',
    'Created',
    'Last Updated',
    'Host',
  ];
  const footer = machines.some(starred) ? '\n* The host of this Machine does not answer: shown as last seen.\n' : '';
  return table(headers, rows) + footer;
}
