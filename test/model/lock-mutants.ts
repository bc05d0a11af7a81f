/**
 * One mutant for each rule of the network lock; the model of permits.ts must find a break in each. Three rules are second
 * lines, which the others make unnecessary in this world, so their tests are in agent/handover: the fence that a stop names,
 * the new fence that a free permit wants, and the Machine that must be up before its lock is over.
 */
import type { LockBounds } from './permits.ts';
import { asBuilt, type Rules } from './rules.ts';

export interface LockMutant {
  readonly rule: string;
  readonly rules: Rules;
  readonly bounds: LockBounds;
}

/** Two Machines stopped and moved. */
export const moving: LockBounds = { fenceMax: 2, lateGrants: false, moves: true };
/** Permits that come and go more often, with nothing moved. */
export const asking: LockBounds = { fenceMax: 3, lateGrants: true, moves: false };

type Product = Rules['product'];

const { product } = asBuilt;

export const lockMutants: readonly LockMutant[] = [
  changed('a stop needs the permit', {
    nextSource: (state, event, context) => {
      if (event.type !== 'stop' || !state?.offer) return product.nextSource(state, event, context);
      const { network, lockHolder: holder } = state.offer;
      return product.nextSource(state, event, { ...context, permit: { network, holder, fence: event.fence } });
    },
  }),
  changed('a permit refuses every other holder', {
    grant: (held, wish) => product.grant(held === null ? null : { ...held, holder: wish.holder }, wish),
  }),
  changed(
    'a release is compare-and-delete',
    {
      release: (held, wish, inUse) =>
        product.release(held, held?.holder ? { ...held, holder: held.holder } : wish, inUse),
    },
    asking,
  ),
  changed(
    'a release compares the fence',
    { release: (held, wish, inUse) => product.release(held, { ...wish, fence: held?.fence ?? wish.fence }, inUse) },
    asking,
  ),
  changed('no release while the Machine is down here', { release: (held, wish) => product.release(held, wish, false) }),
  changed('fences never go back', {
    grant: (held, wish) => product.grant(held === null ? null : { ...held, fence: 0 }, wish),
  }),
  changed('the settlement waits until the Machine is up', {
    pendingDestination: (state) => product.pendingDestination(state.step === 'owner' ? { ...state, up: true } : state),
  }),
  changed('the network waits until an aborted Machine is up', {
    sourceStanding: (state) => (state.step === 'aborted' ? 'over' : product.sourceStanding(state)),
    sourceKeepsDown: (state) => state.step !== 'aborted' && product.sourceKeepsDown(state),
  }),
  habit('all hosts are asked', { asksAllHosts: false }),
  habit('a fence is minted above all that were seen', { mintsAboveSeen: false }, asking),
];

function changed(rule: string, part: Partial<Product>, bounds: LockBounds = moving): LockMutant {
  return { rule, bounds, rules: { ...asBuilt, product: { ...asBuilt.product, ...part } } };
}

function habit(rule: string, part: Partial<Rules['executor']>, bounds: LockBounds = moving): LockMutant {
  return { rule, bounds, rules: { ...asBuilt, executor: { ...asBuilt.executor, ...part } } };
}
