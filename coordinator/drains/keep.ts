import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import {
  type Drain,
  type DrainMachine,
  DrainMachineSchema,
  DrainMachineState,
  DrainSchema,
} from '../../proto/gen/ferry/v1/drain_pb.ts';
import { FerryError } from '../../shared/error.ts';
import type { Agents } from '../agents.ts';
import type { Store } from '../store/store.ts';
import { newPlan } from './book.ts';
import { hasDrainEnded } from './state.ts';

const timeoutMs = 2000;
/** What an agent keeps at most. */
const keptBytesMax = 1024 * 1024;

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
