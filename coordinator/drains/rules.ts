import type { DrainOptions } from '../../proto/gen/ferry/v1/drain_pb.ts';
import type { MoveLimits } from '../placement/order.ts';

/** Machines of a host that are moved at once, unless a drain says otherwise. */
export const concurrencyDefault = 4;
/** Tries a Machine before it is parked, unless a drain says otherwise. */
export const attemptsDefault = 3;
/** How long a Machine waits for room, or for a network that a parked migration keeps locked, before it is parked. */
export const patienceMs = 60_000;

const firstPauseMs = 5_000;
const pauseGrowth = 6;
const pauseMsMax = 300_000;

/** Limits that count for all drains of the cluster. */
export interface ClusterLimits {
  readonly perDestination: number;
  readonly total: number;
}

/** The limits of one drain. */
export function limitsOf({ concurrency }: DrainOptions, { perDestination, total }: ClusterLimits): MoveLimits {
  return { perSource: concurrency === 0 ? concurrencyDefault : concurrency, perDestination, total };
}

/** The pause before the next try, after so many that failed. */
export function pauseAfterMs(attempts: number): number {
  return Math.min(pauseMsMax, firstPauseMs * pauseGrowth ** Math.max(0, attempts - 1));
}
