import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { DesiredState, type Machine, MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationState, MigrationStep } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { FerryError, toFerryError } from '../../shared/error.ts';
import type { Pulse, Step } from '../../shared/steps.ts';
import type { Journey } from './journey.ts';

const pollMs = 200;

/**
 * The way back before the destination owns the Machine: it stays at the source.
 *
 * | step      | order                                     | durable before the reply                             |
 * |-----------|-------------------------------------------|------------------------------------------------------|
 * | take-back | Abort; after relinquish Decline, TakeBack | source: ABORTED, or with the signed no RETURNED      |
 * | decline   | Decline                                   | destination: never accepts; then its copy is freed   |
 * | up        | –                                         | source: the Machine runs again                       |
 * | give-back | ReleasePermit                             | hosts and store: free; the migration has ended       |
 */
export const back: readonly Step<Journey>[] = [
  { name: 'take-back', run: takeBack },
  { name: 'decline', run: decline },
  { name: 'up', run: up },
  { name: 'give-back', run: giveBack },
];

/** Throws too_late when the destination owns the Machine, or a cancel comes after the source has signed. */
async function takeBack(journey: Journey, { signal }: Pulse): Promise<string> {
  const { source, destination } = journey.migration;
  const because = journey.plan.turnedBecause;
  try {
    await orderAbort(journey, because?.message ?? 'the coordinator gave up', signal);
    return `${source} burnt the migration and keeps the Machine`;
  } catch (thrown) {
    const error = toFerryError(thrown);
    // Nothing was ever offered there, so nothing is held there.
    if (error.reason === 'unknown_machine' || error.reason === 'not_owner') return `${source} holds nothing for it`;
    if (error.reason !== 'too_late' || because?.reason === 'cancelled') throw error;
  }
  const { handover } = await orderDecline(journey, signal);
  const statement = handover?.statement;
  if (statement === undefined) {
    throw new FerryError('internal', `${destination} declined without a signed word`, { facts: { host: destination } });
  }
  await journey.parts.agents.handover(
    source,
    (client, options) => client.takeBack({ header: journey.header, decline: statement }, options),
    { signal },
  );
  return `${destination} declined for good and ${source} took the Machine back`;
}

/** Orders the source to burn the migration. Its answer decides: throws too_late after relinquish. */
export async function orderAbort(journey: Journey, reason: string, signal: AbortSignal): Promise<void> {
  const { source, machineId } = journey.migration;
  const { handover } = await journey.parts.agents.handover(
    source,
    (client, options) => client.abort({ header: journey.header, reason, machineId }, options),
    { signal },
  );
  if (handover?.step === 'aborted' || handover?.step === 'returned') return;
  throw new FerryError('too_late', `the hand-over is ${handover?.step ?? 'unknown'} at ${source}`, {
    facts: { host: source },
  });
}

function orderDecline(journey: Journey, signal: AbortSignal) {
  const { source, destination, machineId, epoch, destinationVolumeId: volumeId } = journey.migration;
  const reason = journey.plan.turnedBecause?.message ?? 'the coordinator gave up';
  return journey.parts.agents.handover(
    destination,
    (client, options) =>
      client.decline({ header: journey.header, machineId, source, epoch, reason, volumeId }, options),
    { signal },
  );
}

/** Frees the destination's copy; a destination that is silent is told later, and forgets by itself. */
async function decline(journey: Journey, { signal }: Pulse): Promise<string> {
  const { destination } = journey.migration;
  const owed = await declineOwed(journey, signal);
  journey.learn((draft) => {
    draft.plan.declineOwed = owed;
  });
  return owed ? `${destination} does not answer; it will be told` : `${destination} freed what it had reserved`;
}

/** Tells the destination that nothing will come; answers whether it still has to be told. */
export async function declineOwed(journey: Journey, signal: AbortSignal): Promise<boolean> {
  // Without an epoch the destination was never asked to prepare anything.
  if (journey.migration.epoch === 0n) return false;
  try {
    await orderDecline(journey, signal);
    return false;
  } catch (thrown) {
    signal.throwIfAborted();
    return toFerryError(thrown).disposition === 'retry';
  }
}

async function up(journey: Journey, { signal }: Pulse): Promise<string> {
  const { parts, plan, migration } = journey;
  const { source, machineId } = migration;
  if (!migration.steps.some((report) => report.step === MigrationStep.STOP)) return 'the Machine ran on';
  const deadlineMs = parts.clock.nowMs() + plan.startDeadlineMs;
  for (;;) {
    const { machine } = await parts.agents.machines(
      source,
      (client, options) => client.agentGetMachine({ machineId }, options),
      { signal },
    );
    if (machine !== undefined) {
      await parts.roster.saw(machine, source);
      // The agent's word counts, checks included: it gives the network's permit back only then.
      if ((await journey.handover(source, signal)).standing === 'over') return `the Machine is up at ${source}`;
      const detail = machine.reason === '' ? '' : `: ${machine.reason}`;
      await journey.waits('health', source, `the Machine to come up at ${source}${detail}`);
    }
    if (parts.clock.nowMs() >= deadlineMs) {
      const { reason } = await journey.handover(source, signal);
      const why = reason || machine?.reason || 'no reason is known';
      throw new FerryError(
        'unhealthy',
        `the Machine did not come up again at ${source} within ${plan.startDeadlineMs / 1000} s: ${why}`,
        { facts: { host: source } },
      );
    }
    await parts.clock.sleep(pollMs, signal);
  }
}

/** Whether a Machine does what is desired, its checks included: what frees a parked network. */
export function isWell(machine: Machine): boolean {
  if (machine.migrationId !== '' || machine.state === MachineState.MIGRATING) return false;
  if (machine.desiredState !== DesiredState.STARTED) return true;
  const wanted = Object.keys(machine.config?.checks ?? {}).length;
  const passing = machine.checks.filter((check) => check.status === 'passing').length;
  return machine.state === MachineState.STARTED && passing >= wanted;
}

async function giveBack(journey: Journey, { signal }: Pulse): Promise<string> {
  const { parts, plan, id } = journey;
  const { network, source, destination } = journey.migration;
  // A lock that was taken over stays with the migration that it belongs to.
  const own = plan.lockHolder === id;
  const hosts = [...new Set([...plan.permitHosts, source, destination])];
  const left = own ? await parts.locks.release(network, id, hosts, signal) : [];
  const endedAt = timestampFromMs(parts.clock.nowMs());
  const because = plan.turnedBecause;
  journey.learn((draft) => {
    draft.plan.permitHosts = left;
    draft.migration.holdsLock = false;
    draft.migration.state = MigrationState.MOVED_BACK;
    draft.migration.endedAt = endedAt;
    draft.migration.reason = `stayed at ${source}: ${because?.message ?? 'given up'}`;
    draft.migration.nextAction = because?.nextAction ?? '';
    draft.migration.failure = because?.reason ?? '';
    draft.claim = false;
    draft.open = left.length > 0 || draft.plan.declineOwed;
  });
  return own ? `network ${network} is free` : `network ${network} stays with ${plan.lockHolder}`;
}
