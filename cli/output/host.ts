import type { Host } from '../../proto/gen/ferry/v1/host_pb.ts';
import { HostStatus, type Machine } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { renderMachineList } from './machine.ts';
import { keyValues, table } from './table.ts';
import { formatBytes, formatTime, word } from './units.ts';

/** "ok", "ok, cordoned", "unreachable", ... */
function statusOf(host: Host): string {
  return `${word(HostStatus, host.status)}${host.cordoned ? ', cordoned' : ''}`;
}

/** `host list`. */
export function renderHostList(hosts: readonly Host[]): string {
  if (hosts.length === 0) return 'No hosts. An agent makes its host known: ferry agent --host NAME --data-dir DIR\n';
  const rows = hosts.map((host) => [
    host.id,
    statusOf(host),
    host.region,
    String(host.machineCount),
    host.capacity === undefined ? '' : formatBytes(host.capacity.volumeFreeBytes),
    host.address,
    host.agentVersion,
    formatTime(host.lastHeartbeatAt),
    host.reason,
  ]);
  return table(['Host', 'Status', 'Region', 'Machines', 'Free', 'Address', 'Version', 'Last heartbeat', 'Info'], rows);
}

/** `host status`. */
export function renderHostStatus(host: Host, machines: readonly Machine[]): string {
  const pairs: [string, string][] = [
    ['Status', statusOf(host)],
    ['Number', String(host.number)],
    ['Region', host.region],
    ['Address', host.address],
    ['Version', host.agentVersion],
    ['Last heartbeat', formatTime(host.lastHeartbeatAt)],
    ['Capabilities', host.capabilities.join(', ')],
  ];
  if (host.capacity !== undefined) {
    const { cpus, memoryMb, memoryUsedMb, volumeFreeBytes } = host.capacity;
    pairs.push(
      ['vCPUs', String(cpus)],
      ['Memory', `${memoryUsedMb} of ${memoryMb} MiB promised`],
      ['Free', formatBytes(volumeFreeBytes)],
    );
  }
  if (host.reason !== '') pairs.push(['Reason', host.reason]);
  return `Host: ${host.id}\n\n${keyValues(pairs)}\nMachines\n${renderMachineList(machines)}`;
}
