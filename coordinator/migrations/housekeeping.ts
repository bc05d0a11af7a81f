import { timestampMs } from '@bufbuild/protobuf/wkt';
import { HostStatus } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { type Migration, MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import type { Clock } from '../../shared/clock.ts';
import { toFerryError } from '../../shared/error.ts';
import type { Logger } from '../../shared/log.ts';
import { isSilence } from '../agents.ts';
import type { Orphans } from '../locks/orphans.ts';
import { pause } from '../pause.ts';
import type { Sessions } from '../sessions.ts';
import type { MigrationRecord, Store } from '../store/store.ts';
import { declineOwed, isWell } from './back.ts';
import { hasEnded } from './feed.ts';
import { freeLock } from './free-lock.ts';
import { Journey, type JourneyParts } from './journey.ts';
import { isDriven } from './record.ts';

/** Time between two rounds. */
const roundMs = 5000;
/** Rounds between two looks at every host's permits, while there is none that nobody knows. */
const permitRounds = 6;
/** Rounds between two looks at what can be forgotten. */
const pruneRounds = 60;
/** Ended migrations that are kept for people to look at. */
const migrationsKept = 10_000;
/** Parked migrations that are looked at in a round. */
const parkedMax = 1000;

/** How the housekeeping is made. */
export interface HousekeepingOptions {
  readonly parts: JourneyParts;
  readonly store: Store;
  readonly orphans: Orphans;
  readonly sessions: Sessions;
  readonly clock: Clock;
  readonly log: Logger;
}

/**
 * What is left to do for migrations that have ended, and never blocks their outcome: permits and declines at hosts that did
 * not answer, locks of parked migrations whose Machine is well again, locks and permits that are nobody's any more. Among
 * several coordinators one does it.
 */
export class Housekeeping {
  readonly #options: HousekeepingOptions;

  constructor(options: HousekeepingOptions) {
    this.#options = options;
  }

  /** Goes round until `signal` aborts; begins at once, because a crash may have left things behind. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#options;
    let permitsKnown = false;
    for (let round = 0; !signal.aborted; round += 1) {
      try {
        if (await this.#isOurs()) {
          if (round % permitRounds === 0) permitsKnown = false;
          permitsKnown = await this.#round(signal, !permitsKnown);
          if (round % pruneRounds === 0) await this.#options.store.pruneMigrations(migrationsKept);
        }
      } catch (error) {
        if (!signal.aborted) log.error({ err: error }, 'a round of housekeeping broke off');
      }
      await pause(clock, roundMs, signal);
    }
  }

  /** The first of the sessions that are alive does it. */
  async #isOurs(): Promise<boolean> {
    const { store, sessions } = this.#options;
    const own = sessions.current;
    if (own === undefined) return false;
    return (await store.sessions()).every(({ id, alive }) => !alive || id >= own.id);
  }

  /** One round; answers whether every permit that was looked at belongs to a migration that is known. */
  async #round(signal: AbortSignal, permitsToo: boolean): Promise<boolean> {
    const { store, orphans, parts, log } = this.#options;
    for (const record of await store.openMigrations()) {
      if (hasEnded(record.migration)) await this.#tidy(record, signal);
    }
    await this.#answerParked();
    await parts.locks.releaseOrphans();
    if (!permitsToo) return true;
    let known = true;
    for (const host of await store.hosts()) {
      // A host that is known to be away costs a timeout each round, and nothing can be released there.
      if (parts.roster.status(host) === HostStatus.UNREACHABLE) continue;
      const none = await orphans.releasePermits(host.id, signal).catch((error: unknown) => {
        signal.throwIfAborted();
        if (!isSilence(toFerryError(error))) log.warn({ host: host.id, err: error }, 'permits could not be looked at');
        return true;
      });
      known &&= none;
    }
    return known;
  }

  async #tidy(record: MigrationRecord, signal: AbortSignal): Promise<void> {
    const { parts } = this.#options;
    const { migration, plan } = record;
    if (migration.holdsLock) {
      if (await this.#machineIsWell(migration.machineId, signal)) {
        await freeLock(parts, plan.lockHolder, signal, 'the Machine is well again').catch((error: unknown) => {
          // Another migration of the Machine goes on under this lock and frees it in the end.
          if (toFerryError(error).reason !== 'machine_busy') throw error;
        });
      }
      return;
    }
    if (plan.permitHosts.length === 0 && !plan.declineOwed) return;
    const goesOn = (await this.#options.store.openMigrations()).some(
      (other) => other.plan.lockHolder === plan.lockHolder && other.migration.state === MigrationState.RUNNING,
    );
    // Its permits are what another one stops the Machine with.
    if (goesOn) return;
    const left = await parts.locks.askBack(migration.network, plan.lockHolder, plan.permitHosts, signal);
    const owed = plan.declineOwed && (await declineOwed(new Journey(parts, record), signal));
    await parts.book.update(migration.id, (draft) => {
      draft.plan.permitHosts = left;
      draft.plan.declineOwed = owed;
      if (left.length === 0 && !owed) draft.open = isDriven(draft);
    });
  }

  /**
   * A parked migration is answered once a later one has moved the Machine; then nobody has to look at it any more. One whose
   * kept copy differs stays: its evidence is still there.
   */
  async #answerParked(): Promise<void> {
    const { store, parts } = this.#options;
    const unended = await store.unendedMigrations(parkedMax);
    const parked = unended.filter(
      ({ migration: { state, holdsLock, answered, failure } }) =>
        state === MigrationState.PARKED && !holdsLock && answered === '' && failure !== 'root_mismatch',
    );
    if (parked.length === 0) return;
    const all = await store.migrations(parkedMax);
    for (const { migration } of parked) {
      const later = all.find(
        (other) =>
          other.migration.machineId === migration.machineId &&
          other.migration.id !== migration.id &&
          other.migration.state === MigrationState.MOVED &&
          endedMs(other.migration) >= endedMs(migration),
      );
      if (later === undefined) continue;
      await parts.book.update(migration.id, (draft) => {
        draft.migration.answered = `${later.migration.id} moved the Machine later`;
      });
    }
  }

  async #machineIsWell(machineId: string, signal: AbortSignal): Promise<boolean> {
    const { parts, store } = this.#options;
    const placement = await store.placement(machineId);
    if (placement === undefined) return false;
    try {
      const { machine } = await parts.agents.machines(
        placement.hostId,
        (client, options) => client.agentGetMachine({ machineId }, options),
        { signal, timeoutMs: 2000 },
      );
      return machine !== undefined && isWell(machine);
    } catch {
      signal.throwIfAborted();
      return false;
    }
  }
}

function endedMs({ endedAt }: Migration): number {
  return endedAt === undefined ? 0 : timestampMs(endedAt);
}
