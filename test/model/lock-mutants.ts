/** One mutant for each rule of the network lock; the model of permits.ts must find a break in each. */
import { asBuilt, type Rules } from './rules.ts';

export interface LockMutant {
  readonly rule: string;
  readonly rules: Rules;
}

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
  changed("a stop needs the permit's own fence", {
    nextSource: (state, event, context) =>
      product.nextSource(
        state,
        event.type === 'stop' && context.permit !== null ? { ...event, fence: context.permit.fence } : event,
        context,
      ),
  }),
  changed('a permit refuses every other holder', {
    grant: (held, wish) => product.grant(held === null ? null : { ...held, holder: wish.holder }, wish),
  }),
  changed('a release is compare-and-delete', {
    release: (held, wish, inUse) =>
      product.release(held, { ...wish, ...(held?.holder ? { holder: held.holder, fence: held.fence } : {}) }, inUse),
  }),
  changed('a release compares the fence', {
    release: (held, wish, inUse) => product.release(held, { ...wish, fence: held?.fence ?? wish.fence }, inUse),
  }),
  changed('no release while the Machine is down here', { release: (held, wish) => product.release(held, wish, false) }),
  changed('fences never go back', {
    grant: (held, wish) => product.grant(held === null ? null : { ...held, fence: 0 }, wish),
  }),
  changed('the settlement waits until the Machine is up', {
    pendingDestination: (state) => product.pendingDestination(state.step === 'owner' ? { ...state, up: true } : state),
  }),
  changed('a lock is over only when the Machine is up', {
    isOver: (source, destination) => source === 'handed-over' || product.isOver(source, destination),
  }),
  changed('the network waits until an aborted Machine is up', {
    sourceStanding: (state) => (state.step === 'aborted' ? 'over' : product.sourceStanding(state)),
    sourceKeepsDown: (state) => state.step !== 'aborted' && product.sourceKeepsDown(state),
  }),
  habit('all hosts are asked', { asksAllHosts: false }),
  habit('a fence is minted above all that were seen', { mintsAboveSeen: false }),
];

function changed(rule: string, part: Partial<Product>): LockMutant {
  return { rule, rules: { ...asBuilt, product: { ...asBuilt.product, ...part } } };
}

function habit(rule: string, part: Partial<Rules['executor']>): LockMutant {
  return { rule, rules: { ...asBuilt, executor: { ...asBuilt.executor, ...part } } };
}
