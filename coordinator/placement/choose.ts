import { FerryError } from '../../shared/error.ts';
import type { Reason } from '../../shared/reasons.ts';
import { type Refusal, refusalOf } from './refusal.ts';
import { less, type Room } from './room.ts';
import type { Need, Site } from './site.ts';

/** Steps in which room is compared, so that a few bytes of difference do not outweigh the number of Machines. */
const roomSteps = 20;

/** spread: fewest Machines of the app, then most room, then fewest Machines. tight: the least room that does. */
export type Preference = 'spread' | 'tight';

/** Where a Machine goes, and why not to the others. */
export interface Choice {
  readonly site: Site | undefined;
  /** By host ID. */
  readonly refused: ReadonlyMap<string, Refusal>;
}

/** Chooses a host. The same hosts in any order give the same choice. */
export function choose(sites: Iterable<Site>, need: Need, preference: Preference = 'spread'): Choice {
  const refused = new Map<string, Refusal>();
  const compare = preference === 'spread' ? bySpread(need) : byTightness(need);
  let best: Site | undefined;
  for (const site of sites) {
    const refusal = refusalOf(site, need);
    if (refusal !== undefined) refused.set(site.id, refusal);
    else if (best === undefined || compare(site, best) < 0) best = site;
  }
  return { site: best, refused };
}

function bySpread(need: Need) {
  const ofApp = (site: Site) => site.machinesOfApp.get(need.app) ?? 0;
  const room = (site: Site) => Math.round(tightestShare(site, need) * roomSteps);
  return (a: Site, b: Site) => ofApp(a) - ofApp(b) || room(b) - room(a) || a.machines - b.machines || byId(a, b);
}

function byTightness(need: Need) {
  return (a: Site, b: Site) => tightestShare(a, need) - tightestShare(b, need) || byId(a, b);
}

function byId(a: Site, b: Site): number {
  return a.id < b.id ? -1 : 1;
}

/** The scarcest of CPU, memory and disk once the Machine is there: its share that is left, 0 to 1. */
function tightestShare({ left, total }: Site, { room }: Need): number {
  const after = less(left, room);
  const shares = (Object.keys(after) as (keyof Room)[])
    .filter((key) => total[key] > 0)
    .map((key) => after[key] / total[key]);
  return Math.max(0, Math.min(1, ...shares));
}

/** Chooses a host for one Machine; throws no_host with the refusal of each. */
export function chooseHost(sites: Iterable<Site>, need: Need): Site {
  const { site, refused } = choose(sites, need);
  if (site !== undefined) return site;
  const told = [...refused].map(([host, { text }]) => `${host}: ${text}`);
  throw new FerryError(
    'no_host',
    told.length === 0 ? 'there are no hosts' : `no host can take the Machine (${told.join('; ')})`,
    {
      facts: Object.fromEntries([...refused].map(([host, { text }]) => [host, text])),
      nextAction: 'Start an agent, free room, or uncordon a host.',
    },
  );
}

const reasonOf: Partial<Record<Refusal['kind'], Reason>> = {
  journal: 'journal_went_back',
  draining: 'host_cordoned',
  cordoned: 'host_cordoned',
  silent: 'host_unreachable',
  capability: 'unsupported',
  disk: 'no_space',
};

/** Refuses a host that an operator named, before anything is done; throws with the fitting reason. */
export function requireHost(site: Site, need: Need, field: string): void {
  const refusal = refusalOf(site, need);
  if (refusal === undefined) return;
  const room: Record<string, string> =
    refusal.kind === 'disk' ? { needed: String(need.room.diskBytes), free: String(site.left.diskBytes) } : {};
  throw new FerryError(
    reasonOf[refusal.kind] ?? 'no_host',
    `host ${site.id} cannot take the Machine: ${refusal.text}`,
    { field, facts: { host: site.id, ...room } },
  );
}
