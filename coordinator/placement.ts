import { HostStatus, type MachineConfig } from '../proto/gen/ferry/v1/machine_pb.ts';
import { FerryError } from '../shared/error.ts';
import type { HostRow } from './store/store.ts';

const gibibyte = 1024n * 1024n * 1024n;

/** What a Machine needs of a host. */
export interface Need {
  readonly memoryMb: bigint;
  readonly volumeBytes: bigint;
  /** Empty = any. */
  readonly region: string;
  /** Hosts that may not be chosen, with the reason. */
  readonly not: ReadonlyMap<string, string>;
}

/** What a config needs; a volume that exists already is given by its size. */
export function needOf(config: MachineConfig | undefined, existingVolumeBytes = 0n): Omit<Need, 'region' | 'not'> {
  const created = (config?.mounts ?? []).reduce((sum, mount) => sum + BigInt(mount.sizeGb) * gibibyte, 0n);
  const volumeBytes = created > existingVolumeBytes ? created : existingVolumeBytes;
  return { memoryMb: BigInt(config?.guest?.memoryMb ?? 0), volumeBytes };
}

/** Why a host cannot take a Machine, in words; undefined when it can. */
function refusalOf(host: HostRow, status: HostStatus, need: Need): string | undefined {
  const excluded = need.not.get(host.id);
  if (excluded !== undefined) return excluded;
  if (host.journalWentBack) return 'its journal went back';
  if (host.cordoned) return 'it is cordoned';
  if (status !== HostStatus.OK) return 'it does not answer';
  if (need.region !== '' && host.region !== need.region) return `it is in region ${host.region}`;
  const { memoryMb = 0n, memoryUsedMb = 0n, volumeFreeBytes = 0n } = host.capacity ?? {};
  const freeMb = memoryMb - memoryUsedMb;
  if (need.memoryMb > freeMb) return `it has ${freeMb} MiB of memory left, ${need.memoryMb} are needed`;
  if (need.volumeBytes > volumeFreeBytes) {
    return `it has ${volumeFreeBytes} bytes left for volumes, ${need.volumeBytes} are needed`;
  }
  return undefined;
}

/** Chooses the host with the most memory left; throws no_host with the refusal of each. */
export function chooseHost(hosts: readonly HostRow[], statusOf: (host: HostRow) => HostStatus, need: Need): HostRow {
  const refusals: Record<string, string> = {};
  let best: HostRow | undefined;
  for (const host of hosts) {
    const refusal = refusalOf(host, statusOf(host), need);
    if (refusal !== undefined) refusals[host.id] = refusal;
    else if (best === undefined || memoryLeft(host) > memoryLeft(best)) best = host;
  }
  if (best !== undefined) return best;
  const told = Object.entries(refusals).map(([host, why]) => `${host}: ${why}`);
  throw new FerryError(
    'no_host',
    told.length === 0 ? 'there are no hosts' : `no host can take the Machine (${told.join('; ')})`,
    { facts: refusals, nextAction: 'Start an agent, free room, or uncordon a host.' },
  );
}

function memoryLeft(host: HostRow): bigint {
  return (host.capacity?.memoryMb ?? 0n) - (host.capacity?.memoryUsedMb ?? 0n);
}

/** Refuses a host that an operator named, before anything is done; throws with the fitting reason. */
export function requireHost(host: HostRow, status: HostStatus, need: Need, field: string): void {
  const refusal = refusalOf(host, status, need);
  if (refusal === undefined) return;
  const options = { field, facts: { host: host.id } };
  const message = `host ${host.id} cannot take the Machine: ${refusal}`;
  if (host.journalWentBack) throw new FerryError('journal_went_back', message, options);
  if (host.cordoned) throw new FerryError('host_cordoned', message, options);
  if (status !== HostStatus.OK) throw new FerryError('host_unreachable', message, options);
  const { volumeFreeBytes = 0n } = host.capacity ?? {};
  if (need.volumeBytes <= volumeFreeBytes) throw new FerryError('no_host', message, options);
  const facts = { ...options.facts, needed: String(need.volumeBytes), free: String(volumeFreeBytes) };
  throw new FerryError('no_space', message, { field, facts });
}
