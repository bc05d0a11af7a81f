import type { DirectoryRow } from '../../proto/gen/ferry/v1/directory_pb.ts';
import type { Permit } from '../../proto/gen/ferry/v1/lock_pb.ts';
import type { FerryError } from '../../shared/error.ts';
import { toFerryError } from '../../shared/error.ts';
import { type Agents, isSilence } from '../agents.ts';

/** What is asked of each host. */
export interface PermitWish {
  readonly network: string;
  /** Migration that the lock belongs to. */
  readonly holder: string;
  readonly fence: bigint;
  readonly term: bigint;
}

/** How asking all hosts ended. */
export type PermitOutcome =
  | { readonly kind: 'granted' }
  /** A host promised the network to another migration; what was granted is given back. */
  | { readonly kind: 'refused'; readonly host: string; readonly holder: string }
  /** A host has seen a higher fence: mint above it. */
  | { readonly kind: 'stale'; readonly host: string; readonly fence: bigint }
  /** A host does not answer: its Machine may be down already. What was granted stays. */
  | { readonly kind: 'silent'; readonly host: string };

/**
 * Asks the hosts, in the order given (host numbers), to promise the network to one migration; gives back on a refusal, so
 * that two askers cannot block each other.
 */
export async function askPermits(
  agents: Agents,
  hosts: readonly string[],
  wish: PermitWish,
  signal: AbortSignal,
): Promise<PermitOutcome> {
  const { network, holder, fence, term } = wish;
  for (const [index, host] of hosts.entries()) {
    try {
      await agents.handover(
        host,
        (client, options) => client.grantPermit({ permit: { network, migrationId: holder, fence }, term }, options),
        { signal },
      );
    } catch (thrown) {
      signal.throwIfAborted();
      const error = toFerryError(thrown);
      if (isSilence(error)) return { kind: 'silent', host };
      if (error.reason === 'stale_fence') return { kind: 'stale', host, fence: fenceOf(error, fence) };
      if (error.reason !== 'permit_refused') throw error;
      await Promise.all(hosts.slice(0, index).map((other) => givePermitBack(agents, other, wish).catch(() => {})));
      return { kind: 'refused', host, holder: error.facts.holder ?? '' };
    }
  }
  return { kind: 'granted' };
}

/** The fence that the host has seen, from the refusal's facts. */
function fenceOf(error: FerryError, asked: bigint): bigint {
  const told = error.facts.seen ?? '';
  const seen = /^\d{1,18}$/.test(told) ? BigInt(told) : asked;
  return seen > asked ? seen : asked;
}

/** All permits that a host has given. */
export async function permitsOf(agents: Agents, host: string, signal?: AbortSignal): Promise<readonly Permit[]> {
  const { permits } = await agents.handover(host, (client, options) => client.listPermits({}, options), {
    signal,
    timeoutMs: 2000,
  });
  return permits;
}

/**
 * Gives a permit back, with whatever fence the host has it: a grant whose answer was lost may have raised it.
 * With it the host learns where the Machine is (`directory`), before it can permit the next stop.
 * Throws when the host does not answer or still needs it.
 */
export async function givePermitBack(
  agents: Agents,
  host: string,
  wish: { readonly network: string; readonly holder: string; readonly directory?: DirectoryRow | undefined },
  signal?: AbortSignal,
): Promise<void> {
  const told = wish.directory === undefined ? {} : { directory: wish.directory };
  for (const permit of await permitsOf(agents, host, signal)) {
    if (permit.network !== wish.network || permit.migrationId !== wish.holder) continue;
    await agents.handover(host, (client, options) => client.releasePermit({ permit, ...told }, options), {
      signal,
      timeoutMs: 2000,
    });
  }
}
