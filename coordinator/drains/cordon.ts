import type { Logger } from '../../shared/log.ts';
import type { Agents } from '../agents.ts';
import type { Store } from '../store/store.ts';

const timeoutMs = 2000;

/** Sets a host's cordon, and tells its agent, which keeps it for a lost store; a silent one is told after its next heartbeat. */
export async function setCordon(
  { store, agents, log }: { readonly store: Store; readonly agents: Agents; readonly log: Logger },
  hostId: string,
  cordoned: boolean,
): Promise<void> {
  await store.setCordon(hostId, cordoned);
  await agents
    .machines(hostId, (client, options) => client.setCordon({ cordoned }, options), { timeoutMs })
    .catch((error: unknown) => log.info({ host: hostId, err: error }, 'cordon not recorded at the host yet'));
}
