import { type Choice, choose, type Preference } from './choose.ts';
import type { Refusal } from './refusal.ts';
import type { Room } from './room.ts';
import { type Need, promised, type Site } from './site.ts';

/** A Machine that needs a place. */
export interface Seeker {
  readonly machineId: string;
  readonly need: Need;
}

/** Where one goes; without a site `refused` says why not, host by host. */
export interface Assignment {
  readonly site: string | undefined;
  readonly refused: ReadonlyMap<string, Refusal>;
}

/**
 * A place for each of many Machines, no place promised twice. The biggest chooses first, because the small ones fit
 * into what is left. Spread comes first; where it leaves a Machine without a place, all are packed tightly instead if
 * that places more of them.
 */
export function assign(seekers: readonly Seeker[], sites: ReadonlyMap<string, Site>): Map<string, Assignment> {
  const biggestFirst = [...seekers].sort((a, b) => bySize(b.need.room, a.need.room) || byId(a, b));
  const spread = assignAll(biggestFirst, sites, 'spread');
  if (homeless(spread) === 0) return spread;
  const tight = assignAll(biggestFirst, sites, 'tight');
  return homeless(tight) < homeless(spread) ? tight : spread;
}

function assignAll(seekers: readonly Seeker[], sites: ReadonlyMap<string, Site>, preference: Preference) {
  const left = new Map(sites);
  const assigned = new Map<string, Assignment>();
  for (const { machineId, need } of seekers) {
    const { site, refused }: Choice = choose(left.values(), need, preference);
    assigned.set(machineId, { site: site?.id, refused });
    if (site !== undefined) left.set(site.id, promised(site, need));
  }
  return assigned;
}

function homeless(assigned: ReadonlyMap<string, Assignment>): number {
  return [...assigned.values()].filter(({ site }) => site === undefined).length;
}

function bySize(a: Room, b: Room): number {
  return a.diskBytes - b.diskBytes || a.memoryMb - b.memoryMb || a.cpuShares - b.cpuShares;
}

function byId(a: Seeker, b: Seeker): number {
  return a.machineId < b.machineId ? -1 : 1;
}
