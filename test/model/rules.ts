/** Everything the model takes from the product, as one value, so that a mutant can replace one part from outside. */
import { mayStart, reconcile, sealOf, strayCopies } from '../../agent/handover/boot.ts';
import {
  destinationKeepsDown,
  destinationStanding,
  nextDestination,
  pendingDestination,
} from '../../agent/handover/destination.ts';
import { grant, isOver, release } from '../../agent/handover/permit.ts';
import {
  holdsMachine,
  mayDelete,
  nextSource,
  pendingSource,
  sourceKeepsDown,
  sourceStanding,
} from '../../agent/handover/source.ts';

export const product = {
  nextSource,
  pendingSource,
  holdsMachine,
  mayDelete,
  sourceKeepsDown,
  sourceStanding,
  nextDestination,
  destinationKeepsDown,
  destinationStanding,
  pendingDestination,
  mayStart,
  reconcile,
  sealOf,
  strayCopies,
  grant,
  release,
  isOver,
};

/** What the functions ask of the executor that performs them. Each is a rule of its own, so each has its mutant. */
export const executor = {
  /** `gone-observed` only when no process of the Machine is there. */
  observesGone: true,
  /** Relinquish reports what is seen at that moment. */
  looksAgain: true,
  /** A root is read only once STOPPED is durable. */
  readsRootAfterStopped: true,
  /** A statement leaves only when the markers are done. */
  marksBeforeDelivering: true,
  /** The journal's transaction comes before the marker's rename. */
  journalsBeforeMarking: true,
  /** Bytes are written to a copy only in row `prepared`. */
  reopensBeforeReceiving: true,
  /** Signal and observation come only once STOPPING is durable: what was seen before says nothing. */
  holdsBeforeSignal: true,
  /** ABORTED is durable before the Machine starts again. */
  abortsBeforeStarting: true,
  /** DECLINED is durable before the decline leaves. */
  declinesBeforeDelivering: true,
  /** The marker `receiving` is gone before the decline leaves. */
  unmarksBeforeDelivering: true,
  /** Each prepare mints a new copy ID. */
  mintsNewIds: true,
  /** Bytes freed by a decline only after the decline is durable. */
  declinesBeforeFreeing: true,
  /** All hosts of the network gave their permit before the stop is ordered (the coordinator's habit). */
  asksAllHosts: true,
  /** A fence is minted above all that the hosts have seen (the coordinator's habit). */
  mintsAboveSeen: true,
};

export interface Rules {
  readonly product: typeof product;
  readonly executor: typeof executor;
}

export const asBuilt: Rules = { product, executor };
