// Longer than usual: one round of a drain from what is known to what is ordered, in one place.
import { equals } from '@bufbuild/protobuf';
import { type Drain, DrainSchema } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import type { Migration } from '../../proto/gen/ferry/v1/migration_pb.ts';
import type { Clock } from '../../shared/clock.ts';
import { type FerryError, toFerryError } from '../../shared/error.ts';
import { newMigrationId } from '../../shared/ids.ts';
import type { Logger } from '../../shared/log.ts';
import type { Random } from '../../shared/random.ts';
import { isSilence } from '../agents.ts';
import type { Session } from '../sessions.ts';
import type { DrainRecord } from '../store/store.ts';
import { type DrainBook, type DrainDraft, draftOf } from './book.ts';
import { setCordon } from './cordon.ts';
import { type FactSources, type RoundFacts, readPlaces, readRound } from './facts.ts';
import { end, endOf } from './finish.ts';
import { keepAtAgent } from './keep.ts';
import { type CallOff, countFailure, observe, tryAgain } from './observe.ts';
import { type Begin, loadOf, newcomers, place, takeUp, wantsPlaces } from './place.ts';
import { account } from './progress.ts';
import { type ClusterLimits, limitsOf, pauseAfterMs } from './rules.ts';
import { tellWaits } from './waits.ts';

/** Changes of bytes and waits alone are written no more often. */
const progressMs = 1000;
/** Time between two orders to call the same migration off. */
const cancelAgainMs = 5000;
const cancelTimeoutMs = 5000;
const listTimeoutMs = 3000;
/** Time between two tries to have the drain kept by an agent that does not answer. */
const keepAgainMs = 5000;

/** What a drain wants of migrations. */
export interface Mover {
  /** Claims and begins a move under the ID that it names. Throws what keeps it from beginning. */
  begin(move: Begin, drain: Drain): Promise<void>;
  /** Takes a migration back if its source still agrees; it says why. */
  cancel({ migrationId, why }: CallOff, signal: AbortSignal): Promise<void>;
}

/** What rounds work with. */
export interface RoundParts extends FactSources {
  readonly book: DrainBook;
  readonly mover: Mover;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly limits: ClusterLimits;
}

/** What a drive remembers between rounds; nothing of it has to outlive a process. */
export interface RoundMemory {
  writtenMs: number;
  /** Marks of what the agent was told last, and when it was told in vain. */
  keptMark: string;
  keptInVainMs: number;
  readonly calledOffMs: Map<string, number>;
  /** Calls that no round waits for, because a silent host would keep all drains waiting; by what they are about. */
  readonly aside: Map<string, Promise<void>>;
}

/** What a drive remembers when it begins. */
export function newMemory(): RoundMemory {
  return {
    writtenMs: 0,
    keptMark: '',
    keptInVainMs: Number.NEGATIVE_INFINITY,
    calledOffMs: new Map(),
    aside: new Map(),
  };
}

/** How a round ended. */
export type RoundOutcome = 'on' | 'ended' | 'lost';

/** One round: look, take down what happened, write what is to begin, then order it. What is written can be resumed by anybody. */
export async function round(
  parts: RoundParts,
  id: string,
  session: Session,
  memory: RoundMemory,
): Promise<RoundOutcome> {
  const { book, clock, log } = parts;
  const record = await book.find(id);
  if (record.driver !== session.id) return 'lost';
  if (!record.open) return 'ended';
  const facts = await readRound(parts, record, clock.nowMs());
  if (!facts.source.cordoned && record.drain.endedAt === undefined) await setCordon(parts, record.drain.hostId, true);
  const draft = draftOf(record);
  const calledOff = observe(draft, facts);
  const begins = await beginMoves(parts, draft, facts);
  await endIfOver(parts, draft, facts);
  session.require();
  if (draft.open || !draft.plan.uncordonAfter || !draft.drain.cordonedByDrain) {
    if (!(await write(parts, record, draft, memory, begins.length > 0))) return 'on';
  } else {
    // The cordon goes before the drain ends: whoever takes over after a crash in between repeats it.
    await setCordon(parts, draft.drain.hostId, false);
    if (!(await book.write(draft, record))) return 'on';
  }
  for (const each of calledOff) aside(memory, each.migrationId, () => callOff(parts, each, memory));
  if (draft.open) aside(memory, id, () => keep(parts, draft.drain, memory));
  await Promise.all(begins.map((each) => beginOne(parts, draft.drain, each, session)));
  if (draft.open) return 'on';
  log.info({ drain: id, host: draft.drain.hostId }, `drain ended: ${draft.drain.message}`);
  return 'ended';
}

/** Does something that no round waits for, once at a time. `work` never throws. */
function aside({ aside: under }: RoundMemory, about: string, work: () => Promise<void>): void {
  if (under.has(about)) return;
  under.set(
    about,
    work().finally(() => under.delete(about)),
  );
}

/** Migrations of the drain by Machine. */
function byMachine({ machines }: Drain, { migrations }: RoundFacts): Map<string, Migration> {
  return new Map(
    machines.flatMap(({ machineId, migrationId }) => {
      const migration = migrations.get(migrationId);
      return migration === undefined ? [] : [[machineId, migration] as const];
    }),
  );
}

async function beginMoves(parts: RoundParts, draft: DrainDraft, facts: RoundFacts): Promise<Begin[]> {
  const { clock, random } = parts;
  const limits = limitsOf(draft.drain.options!, parts.limits);
  const load = loadOf(draft, facts);
  let begins: Begin[] = [];
  if (wantsPlaces(draft, facts, load, limits)) {
    const places = await readPlaces(parts, draft.drain.hostId, draft.drain.id);
    takeUp(draft, newcomers(draft, facts), places);
    begins = place(draft, facts, places, load, limits, () => newMigrationId(clock.nowMs(), random));
  }
  tellWaits(draft, facts, load, limits);
  account(draft.drain, byMachine(draft.drain, facts), limits);
  return begins;
}

async function endIfOver(parts: RoundParts, draft: DrainDraft, facts: RoundFacts): Promise<void> {
  const event = endOf(draft.drain);
  if (event === undefined || (event !== 'wound-up' && newcomers(draft, facts).length > 0)) return;
  if (event !== 'empty') return end(draft, event, facts.nowMs);
  const left = await ownedBy(parts, draft.drain.hostId);
  if (left === undefined) {
    return end(draft, event, facts.nowMs, '; it does not answer, so this is what the directory says');
  }
  if (left === 0) end(draft, event, facts.nowMs);
}

/** How many Machines the host owns by its own word, and tells the directory of them; undefined when it is silent. */
async function ownedBy({ agents, roster }: RoundParts, hostId: string): Promise<number | undefined> {
  try {
    const { machines } = await agents.machines(hostId, (client, options) => client.agentListMachines({}, options), {
      timeoutMs: listTimeoutMs,
    });
    const owned = machines.filter(({ state }) => state !== MachineState.MIGRATED && state !== MachineState.DESTROYED);
    for (const machine of owned) await roster.saw(machine, hostId);
    return owned.length;
  } catch (thrown) {
    const error = toFerryError(thrown);
    if (isSilence(error)) return undefined;
    throw error;
  }
}

/** False: somebody else has changed the drain; everything has to be looked at again. */
async function write(
  { book, clock }: RoundParts,
  record: DrainRecord,
  draft: DrainDraft,
  memory: RoundMemory,
  hasBegins: boolean,
): Promise<boolean> {
  const isSame =
    draft.open === record.open &&
    equals(DrainSchema, draft.drain, record.drain) &&
    JSON.stringify(draft.plan) === JSON.stringify(record.plan);
  if (isSame) return true;
  if (!hasBegins && isMinor(draft, record) && clock.nowMs() - memory.writtenMs < progressMs) return true;
  memory.writtenMs = clock.nowMs();
  return book.write(draft, record);
}

/** Whether a change is of bytes and waits alone: nothing is done because of it that has to be known after a crash. */
export function isMinor(draft: DrainDraft, record: Pick<DrainRecord, 'drain' | 'plan'>): boolean {
  return draft.open && markOf(draft) === markOf(record);
}

/** What has to be written at once: what is called off, too, or it would look like an operator's cancel. */
function markOf({ drain, plan }: Pick<DrainRecord, 'drain' | 'plan'>): string {
  const { state, machines, blockedNetworks } = drain;
  return JSON.stringify([
    state,
    blockedNetworks,
    plan.calledOff,
    machines.map(({ state, step, migrationId, destination, attempts, wait }) => [
      state,
      step,
      migrationId,
      destination,
      attempts,
      wait?.kind,
      wait?.subject,
    ]),
  ]);
}

async function callOff({ mover, clock, log }: RoundParts, order: CallOff, { calledOffMs }: RoundMemory): Promise<void> {
  const { migrationId } = order;
  const lastMs = calledOffMs.get(migrationId);
  if (lastMs !== undefined && clock.nowMs() - lastMs < cancelAgainMs) return;
  calledOffMs.set(migrationId, clock.nowMs());
  try {
    await mover.cancel(order, AbortSignal.timeout(cancelTimeoutMs));
  } catch (error) {
    log.info({ migration: migrationId, err: error }, 'a move could not be called off yet');
  }
}

async function beginOne(parts: RoundParts, drain: Drain, move: Begin, session: Session): Promise<void> {
  try {
    session.require();
    await parts.mover.begin(move, drain);
  } catch (thrown) {
    await notBegun(parts, drain.id, move, toFerryError(thrown));
  }
}

/** A move that was refused before its claim: nothing was done. A refusal for good counts as a try, as it may stay one. */
async function notBegun({ book, clock, log }: RoundParts, id: string, move: Begin, error: FerryError): Promise<void> {
  const { machineId, migrationId, destination } = move;
  log.info({ drain: id, machine: machineId, reason: error.reason }, `a move did not begin: ${error.message}`);
  const isPassing = error.disposition === 'retry' && error.facts.host !== destination;
  await book.update(id, (draft) => {
    const machine = draft.drain.machines.find((each) => each.machineId === machineId);
    if (machine?.migrationId !== migrationId) return;
    const { message: reason, nextAction } = error;
    machine.migrationId = '';
    if (error.reason !== 'machine_busy' && !isPassing) {
      countFailure(machine, draft, { id: '', destination, reason, nextAction }, clock.nowMs());
      return;
    }
    machine.reason = reason;
    tryAgain(machine, 0);
    if (isPassing) draft.plan.retryAtMs[machineId] = clock.nowMs() + pauseAfterMs(1);
  });
}

/** The agent keeps what a lost store would need; a host that is silent is told in a later round. */
async function keep({ agents, clock, log }: RoundParts, drain: Drain, memory: RoundMemory): Promise<void> {
  const mark = JSON.stringify([
    drain.state,
    drain.machines.map(({ machineId, state, migrationId }) => [machineId, state, migrationId]),
  ]);
  if (mark === memory.keptMark || clock.nowMs() - memory.keptInVainMs < keepAgainMs) return;
  try {
    await keepAtAgent(agents, drain);
    memory.keptMark = mark;
  } catch (error) {
    memory.keptInVainMs = clock.nowMs();
    log.info({ host: drain.hostId, err: error }, 'the drain is not recorded at its host yet');
  }
}
