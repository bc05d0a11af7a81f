import type { Handover } from '../../proto/gen/ferry/v1/handover_pb.ts';
import { toFerryError } from '../../shared/error.ts';
import type { MigrationRecord } from '../store/store.ts';
import type { Change } from './book.ts';
import type { Journey } from './journey.ts';

/** Time that an agent gets to say where a hand-over stands when a drive begins; silence is fine. */
const askMs = 1000;

/** Where a hand-over stands at both its agents; undefined where the agent did not say. */
export interface Ends {
  readonly source: Handover | undefined;
  readonly destination: Handover | undefined;
}

/** Asks both agents, unless nobody can have ordered anything of them yet. */
export async function askEnds(journey: Journey, signal: AbortSignal): Promise<Ends> {
  const { finished } = journey.plan;
  if (finished.length === 0 && journey.record.driver === '' && journey.record.version === 1) {
    return { source: undefined, destination: undefined };
  }
  const ask = (host: string) =>
    journey.handover(host, signal, { timeoutMs: askMs }).catch((error: unknown) => {
      signal.throwIfAborted();
      if (toFerryError(error).reason === 'stale_term') throw error;
      return undefined;
    });
  const { source, destination } = journey.migration;
  const [from, to] = await Promise.all([ask(source), ask(destination)]);
  return { source: from, destination: to };
}

/** The highest driver term that the agent has seen for this migration. */
export function termOf(handover: Handover | undefined): bigint {
  return handover?.term ?? 0n;
}

/** Steps of `forward` that the agents' own rows prove to be done, in their order. */
export function provenSteps({ source, destination }: Ends): readonly string[] {
  const beforeStop = ['plan', 'prepare', 'precopy', 'lock'];
  const beforeSignature = [...beforeStop, 'stop', 'fork', 'relinquish'];
  if (destination?.role === 'destination' && destination.step === 'owner') return [...beforeSignature, 'accept'];
  if (source?.role !== 'source') return [];
  if (['relinquished', 'settled', 'tombstoned', 'parked'].includes(source.step)) return beforeSignature;
  return ['stopping', 'stopped'].includes(source.step) ? beforeStop : [];
}

/**
 * What a record on its way forward has missed: a store that another server took over may lack the last writes, and a driver may
 * have died between an order and its record. Undefined when it has missed nothing.
 */
export function catchUp({ migration, plan }: MigrationRecord, ends: Ends): Change | undefined {
  if (plan.direction !== 'forward') return undefined;
  const missed = provenSteps(ends).filter((step) => !plan.finished.includes(step));
  if (missed.length === 0) return undefined;
  const epoch = ends.source?.role === 'source' && migration.epoch === 0n ? ends.source.epoch + 1n : migration.epoch;
  return (draft) => {
    draft.plan.finished.push(...missed);
    draft.migration.holdsLock = true;
    draft.migration.epoch = epoch;
    const volumeId = ends.destination?.volumeId ?? '';
    if (volumeId !== '') draft.migration.destinationVolumeId = volumeId;
  };
}
