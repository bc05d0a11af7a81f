// Longer than usual: everything that can have happened to a Machine of a drain, so that no way out is overlooked.
import { type Drain, type DrainMachine, DrainMachineState, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { type Migration, MigrationState, MigrationStep } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { stepMs } from '../placement/estimate.ts';
import type { DrainPlan } from '../store/store.ts';
import type { DrainDraft } from './book.ts';
import type { Blocker, RoundFacts } from './facts.ts';
import { attemptsDefault, patienceMs, pauseAfterMs } from './rules.ts';
import { stepOfMachine } from './state.ts';
import { blockerOf, inLine, otherMigration, waitedMs } from './waits.ts';

const { WAITING, MOVING, MOVED, PARKED, GONE } = DrainMachineState;

/** Migrations of earlier tries that a Machine keeps: one that waits for a silent host takes its turn again and again. */
const earlierMax = 20;

/** A migration that is to be taken back. */
export interface CallOff {
  readonly migrationId: string;
  /** In words, as the migration will say it. */
  readonly why: string;
}

/** Takes down what has happened since the last round; answers the migrations that are to be called off. Changes the draft. */
export function observe(draft: DrainDraft, facts: RoundFacts): CallOff[] {
  const { drain } = draft;
  for (const machine of drain.machines) {
    if (machine.state === MOVING) followMove(machine, draft, facts);
    if (machine.state === PARKED) followParked(machine, facts);
    if (machine.state === WAITING || machine.state === PARKED) adopt(machine, drain.id, facts);
    if (machine.state === WAITING || machine.state === PARKED) noteLeft(machine, facts);
    if (machine.state === MOVED || machine.state === GONE) noteBack(machine, draft.plan, facts);
    if (machine.state === WAITING) parkBlocked(machine, draft, facts);
  }
  drain.blockedNetworks = [
    ...new Set(drain.machines.map(({ network }) => network).filter((network) => facts.blocked.has(network))),
  ];
  return [...callOff(draft, facts)];
}

function followMove(machine: DrainMachine, draft: DrainDraft, facts: RoundFacts): void {
  const migration = facts.migrations.get(machine.migrationId);
  // Written down, but never claimed: the coordinator died in between, or the store lost it.
  if (migration === undefined) {
    tryAgain(machine, 0);
    return;
  }
  machine.step = migration.step;
  machine.destination = migration.destination;
  measure(machine, migration);
  switch (migration.state) {
    case MigrationState.MOVED:
      arrive(machine, migration, '');
      break;
    case MigrationState.MOVED_BACK:
      machine.host = draft.drain.hostId;
      if (migration.failure === 'cancelled') cancelledMove(machine, migration, draft, facts);
      else countFailure(machine, draft, migration, facts.nowMs);
      break;
    case MigrationState.PARKED:
      parkedMove(machine, migration, facts);
      break;
  }
}

function measure(machine: DrainMachine, migration: Migration): void {
  const copyMs = stepMs(migration, MigrationStep.PRECOPY, MigrationStep.FORK);
  const waitMs = stepMs(migration, MigrationStep.LOCK);
  if (copyMs !== undefined) machine.copyMs = BigInt(copyMs);
  if (waitMs !== undefined) machine.waitMs = BigInt(waitMs);
  if (migration.downtime !== undefined) machine.downtime = migration.downtime;
}

function arrive(machine: DrainMachine, { destination }: Migration, reason: string): void {
  machine.state = stepOfMachine(machine.state, 'moved');
  machine.networkBlocked = false;
  machine.host = destination;
  machine.reason = reason;
  machine.nextAction = '';
}

/**
 * A migration that parks once the Machine is up at its destination leaves the drain nothing to do. One that goes back ends with
 * the same step, and its Machine is here.
 */
function parkedMove(machine: DrainMachine, migration: Migration, { here }: RoundFacts): void {
  const { step, reason, nextAction, id } = migration;
  const isLast = step === MigrationStep.SETTLE || step === MigrationStep.RELEASE;
  if (isLast && !here.has(machine.machineId)) {
    arrive(machine, migration, `it moved, but ${id} is parked: ${reason}`);
    machine.nextAction = nextAction;
    return;
  }
  park(machine, `${id} is parked: ${reason}`, nextAction);
  machine.networkBlocked = migration.holdsLock;
}

function cancelledMove(machine: DrainMachine, { id }: Migration, { drain, plan }: DrainDraft, facts: RoundFacts): void {
  const holder = blockerOf(machine, facts);
  const isOurs = plan.calledOff.includes(id);
  plan.calledOff = plan.calledOff.filter((each) => each !== id);
  if (isOurs && holder !== undefined) {
    parkFor(machine, holder, drain.hostId);
  } else if (isOurs || drain.state === DrainState.CANCELLING) {
    tryAgain(machine, 0);
  } else {
    const next = `Nothing, if that was meant; else "ferry drain resume ${drain.hostId}".`;
    park(machine, `an operator cancelled ${id}`, next);
  }
}

/** A try that failed, and where. */
interface Failure {
  /** Its migration; empty when it was refused before there was one. */
  readonly id: string;
  readonly destination: string;
  readonly reason: string;
  readonly nextAction: string;
}

/** Tries again after a pause, elsewhere first; parks after the last try. */
export function countFailure(machine: DrainMachine, draft: DrainDraft, failure: Failure, nowMs: number): void {
  const { drain, plan } = draft;
  const { machineId, attempts } = machine;
  const { id, reason, nextAction, destination } = failure;
  const attemptsMax = drain.options?.attemptsMax || attemptsDefault;
  if (attempts >= attemptsMax && drain.state !== DrainState.CANCELLING) {
    const next = `${nextAction} Then "ferry drain resume ${drain.hostId}".`.trim();
    park(machine, `${attempts} tries have failed; the last one${id === '' ? '' : `, ${id}`}: ${reason}`, next);
    return;
  }
  const failed = { ...plan.failedAt[machineId], [destination]: `a move there failed: ${reason}` };
  plan.failedAt = { ...plan.failedAt, [machineId]: failed };
  plan.retryAtMs[machineId] = nowMs + pauseAfterMs(attempts);
  tryAgain(machine, attempts);
  machine.reason = reason;
}

/** Back to waiting, for another place. `attempts`: what this one counts as; 0 = nothing was tried. */
export function tryAgain(machine: DrainMachine, attempts: number): void {
  machine.state = stepOfMachine(machine.state, 'again');
  machine.networkBlocked = false;
  if (attempts === 0) machine.attempts = Math.max(0, machine.attempts - 1);
  machine.step = MigrationStep.UNSPECIFIED;
}

/** Stops trying; what is known stays as evidence. */
export function park(machine: DrainMachine, reason: string, nextAction: string): void {
  machine.state = stepOfMachine(machine.state, 'park');
  machine.reason = reason;
  machine.nextAction = nextAction;
}

function parkFor(machine: DrainMachine, holder: Blocker, hostId: string): void {
  const { id } = holder;
  const next =
    `The network is free once that Machine is well again, moved ("ferry migration retry ${id}"), or accepted as down ` +
    `("ferry migration accept-down ${id}"). Then "ferry drain resume ${hostId}".`;
  park(machine, blockedText(machine.network, holder), next);
}

/** Why nothing of a network can be moved: what keeps it locked. */
function blockedText(network: string, { id, machineId, reason }: Blocker): string {
  const why = reason === '' ? '' : ` (${reason})`;
  return `network ${network} is blocked: the parked migration ${id} of Machine ${machineId} keeps it locked${why}`;
}

function followParked(machine: DrainMachine, { migrations }: RoundFacts): void {
  const migration = migrations.get(machine.migrationId);
  machine.networkBlocked = migration?.state === MigrationState.PARKED && migration.holdsLock;
}

function noteLeft(machine: DrainMachine, facts: RoundFacts): void {
  const { machineId } = machine;
  if (facts.here.has(machineId) || machine.networkBlocked) return;
  const host = facts.elsewhere.get(machineId);
  // A host that does not report may have it still.
  if (host === undefined && facts.standing !== 'ok') return;
  machine.state = stepOfMachine(machine.state, 'left');
  machine.host = host ?? '';
  machine.reason = leftText(host, facts.migrations.get(machine.migrationId));
  machine.nextAction = '';
}

function leftText(host: string | undefined, last: Migration | undefined): string {
  if (host === undefined) return 'it was destroyed';
  return last?.destination === host
    ? `it is on host ${host} since ${last.id}, which was parked there`
    : `it left for host ${host} without this drain`;
}

function noteBack(machine: DrainMachine, plan: DrainPlan, facts: RoundFacts): void {
  if (!facts.here.has(machine.machineId)) return;
  machine.state = stepOfMachine(machine.state, 'back');
  machine.reason = 'it came back to this host';
  machine.host = facts.source.id;
  machine.attempts = 0;
  delete plan.retryAtMs[machine.machineId];
}

/** A migration of this drain that it does not know: whoever drove before claimed it, or an operator retried one that was parked. */
function adopt(machine: DrainMachine, drainId: string, facts: RoundFacts): void {
  const running = otherMigration(machine.machineId, facts);
  if (running?.drainId !== drainId || running.drainId === '' || running.returns !== '') return;
  if (machine.state === PARKED) machine.state = stepOfMachine(machine.state, 'again');
  machine.state = stepOfMachine(machine.state, 'begin');
  machine.networkBlocked = false;
  begun(machine, running.id);
  machine.destination = running.destination;
}

/** A try begins, as this migration. Changes the Machine. */
export function begun(machine: DrainMachine, migrationId: string): void {
  if (machine.migrationId !== '') machine.earlierMigrations.push(machine.migrationId);
  machine.earlierMigrations = machine.earlierMigrations.slice(-earlierMax);
  machine.migrationId = migrationId;
  machine.attempts += 1;
}

function parkBlocked(machine: DrainMachine, { drain }: DrainDraft, facts: RoundFacts): void {
  const holder = blockerOf(machine, facts);
  if (holder === undefined || drain.state === DrainState.CANCELLING) return;
  if (waitedMs(machine.wait, { kind: 'lock', subject: holder.id }, facts.nowMs) < patienceMs) return;
  parkFor(machine, holder, drain.hostId);
}

/** Moves that are to be taken back: all of a drain that is cancelled, and those that wait for their network in vain. */
function* callOff(draft: DrainDraft, facts: RoundFacts): Generator<CallOff> {
  const { drain, plan } = draft;
  for (const machine of drain.machines) {
    const migration = facts.migrations.get(machine.migrationId);
    if (machine.state !== MOVING || migration?.state !== MigrationState.RUNNING) continue;
    if (drain.state === DrainState.CANCELLING) {
      yield { migrationId: migration.id, why: `drain ${drain.id} was cancelled` };
      continue;
    }
    if (!inLine(migration)) continue;
    const why = inVain(machine, draft, facts);
    if (why === undefined) continue;
    if (!plan.calledOff.includes(migration.id)) plan.calledOff.push(migration.id);
    yield { migrationId: migration.id, why };
  }
}

/** Why a move that stands in line is not to stand there any longer; undefined: it is. */
function inVain(machine: DrainMachine, { drain, plan }: DrainDraft, facts: RoundFacts): string | undefined {
  const holder = blockerOf(machine, facts);
  if (holder !== undefined && waitsInVain(machine, holder.id, 'lock', facts)) {
    return blockedText(machine.network, holder);
  }
  if (!waitsInVain(machine, machine.wait?.subject, 'host', facts) || !isSlotWanted(machine, drain)) return undefined;
  // What waits for a silent host makes room for the rest, and takes its turn again later.
  plan.retryAtMs[machine.machineId] = facts.nowMs + patienceMs;
  machine.reason = `it made room for others, because host ${machine.wait?.subject} did not answer`;
  return machine.reason;
}

function waitsInVain(
  { wait }: DrainMachine,
  subject: string | undefined,
  kind: string,
  { nowMs }: RoundFacts,
): boolean {
  return subject !== undefined && waitedMs(wait, { kind, subject }, nowMs) >= patienceMs;
}

/** Whether Machines of other networks wait for the slot that this one has. */
function isSlotWanted({ network }: DrainMachine, { machines }: Drain): boolean {
  return machines.some((each) => each.state === WAITING && each.wait?.kind === 'slot' && each.network !== network);
}
