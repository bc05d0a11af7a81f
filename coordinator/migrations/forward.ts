// Longer than usual: one migration from end to end in one place, so that its way reads like the table of its steps.
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { Handover } from '../../proto/gen/ferry/v1/handover_pb.ts';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { durationFromMs } from '../../shared/duration.ts';
import { FerryError, toFerryError } from '../../shared/error.ts';
import type { Pulse, Step } from '../../shared/steps.ts';
import { hasEnded } from './feed.ts';
import { type CarriedTicket, type Journey, present } from './journey.ts';
import { freshen, lastRound, precopy, refuseDeadEnd, reportOf, waitsForCopy } from './precopy.ts';
import { reasonName } from './record.ts';

/** Longest time that an agent is asked to wait before it answers; the call's deadline leaves some room above. */
const waitMs = 10_000;
const waitRoomMs = 10_000;
/** The source must hear its driver more often than once in 60 s. */
const remindMs = 10_000;
/** Time between two looks at a copy: what a progress bar shows. */
const copyRoundMs = 500;
/** Time between two looks at a Machine that starts. */
const startPollMs = 200;
/** The Machine runs meanwhile: a host that does not answer for so long fails the move. */
const preparePatienceMs = 30_000;
/** The Machine is down meanwhile: it is started again at the source when the destination is silent for so long. */
const forkPatienceMs = 30_000;

/**
 * A migration, step by step. Each order is idempotent and names its migration and the driver's term.
 *
 * | step       | order                     | durable before the reply                                  |
 * |------------|---------------------------|-----------------------------------------------------------|
 * | plan       | –                         | here: the claim, with a single-use ID                     |
 * | prepare    | Offer, then Prepare       | destination: PREPARED, room, keys pinned                  |
 * | precopy    | Precopy, in rounds        | destination: what has arrived, after a sync               |
 * | lock       | GrantPermit at each host, | here: the lock; hosts: permits                            |
 * |            | then one last Precopy     |                                                           |
 * | stop       | StopForMigration          | source: STOPPING before the signal, STOPPED when gone     |
 * | fork       | Copy                      | destination: VERIFIED with the root                       |
 * | relinquish | Relinquish                | source: RELINQUISHED, the signed ticket                   |
 * | accept     | Accept                    | destination: OWNER of the next epoch; no way back after it |
 * | start      | –                         | destination: events; this side only looks                 |
 * | release    | ReleasePermit             | hosts and store: free; the migration has ended            |
 * | settle     | Settle                    | source: TOMBSTONE after re-reading its copy               |
 */
export const forward: readonly Step<Journey>[] = [
  { name: 'plan', run: plan },
  { name: 'prepare', run: prepare, patienceMs: preparePatienceMs },
  { name: 'precopy', run: precopy, patienceMs: preparePatienceMs },
  { name: 'lock', run: lock },
  { name: 'stop', run: stop },
  { name: 'fork', run: fork, patienceMs: forkPatienceMs },
  { name: 'relinquish', run: relinquish },
  { name: 'accept', run: accept },
  { name: 'start', run: start },
  { name: 'release', run: release },
  { name: 'settle', run: settle },
];

async function plan({ migration }: Journey): Promise<string> {
  return `claimed Machine ${migration.machineId}: ${migration.source} → ${migration.destination}`;
}

async function prepare(journey: Journey, { signal }: Pulse): Promise<string> {
  const { migration, parts } = journey;
  const { machineId, source, destination, moveReason, orderedBy, drainId } = migration;
  const [from, to] = await Promise.all([parts.roster.host(source), parts.roster.host(destination)]);
  const offer = await parts.agents.handover(
    source,
    (client, options) =>
      client.offer(
        {
          header: journey.header,
          machineId,
          destination: { hostId: destination, address: to.address },
          order: { reason: reasonName(moveReason), orderedBy, drainId },
        },
        options,
      ),
    { signal },
  );
  const epoch = present(offer.handover, source).epoch + 1n;
  // Known before the destination hears of it, because a decline names it.
  await journey.write((draft) => {
    draft.migration.epoch = epoch;
    if (offer.network !== '') draft.migration.network = offer.network;
  });
  const { handover } = await parts.agents.handover(
    destination,
    (client, options) =>
      client.prepare(
        {
          header: journey.header,
          ...(offer.record === undefined ? {} : { record: offer.record }),
          source: { hostId: source, address: from.address },
          epoch,
          startDeadline: durationFromMs(journey.plan.startDeadlineMs),
        },
        options,
      ),
    { signal, timeoutMs: waitMs },
  );
  const { volumeId } = present(handover, destination);
  journey.learn((draft) => {
    draft.migration.destinationVolumeId = volumeId;
  });
  const volumeBytes = offer.record?.volumeSizeBytes ?? 0n;
  return volumeBytes === 0n ? `${destination} can run it` : `${destination} can run it; room reserved as ${volumeId}`;
}

async function lock(journey: Journey, pulse: Pulse): Promise<string> {
  const told = await whilePrepared(journey, pulse, (signal) => acquire(journey, signal));
  const round = await lastRound(journey, pulse);
  return round === '' ? told : `${told}; ${round}`;
}

/**
 * Both sides end by themselves what nobody drives, so a migration that waits in line reminds them; what the Machine writes
 * meanwhile is copied now and then.
 */
async function whilePrepared<T>(journey: Journey, pulse: Pulse, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const { clock } = journey.parts;
  const over = new AbortController();
  const signal = AbortSignal.any([pulse.signal, over.signal]);
  const remind = async () => {
    for (;;) {
      await clock.sleep(remindMs, signal);
      await prepare(journey, { ...pulse, signal }).catch((thrown: unknown) => {
        const error = toFerryError(thrown);
        // A host that is silent now may answer before the line has moved on; a refusal is the end.
        if (!signal.aborted && error.disposition !== 'retry') over.abort(error);
      });
      await freshen(journey, signal);
    }
  };
  const reminding = remind().catch(() => {});
  try {
    return await work(signal);
  } finally {
    over.abort();
    await reminding;
  }
}

async function acquire(journey: Journey, signal: AbortSignal): Promise<string> {
  const { migration, plan, parts, id } = journey;
  const { network, machineId, source, destination } = migration;
  const granted = await parts.locks.acquire(
    {
      network,
      migrationId: id,
      holder: plan.lockHolder,
      machineId,
      source,
      destination,
      term: migration.term,
      sinceMs: parts.clock.nowMs(),
      agents: parts.agents,
      priority: plan.priority,
      overrides: async () => (await parts.book.get(id)).plan.overrideHosts,
      asks: async (hosts) => {
        if (hosts.every((host) => journey.plan.permitHosts.includes(host))) return;
        await journey.write((draft) => {
          draft.plan.permitHosts = [...new Set([...draft.plan.permitHosts, ...hosts])];
        });
      },
      waits: (kind, subject, text) => journey.waits(kind, subject, text),
    },
    signal,
  );
  journey.learn((draft) => {
    draft.migration.fence = granted.fence;
    draft.migration.holdsLock = true;
  });
  return `network ${network}, fence ${granted.fence}, permits of ${granted.hosts.join(', ')}`;
}

async function stop(journey: Journey, pulse: Pulse): Promise<string> {
  const { source } = journey.migration;
  for (;;) {
    const handover = await orderStop(journey, pulse);
    const { step, root } = handover;
    pulse.beat();
    if (step === 'stopped' || step === 'relinquished') {
      if (root !== '') {
        journey.learn((draft) => {
          draft.migration.sourceRoot = root;
        });
      }
      return `the process is gone and the volume detached at ${source}`;
    }
    refuseDeadEnd(handover, source);
    await journey.waits('stop', source, `the Machine's process at ${source} to end`);
  }
}

async function orderStop(journey: Journey, pulse: Pulse): Promise<Handover> {
  const { source } = journey.migration;
  try {
    const { handover } = await journey.parts.agents.handover(
      source,
      (client, options) => client.stopForMigration({ header: journey.header, wait: durationFromMs(waitMs) }, options),
      { signal: pulse.signal, timeoutMs: waitMs + waitRoomMs },
    );
    return present(handover, source);
  } catch (error) {
    // The promise is not there any more (a lost lock, an operator's hand): asked for again before the next try.
    const { reason } = toFerryError(error);
    if (reason === 'no_permit' || reason === 'stale_fence') await lock(journey, pulse);
    throw error;
  }
}

async function fork(journey: Journey, pulse: Pulse): Promise<string> {
  const { destination } = journey.migration;
  for (;;) {
    await keepSourceStopped(journey, pulse.signal);
    const { handover } = await journey.parts.agents.handover(
      destination,
      (client, options) => client.copy({ header: journey.header, wait: durationFromMs(copyRoundMs) }, options),
      { signal: pulse.signal, timeoutMs: copyRoundMs + waitRoomMs },
    );
    const at = present(handover, destination);
    const { step, root, progress } = at;
    // A copy that is begun again and again without a byte must not keep the Machine down for ever.
    const grows = journey.hasCopied(progress ?? { phase: '', bytesDone: 0n });
    const nowMs = journey.parts.clock.monotonicMs();
    if (grows) pulse.beat();
    if (grows) journey.copiedAtMs = nowMs;
    journey.copiedAtMs ??= nowMs;
    if (nowMs - journey.copiedAtMs > forkPatienceMs) {
      throw new FerryError('copy_broken', `no byte has arrived at ${destination} for ${forkPatienceMs / 1000} s`);
    }
    if (step === 'verified' || step === 'owner') {
      journey.learn(({ migration }) => {
        migration.destinationRoot = root;
        if (progress !== undefined) migration.progress = progress;
        reportOf(migration, at);
      });
      return progress === undefined || progress.bytesTotal === 0n
        ? 'no volume to copy'
        : `${progress.bytesTransferred} bytes crossed the wire for a volume of ${progress.bytesTotal}; re-read and verified`;
    }
    refuseDeadEnd(handover, destination);
    if (progress !== undefined) await waitsForCopy(journey, progress, 'the copy');
    else await journey.waits('copy', destination, `the copy of the stopped volume to begin at ${destination}`);
  }
}

/** A source that hears no driver starts its Machine again by itself, so a long copy reminds it. */
async function keepSourceStopped(journey: Journey, signal: AbortSignal): Promise<void> {
  const { source } = journey.migration;
  const nowMs = journey.parts.clock.monotonicMs();
  journey.sourceHeardMs ??= nowMs;
  if (nowMs - journey.sourceHeardMs < remindMs) return;
  journey.sourceHeardMs = nowMs;
  const answer = await journey.parts.agents
    .handover(source, (client, options) => client.stopForMigration({ header: journey.header }, options), { signal })
    .catch((error: unknown) => {
      signal.throwIfAborted();
      // The copy says by itself when the source is really away; a refusal is the end of the migration there.
      if (toFerryError(error).disposition !== 'retry') throw error;
      return undefined;
    });
  if (answer !== undefined) refuseDeadEnd(answer.handover, source);
}

async function relinquish(journey: Journey, { signal }: Pulse): Promise<string> {
  const { source, destination, destinationRoot } = journey.migration;
  const { handover } = await journey.parts.agents.handover(
    source,
    (client, options) => client.relinquish({ header: journey.header, destinationRoot }, options),
    { signal, timeoutMs: waitMs },
  );
  const { root, statement, record } = present(handover, source);
  if (statement !== undefined) journey.carried = { ticket: statement, record };
  journey.learn((draft) => {
    draft.migration.sourceRoot = root;
  });
  return `${source} signed the Machine away to ${destination}`;
}

async function accept(journey: Journey, { signal }: Pulse): Promise<string> {
  const { parts } = journey;
  const { destination, epoch } = journey.migration;
  const { ticket, record } = journey.carried ?? (await ticketOf(journey, signal));
  const { handover } = await parts.agents.handover(
    destination,
    (client, options) => client.accept({ header: journey.header, ticket, record }, options),
    { signal, timeoutMs: waitMs },
  );
  // A copy that had ended answers a ticket with its signed no: the Machine goes back.
  refuseDeadEnd(handover, destination);
  const at = present(handover, destination);
  const owned = at.epoch > epoch ? at.epoch : epoch;
  await journey.placed(destination, owned);
  return `${destination} owns the Machine, epoch ${owned}`;
}

/** The ticket again, from the source: this coordinator was not there when it was signed. */
async function ticketOf(journey: Journey, signal: AbortSignal): Promise<CarriedTicket> {
  const { source } = journey.migration;
  const { statement, record } = await journey.handover(source, signal);
  if (statement !== undefined) return { ticket: statement, record };
  throw new FerryError('not_yet', `${source} has no ticket for migration ${journey.id}`, { facts: { host: source } });
}

async function start(journey: Journey, pulse: Pulse): Promise<string> {
  const { parts, plan } = journey;
  const { destination } = journey.migration;
  // Counted anew after each silence: a destination that was away needs its time again.
  const deadlineMs = parts.clock.nowMs() + plan.startDeadlineMs;
  for (;;) {
    const askedMs = parts.clock.monotonicMs();
    const { health, downtime, reason, failure } = await journey.handover(destination, pulse.signal, {
      waitMs: startPollMs,
    });
    pulse.beat();
    if (health === 'healthy' || health === 'stopped') {
      journey.learn(({ migration }) => {
        if (downtime !== undefined) migration.downtime = downtime;
      });
      return health === 'stopped' ? 'stays stopped, as desired' : `healthy at ${destination}`;
    }
    const facts = { host: destination };
    const detail = reason === '' ? '' : `: ${reason}`;
    if (failure === 'start_failed') {
      throw new FerryError('start_failed', `the Machine could not be started at ${destination}${detail}`, { facts });
    }
    if (health === 'unhealthy' || parts.clock.nowMs() >= deadlineMs) {
      throw new FerryError(
        'unhealthy',
        `the Machine was not healthy at ${destination} within ${plan.startDeadlineMs / 1000} s${detail}`,
        { facts },
      );
    }
    await journey.waits('health', destination, `the Machine to become healthy at ${destination}${detail}`);
    const leftMs = startPollMs - (parts.clock.monotonicMs() - askedMs);
    if (leftMs > 0) await parts.clock.sleep(leftMs, pulse.signal);
  }
}

async function release(journey: Journey, { signal }: Pulse): Promise<string> {
  const { parts, plan } = journey;
  const { network, source, destination } = journey.migration;
  const hosts = [...new Set([...plan.permitHosts, source, destination])];
  const { directory } = await journey.handover(destination, signal).catch(() => ({ directory: undefined }));
  const left = await parts.locks.release(network, plan.lockHolder, hosts, signal, directory);
  await noteFreed(journey);
  const endedAt = timestampFromMs(parts.clock.nowMs());
  journey.learn((draft) => {
    draft.plan.permitHosts = left;
    draft.migration.holdsLock = false;
    draft.migration.state = MigrationState.MOVED;
    draft.migration.endedAt = endedAt;
    draft.claim = false;
  });
  return left.length === 0
    ? `network ${network} is free`
    : `network ${network} is free; ${left.join(', ')} will be told`;
}

/** Parked migrations whose lock this one went on under hold it no longer. */
async function noteFreed({ id, plan, parts }: Journey): Promise<void> {
  if (plan.lockHolder === id) return;
  for (const { migration, plan: other } of await parts.store.openMigrations()) {
    if (migration.id === id || other.lockHolder !== plan.lockHolder || !migration.holdsLock) continue;
    if (!hasEnded(migration)) continue;
    await parts.book.update(migration.id, (draft) => {
      draft.migration.holdsLock = false;
      draft.migration.nextAction = `Nothing: ${id} moved the Machine.`;
      draft.migration.answered = `${id} moved the Machine`;
      draft.plan.permitHosts = [];
      draft.open = draft.plan.declineOwed;
    });
  }
}

async function settle(journey: Journey, pulse: Pulse): Promise<string> {
  const { source, destination } = journey.migration;
  for (;;) {
    let at = await journey.handover(source, pulse.signal);
    if (at.step === 'relinquished') {
      const settlement = (await journey.handover(destination, pulse.signal)).statement;
      if (settlement === undefined) {
        throw new FerryError('overloaded', `${destination} has no settlement yet`, { facts: { host: destination } });
      }
      const { handover } = await journey.parts.agents.handover(
        source,
        (client, options) =>
          client.settle({ header: journey.header, settlement, wait: durationFromMs(waitMs) }, options),
        { signal: pulse.signal, timeoutMs: waitMs + waitRoomMs },
      );
      at = present(handover, source);
    }
    pulse.beat();
    if (at.step === 'parked') {
      throw new FerryError(
        'root_mismatch',
        at.reason || `the copy that ${source} kept differs from what it handed over`,
        {
          facts: { host: source },
        },
      );
    }
    // "settled" has the destination's word but not the re-read bytes yet.
    if (at.step !== 'relinquished' && at.step !== 'settled') {
      journey.learn((draft) => {
        draft.migration.settled = true;
      });
      return `${source} has settled; a copy that it kept was re-read and stays until its retention ends`;
    }
    await journey.waits('copy', source, `${source} to re-read the copy that it keeps`);
    await journey.parts.clock.sleep(startPollMs, pulse.signal);
  }
}
