/**
 * A host's permits: one per network, durable, the safety beneath the network lock (the coordinator's store is only the queue).
 * Before a Machine of a network is stopped, every host of that network records the permit for that one migration and
 * refuses all others until it is given back.
 *
 *     grant    nobody has it        fence above all seen here            → held
 *     grant    same holder has it   fence not below                      → held (a repetition, or a raised fence)
 *     grant    another has it                                            → held_by_other, with the holder
 *     release  holder and fence equal, and nothing of it down here       → free; the fence seen stays
 *     release  free already, or held by another                          → no change: compare-and-delete
 */
import { type Refused, refuse } from './outcome.ts';

/** What a host has written down for one network. The row is never removed: `fence` is the highest ever seen. */
export interface Permit {
  readonly network: string;
  /** The migration that may stop a Machine of this network; for a move back the migration that it takes back. */
  readonly holder: string | null;
  readonly fence: number;
}

export type PermitOutcome =
  | { readonly ok: true; readonly permit: Permit; readonly holder: string | null }
  | (Refused & { readonly holder: string | null });

/** Grants or refuses. A refused fence tells the number seen here: mint above it. */
export function grant(held: Permit | null, wish: { network: string; holder: string; fence: number }): PermitOutcome {
  const seen = held?.fence ?? 0;
  const holder = held?.holder ?? null;
  if (holder !== null && holder !== wish.holder) {
    return { ...refuse('held_by_other', `network ${wish.network} is held by migration ${holder}`), holder };
  }
  // A finished grant must not come to life again when its order arrives a second time, so a free permit wants a new fence.
  const tooLow = holder === null ? wish.fence <= seen : wish.fence < seen;
  if (tooLow) {
    return {
      ...refuse('stale_fence', `fence ${wish.fence} is not above ${seen}, the highest seen here`, seen),
      holder,
    };
  }
  return { ok: true, permit: { network: wish.network, holder: wish.holder, fence: wish.fence }, holder: wish.holder };
}

/**
 * Gives a permit back if exactly this grant is held; anything else changes nothing and is no error.
 * @param inUse whether this host itself keeps a Machine of that network down for the holder
 */
export function release(
  held: Permit | null,
  wish: { network: string; holder: string; fence: number },
  inUse: boolean,
): PermitOutcome {
  const kept: Permit = held ?? { network: wish.network, holder: null, fence: 0 };
  if (kept.holder !== wish.holder || kept.fence !== wish.fence) return { ok: true, permit: kept, holder: kept.holder };
  if (inUse)
    return {
      ...refuse('in_use', `migration ${wish.holder} keeps a Machine of network ${wish.network} down here`),
      holder: wish.holder,
    };
  return { ok: true, permit: { ...kept, holder: null }, holder: null };
}

/**
 * What an agent answers when asked how a migration stands with it:
 * `active` a Machine is or may yet be down because of it · `over` ended, the Machine is not down because of it ·
 * `handed-over` given up, the destination knows more · `up-here` it arrived here and is up.
 */
export type Standing = 'active' | 'over' | 'handed-over' | 'up-here';

/**
 * Whether a lock or permit is nobody's any more, told from what the migration's two agents answer. Asking an agent that
 * never heard of the ID burns it there first (`over`), so that the answer stays true. The source decides until it gave
 * the Machine up: once its ID is burnt no ticket can come to be, whatever copy a destination still has.
 */
export function isOver(source: Standing, destination: Standing): boolean {
  return source === 'over' || (source === 'handed-over' && destination === 'up-here');
}
