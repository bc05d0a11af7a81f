import { create } from '@bufbuild/protobuf';
import { timestampFromMs, timestampMs } from '@bufbuild/protobuf/wkt';
import { type Drain, type DrainMachine, DrainMachineState, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { type Migration, MigrationStep, type Wait, WaitSchema } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { type Load, type MoveLimits, slotRefusal } from '../placement/order.ts';
import { bytesText } from '../placement/words.ts';
import type { DrainDraft } from './book.ts';
import type { Blocker, RoundFacts } from './facts.ts';

const { WAITING, MOVING } = DrainMachineState;

interface Waiting {
  readonly kind: string;
  readonly subject: string;
  readonly message: string;
}

/** How long it has waited for just this, in milliseconds; 0 when it waits for something else. */
export function waitedMs(wait: Wait | undefined, { kind, subject }: Omit<Waiting, 'message'>, nowMs: number): number {
  if (wait?.kind !== kind || wait.subject !== subject || wait.since === undefined) return 0;
  return nowMs - timestampMs(wait.since);
}

/** Says what every Machine of a drain and the drain itself wait for. Since when stays, while it is the same. */
export function tellWaits({ drain, plan }: DrainDraft, facts: RoundFacts, load: Load, limits: MoveLimits): void {
  for (const machine of drain.machines) {
    const waiting =
      machine.state === WAITING
        ? whileWaiting(machine, drain, facts, plan.retryAtMs[machine.machineId] ?? 0, load, limits)
        : machine.state === MOVING
          ? whileMoving(machine, facts)
          : undefined;
    setWait(machine, waiting, facts.nowMs);
  }
  setWait(drain, ofDrain(drain), facts.nowMs);
}

function setWait(holder: DrainMachine | Drain, waiting: Waiting | Wait | undefined, nowMs: number): void {
  if (waiting === undefined) {
    delete holder.wait;
    return;
  }
  const { kind, subject, message } = waiting;
  const own = '$typeName' in waiting ? waiting.since : undefined;
  const known = holder.wait?.kind === kind && holder.wait.subject === subject ? holder.wait.since : undefined;
  holder.wait = create(WaitSchema, { kind, subject, message, since: known ?? own ?? timestampFromMs(nowMs) });
}

function whileWaiting(
  machine: DrainMachine,
  drain: Drain,
  facts: RoundFacts,
  retryAtMs: number,
  load: Load,
  limits: MoveLimits,
): Waiting | undefined {
  const { machineId, network, destination, refusedHosts } = machine;
  if (drain.state === DrainState.CANCELLING) return undefined;
  if (drain.state === DrainState.PAUSED) {
    const message = `the drain to go on: "ferry drain resume ${drain.hostId}"`;
    return { kind: 'operator', subject: drain.id, message };
  }
  if (facts.standing !== 'ok') {
    return { kind: 'host', subject: drain.hostId, message: `host ${drain.hostId} to answer` };
  }
  const other = otherMigration(machineId, facts);
  if (other !== undefined) {
    return {
      kind: 'operator',
      subject: other.id,
      message: `migration ${other.id}, ordered besides this drain, to end`,
    };
  }
  const holder = blockerOf(machine, facts);
  if (holder !== undefined) return forBlocked(network, holder);
  if (retryAtMs > facts.nowMs) {
    const why = machine.reason === '' ? '' : `: ${machine.reason}`;
    return {
      kind: 'retry',
      subject: machineId,
      message: `the next try, at ${new Date(retryAtMs).toISOString()}${why}`,
    };
  }
  if (destination === '') {
    const hosts = Object.entries(refusedHosts).map(([host, text]) => `${host}: ${text}`);
    return { kind: 'capacity', subject: machineId, message: `a host that can take it (${hosts.join('; ')})` };
  }
  const slot = slotRefusal({ network, destination }, load, limits) ?? 'others of this drain go first';
  return { kind: 'slot', subject: drain.id, message: `a free slot: ${slot}` };
}

function whileMoving(machine: DrainMachine, facts: RoundFacts): Waiting | Wait | undefined {
  const migration = facts.migrations.get(machine.migrationId);
  if (migration === undefined) return undefined;
  const holder = inLine(migration) ? blockerOf(machine, facts) : undefined;
  if (holder !== undefined) return forBlocked(machine.network, holder);
  const limit = limitOf(migration, facts);
  if (limit !== undefined && (migration.wait === undefined || migration.wait.kind === 'copy')) return limit;
  if (migration.wait !== undefined) return migration.wait;
  if (migration.waitingFor === '') return undefined;
  const kind = migration.step === MigrationStep.LOCK ? 'lock' : 'copy';
  return { kind, subject: migration.id, message: migration.waitingFor };
}

/** A copy that runs at the limit of one of its hosts waits for that. */
function limitOf({ step, source, destination, progress }: Migration, { hosts }: RoundFacts): Waiting | undefined {
  if (step !== MigrationStep.PRECOPY && step !== MigrationStep.FORK) return undefined;
  const sent = hosts.get(source)?.copyLimits?.sendBytesPerSecond ?? 0n;
  const received = hosts.get(destination)?.copyLimits?.receiveBytesPerSecond ?? 0n;
  if ((sent === 0n && received === 0n) || (progress?.bytesPerSecond ?? 0n) === 0n) return undefined;
  const isSource = sent > 0n && (received === 0n || sent <= received);
  const [host, limit, what] = isSource ? [source, sent, 'leave'] : [destination, received, 'reach'];
  const message = `the copy, which host ${host} limits: ${bytesText(Number(limit))} a second may ${what} it, all copies together`;
  return { kind: 'rate', subject: host, message };
}

function ofDrain({ machines }: Drain): Wait | undefined {
  const moving = machines.filter(({ state }) => state === MOVING);
  const waiting = machines.filter(({ state }) => state === WAITING);
  const asked = moving.length > 0 ? moving : waiting;
  const [first] = asked;
  // While one Machine gets on, the drain as a whole waits for nothing.
  return asked.every(({ wait }) => wait !== undefined && wait.kind === first?.wait?.kind) ? first?.wait : undefined;
}

/** Whether a migration stands in line for its network: it has not stopped its Machine. */
export function inLine({ step, holdsLock }: Migration): boolean {
  return step === MigrationStep.LOCK && !holdsLock;
}

/** The parked migration that keeps the network of a Machine locked; one of its own is none: the next try goes on under its lock. */
export function blockerOf(
  { machineId, network }: Pick<DrainMachine, 'machineId' | 'network'>,
  { blocked }: Pick<RoundFacts, 'blocked'>,
): Blocker | undefined {
  const holder = blocked.get(network);
  return holder?.machineId === machineId ? undefined : holder;
}

/** A migration that moves the Machine without this drain having begun it. */
export function otherMigration(machineId: string, { running }: Pick<RoundFacts, 'running'>): Migration | undefined {
  return running.find((migration) => migration.machineId === machineId);
}

function forBlocked(network: string, { id, machineId }: Blocker): Waiting {
  const message = `network ${network} to be free: the parked migration ${id} of Machine ${machineId} keeps it locked, see "ferry migration status ${id}"`;
  return { kind: 'lock', subject: id, message };
}
