import type { HostStatus } from '../../proto/gen/ferry/v1/machine_pb.ts';
import type { Roster } from '../roster.ts';
import type { HostRow, Store } from '../store/store.ts';
import type { Site } from './site.ts';
import { type ClusterView, sitesOf, type Without } from './sites.ts';

/** The cluster as placement sees it, and what that was made of. */
export interface Cluster extends ClusterView {
  readonly sites: ReadonlyMap<string, Site>;
}

/** Reads what placement needs. */
export async function readCluster(
  store: Store,
  roster: Pick<Roster, 'status'>,
  without: Without = {},
): Promise<Cluster> {
  const [hosts, placements, migrations, drains] = await Promise.all([
    store.hosts(),
    store.placements({}),
    store.openMigrations(),
    store.openDrains(),
  ]);
  const statusOf = (host: HostRow): HostStatus => roster.status(host);
  const view = { hosts, statusOf, placements, migrations, drains, without };
  return { ...view, sites: sitesOf(view) };
}
