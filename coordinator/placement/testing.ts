import { noRoom, type Room, sharedPerCpu } from './room.ts';
import type { Need, Site } from './site.ts';

const gibibyte = 1024 ** 3;

/** A host with 8 CPUs, 8 GiB of memory and 100 GiB of disk, for tests. */
export function siteLike(id: string, changes: Partial<Site> = {}): Site {
  const total: Room = { cpuShares: 8 * sharedPerCpu, memoryMb: 8192, diskBytes: 100 * gibibyte };
  return {
    id,
    region: 'ams',
    standing: 'ok',
    cordoned: false,
    draining: '',
    journalWentBack: false,
    capabilities: new Set(['mount', 'reflink']),
    total,
    left: changes.total ?? total,
    machines: 0,
    machinesOfApp: new Map(),
    ...changes,
  };
}

/** A Machine of app "shop" that needs nothing special, for tests. */
export function needLike(changes: Partial<Omit<Need, 'room'>> & { readonly room?: Partial<Room> } = {}): Need {
  return {
    app: 'shop',
    mount: false,
    region: '',
    to: new Set(),
    not: new Map(),
    ...changes,
    room: { ...noRoom, ...changes.room },
  };
}

/** Hosts by ID. */
export function sitesLike(...sites: readonly Site[]): Map<string, Site> {
  return new Map(sites.map((site) => [site.id, site]));
}
