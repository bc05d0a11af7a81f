import type { CopyLimits, Host } from '../../proto/gen/ferry/v1/host_pb.ts';
import { HostStatus, type Machine } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { renderMachineList } from './machine.ts';
import { keyValues, table } from './table.ts';
import { formatBytes, formatRate, formatTime, plural, word } from './units.ts';

/** "ok", "ok, cordoned", "unreachable, draining", ... */
function statusOf(host: Host): string {
  const words = [word(HostStatus, host.status)];
  if (host.drainId !== '') words.push('draining');
  else if (host.cordoned) words.push('cordoned');
  return words.join(', ');
}

/** "out 50.0 MiB/s, in unlimited"; empty without limits. */
export function limitsText(limits: CopyLimits | undefined): string {
  const { sendBytesPerSecond = 0n, receiveBytesPerSecond = 0n } = limits ?? {};
  if (sendBytesPerSecond === 0n && receiveBytesPerSecond === 0n) return '';
  return `out ${formatRate(sendBytesPerSecond)}, in ${formatRate(receiveBytesPerSecond)}`;
}

/** Why it is not well; else where to read its notes. */
function infoOf({ id, reason, notes }: Host): string {
  if (reason !== '' || notes.length === 0) return reason;
  return `${plural(notes.length, 'note')}: ferry host status ${id}`;
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
    limitsText(host.copyLimits),
    host.address,
    host.dnsAddress,
    host.agentVersion,
    formatTime(host.lastHeartbeatAt),
    infoOf(host),
  ]);
  const headers = [
    'Host',
    'Status',
    'Region',
    'Machines',
    'Free',
    'Copy limits',
    'Address',
    'DNS',
    'Version',
    'Last heartbeat',
    'Info',
  ];
  return table(headers, rows);
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
    ['DNS', host.dnsAddress || 'none'],
    ['Capabilities', host.capabilities.join(', ')],
    ['Copy limits', limitsText(host.copyLimits) || 'none'],
  ];
  if (host.drainId !== '') pairs.push(['Drain', `${host.drainId} (ferry drain status ${host.drainId})`]);
  if (host.capacity !== undefined) {
    const { cpus, cpusUsed, memoryMb, memoryUsedMb, volumeFreeBytes, volumeTotalBytes } = host.capacity;
    const total = volumeTotalBytes === 0n ? '' : ` of ${formatBytes(volumeTotalBytes)}`;
    pairs.push(
      ['vCPUs', `${cpusUsed} of ${cpus} promised`],
      ['Memory', `${memoryUsedMb} of ${memoryMb} MiB promised`],
      ['Free', `${formatBytes(volumeFreeBytes)}${total} for volumes`],
    );
  }
  if (host.reason !== '') pairs.push(['Reason', host.reason]);
  const notes = host.notes.length === 0 ? '' : `\nNotes\n${host.notes.map((note) => `  - ${note}\n`).join('')}`;
  return `Host: ${host.id}\n\n${keyValues(pairs)}${notes}\nMachines\n${renderMachineList(machines)}`;
}
