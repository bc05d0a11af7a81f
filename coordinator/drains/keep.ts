import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import {
  type Drain,
  type DrainMachine,
  DrainMachineSchema,
  DrainMachineState,
  DrainSchema,
} from '../../proto/gen/ferry/v1/drain_pb.ts';
import { FerryError, toFerryError } from '../../shared/error.ts';
import type { Logger } from '../../shared/log.ts';
import type { Agents } from '../agents.ts';
import type { DrainRecord, Store } from '../store/store.ts';
import { type DrainBook, newPlan } from './book.ts';
import { hasDrainEnded } from './state.ts';

const timeoutMs = 2000;
/** Drains that are looked through for those that have ended. */
const endedMax = 200;
/** What an agent keeps at most. */
const keptBytesMax = 1024 * 1024;

/** What forgetting works with. */
export interface Forgetting {
  readonly store: Pick<Store, 'drains' | 'drainOfHost'>;
  readonly agents: Agents;
  readonly book: Pick<DrainBook, 'update'>;
  readonly log: Logger;
}

/** A drain as its host's agent keeps it for a lost store: what was ordered and how far it is, without what can be found out anew. */
export function keptForm(drain: Drain): Uint8Array {
  const slim = (machine: DrainMachine): DrainMachine => {
    const isParked = machine.state === DrainMachineState.PARKED;
    const kept = create(DrainMachineSchema, { ...machine, refusedHosts: {}, blockers: [], strategyNote: '' });
    if (!isParked) Object.assign(kept, { reason: '', nextAction: '' });
    delete kept.wait;
    return kept;
  };
  const { id, hostId, state, reason, orderedBy, options, createdAt, cordonedByDrain, predictedTotalMs } = drain;
  const kept = create(DrainSchema, {
    id,
    hostId,
    state,
    reason,
    orderedBy,
    options,
    createdAt,
    cordonedByDrain,
    predictedTotalMs,
    machines: drain.machines.map(slim),
  });
  const bytes = toBinary(DrainSchema, kept);
  if (bytes.length <= keptBytesMax) return bytes;
  // The Machines of a host are known to its agent anyway; only what happened to them is lost then.
  kept.machines = [];
  return toBinary(DrainSchema, kept);
}

/** Has the agent keep the drain; one that has ended is kept no longer. */
export async function keepAtAgent(agents: Agents, drain: Drain): Promise<void> {
  const bytes = hasDrainEnded(drain.state) ? new Uint8Array() : keptForm(drain);
  await agents.machines(
    drain.hostId,
    (client, options) => client.setDrain({ drain: bytes, drainId: drain.id }, options),
    { timeoutMs },
  );
}

/**
 * Has agents forget drains that ended while they did not answer: a lost store would have them begin anew. A host that was
 * forgotten, or that a newer drain empties, keeps nothing of the old one.
 */
export async function forgetEnded({ store, agents, book, log }: Forgetting): Promise<void> {
  const owed = (await store.drains(endedMax)).filter(({ open, plan }) => !open && plan.forgetOwed);
  const forget = async ({ drain }: DrainRecord) => {
    const newest = await store.drainOfHost(drain.hostId);
    try {
      if (newest?.drain.id === drain.id) await keepAtAgent(agents, drain);
    } catch (error) {
      if (toFerryError(error).reason !== 'unknown_host') {
        log.info({ host: drain.hostId, drain: drain.id, err: error }, 'its host still keeps a drain that has ended');
        return;
      }
    }
    await book.update(drain.id, (draft) => {
      // Resumed meanwhile: then it is kept again.
      if (!draft.open) draft.plan.forgetOwed = false;
    });
  };
  await Promise.all(owed.map(forget));
}

/**
 * Writes a drain that an agent has kept into a store that lost it; it is driven from then on. Answers whether it was
 * missing. Throws invalid_argument when the bytes are no drain of that host.
 */
export async function restoreDrain(store: Store, hostId: string, kept: Uint8Array): Promise<boolean> {
  if (kept.length === 0) return false;
  const drain = readKept(kept, hostId);
  if (hasDrainEnded(drain.state) || (await store.drain(drain.id)) !== undefined) return false;
  const answer = await store.createDrain({ drain, plan: newPlan(), version: 1, open: true, driver: '' });
  return answer.kind === 'created';
}

function readKept(kept: Uint8Array, hostId: string): Drain {
  try {
    const drain = fromBinary(DrainSchema, kept);
    if (drain.hostId === hostId && drain.id !== '' && drain.options !== undefined) return drain;
  } catch (cause) {
    throw new FerryError('invalid_argument', `what host ${hostId} keeps is no drain`, { field: 'drain', cause });
  }
  throw new FerryError('invalid_argument', `host ${hostId} keeps a drain of another host`, { field: 'drain' });
}
