import { less, plus, type Room } from './room.ts';

/** A host, as placement sees it. */
export interface Site {
  readonly id: string;
  readonly region: string;
  readonly standing: 'ok' | 'unknown' | 'unreachable';
  readonly cordoned: boolean;
  /** Drain that empties it, or empty. */
  readonly draining: string;
  readonly journalWentBack: boolean;
  readonly capabilities: ReadonlySet<string>;
  /** All that it has; 0 = not known. */
  readonly total: Room;
  /** What nobody was promised yet; may be below zero. */
  readonly left: Room;
  readonly machines: number;
  readonly machinesOfApp: ReadonlyMap<string, number>;
}

/** What a Machine wants of a host. */
export interface Need {
  readonly app: string;
  readonly room: Room;
  /** Its volume is an ext4 image that has to be mounted. */
  readonly mount: boolean;
  /** Empty = any. */
  readonly region: string;
  /** Only these; empty = any. */
  readonly to: ReadonlySet<string>;
  /** Not these, with the reason in words. */
  readonly not: ReadonlyMap<string, string>;
}

/** The host once the Machine is promised a place on it. */
export function promised(site: Site, { app, room }: Pick<Need, 'app' | 'room'>): Site {
  return changed(site, app, less(site.left, room), 1);
}

/** The host once such a promise is taken back. */
export function released(site: Site, { app, room }: Pick<Need, 'app' | 'room'>): Site {
  return changed(site, app, plus(site.left, room), -1);
}

function changed(site: Site, app: string, left: Room, by: 1 | -1): Site {
  const machinesOfApp = new Map(site.machinesOfApp);
  machinesOfApp.set(app, (machinesOfApp.get(app) ?? 0) + by);
  return { ...site, left, machines: site.machines + by, machinesOfApp };
}
