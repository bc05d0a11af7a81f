import { diskReserveBytes, sharedPerCpu } from './room.ts';
import type { Need, Site } from './site.ts';
import { bytesText } from './words.ts';

/** Why a host cannot take a Machine. */
export interface Refusal {
  readonly kind:
    | 'excluded'
    | 'journal'
    | 'draining'
    | 'cordoned'
    | 'silent'
    | 'region'
    | 'capability'
    | 'cpus'
    | 'memory'
    | 'disk';
  /** In words, after the name of the host. */
  readonly text: string;
}

/** Why this host cannot take the Machine; undefined when it can. */
export function refusalOf(site: Site, need: Need): Refusal | undefined {
  const excluded = need.not.get(site.id);
  if (excluded !== undefined) return { kind: 'excluded', text: excluded };
  if (need.to.size > 0 && !need.to.has(site.id)) {
    return { kind: 'excluded', text: 'it is not one of the hosts that were named' };
  }
  if (site.journalWentBack) return { kind: 'journal', text: 'its journal went back' };
  if (site.draining !== '') return { kind: 'draining', text: `it is drained itself, by ${site.draining}` };
  if (site.cordoned) return { kind: 'cordoned', text: 'it is cordoned' };
  if (site.standing !== 'ok') return { kind: 'silent', text: 'it does not answer' };
  if (need.region !== '' && site.region !== need.region) {
    return { kind: 'region', text: `it is in region ${site.region}, not ${need.region}` };
  }
  if (need.mount && !site.capabilities.has('mount')) {
    return { kind: 'capability', text: 'it cannot mount volumes' };
  }
  return roomRefusal(site, need);
}

function roomRefusal({ left }: Site, { room }: Need): Refusal | undefined {
  if (room.cpuShares > 0 && room.cpuShares > left.cpuShares) {
    return { kind: 'cpus', text: `it has ${cpus(left.cpuShares)} CPUs left, ${cpus(room.cpuShares)} are needed` };
  }
  if (room.memoryMb > 0 && room.memoryMb > left.memoryMb) {
    return { kind: 'memory', text: `it has ${left.memoryMb} MiB of memory left, ${room.memoryMb} are needed` };
  }
  if (room.diskBytes > 0 && room.diskBytes + diskReserveBytes > left.diskBytes) {
    const needed = `${bytesText(room.diskBytes)} and ${bytesText(diskReserveBytes)} to spare`;
    return { kind: 'disk', text: `it has ${bytesText(left.diskBytes)} left for volumes, ${needed} are needed` };
  }
  return undefined;
}

function cpus(shares: number): string {
  return String(Math.round((shares * 100) / sharedPerCpu) / 100);
}
