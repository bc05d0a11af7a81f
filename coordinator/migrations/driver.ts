// Longer than usual: everything that decides where a migration goes next, so that no way out is overlooked.
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import {
  type Migration,
  MigrationState,
  MigrationStep,
  MigrationStrategy,
} from '../../proto/gen/ferry/v1/migration_pb.ts';
import { FerryError, toFerryError } from '../../shared/error.ts';
import { newMigrationId } from '../../shared/ids.ts';
import type { Logger } from '../../shared/log.ts';
import type { Random } from '../../shared/random.ts';
import { runSteps, type StepsOutcome } from '../../shared/steps.ts';
import { pause } from '../pause.ts';
import type { Session, Sessions } from '../sessions.ts';
import { Slots } from '../slots.ts';
import type { MigrationPlan, MigrationRecord } from '../store/store.ts';
import { back, orderAbort } from './back.ts';
import { hasEnded } from './feed.ts';
import { forward } from './forward.ts';
import { clearWait, Journey, type JourneyParts, setWait } from './journey.ts';
import { isDriven, newRecord } from './record.ts';
import { askEnds, catchUp, termOf } from './standing.ts';

/** Times that a migration may turn round before an operator has to look at it. */
const turnsMax = 4;
/** Time after which a drive that ended in a defect or a full store disk is taken up again. */
const resumeMs = 5000;
/** A drive that ended is remembered for so long: a loss of the store is seen later than its first refusal. */
const rememberMs = 60_000;
/** Longest time between two looks for migrations that nobody drives. */
const lookMsMax = 1000;

/** How the driver is made. */
export interface DriverOptions extends JourneyParts {
  readonly random: Random;
  readonly log: Logger;
  readonly sessions: Sessions;
  /** Migrations that run at once; others wait. */
  readonly concurrentMax: number;
  /** Migrations that may wait for a slot. */
  readonly waitingMax: number;
}

/** One migration being driven, in one session. */
interface Drive {
  readonly id: string;
  readonly session: Session;
  /** Aborts when the process goes down, the session is lost, or another one drives. */
  readonly signal: AbortSignal;
  done: Promise<void>;
  /** Calls the steps towards the destination off; a new one once it was heard. */
  interrupt: AbortController;
  /** As last read or written here: what is left of it when the store loses everything. */
  record: MigrationRecord | undefined;
  /** A cancel was passed on to the source. */
  cancelHeard: boolean;
}

/**
 * Drives migrations: each through its list of steps, forward or back, until it has ended. Takes over what nobody drives. What
 * it drives is its own only while its session lives: each drive has a driver term of its own, above all that agents have seen.
 */
export class MigrationDriver {
  readonly #options: DriverOptions;
  readonly #slots: Slots;
  readonly #stopping = new AbortController();
  readonly #drives = new Map<string, Drive>();
  /** What was driven here a moment ago, by ID. */
  readonly #remembered = new Map<string, { readonly record: MigrationRecord; readonly atMs: number }>();

  constructor(options: DriverOptions) {
    this.#options = options;
    this.#slots = new Slots(options.concurrentMax, options.waitingMax);
  }

  /** Looks for migrations that nobody drives, settlements in the background too, until `signal` aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { sessions, clock, log } = this.#options;
    while (!signal.aborted) {
      await this.takeOver().catch((error: unknown) => log.warn({ err: error }, 'a look for migrations broke off'));
      const wake = AbortSignal.any([signal, sessions.begun]);
      await pause(clock, Math.min(lookMsMax, sessions.renewMs), wake);
    }
  }

  /** Drives everything that is open and that no living session drives. */
  async takeOver(): Promise<void> {
    const { store, sessions } = this.#options;
    const own = sessions.current;
    if (own === undefined) return;
    const open = (await store.openMigrations()).filter(
      (record) => isDriven(record) && !this.#drives.has(record.migration.id),
    );
    if (open.length === 0) return;
    const alive = new Set((await store.sessions()).flatMap(({ id, alive }) => (alive && id !== own.id ? [id] : [])));
    for (const { migration, driver } of open) if (!alive.has(driver)) this.drive(migration.id);
  }

  /** Throws overloaded when no more migrations can wait. */
  requireRoom(): void {
    this.#slots.requireRoom();
  }

  /** Migrations that are driven here. */
  get driving(): number {
    return this.#drives.size;
  }

  /** Begins to drive a claimed migration; twice is harmless, and without a session it is done once there is one. */
  drive(id: string): void {
    const session = this.#options.sessions.current;
    if (session === undefined || this.#drives.has(id) || this.#stopping.signal.aborted) return;
    const drive: Drive = {
      id,
      session,
      signal: AbortSignal.any([this.#stopping.signal, session.lost]),
      done: Promise.resolve(),
      interrupt: new AbortController(),
      record: undefined,
      cancelHeard: false,
    };
    this.#drives.set(id, drive);
    drive.done = this.#keepDriving(drive).finally(() => {
      if (drive.record !== undefined) this.#remember(drive.record);
      this.#drives.delete(id);
    });
  }

  #remember(record: MigrationRecord): void {
    const nowMs = this.#options.clock.monotonicMs();
    for (const [id, { atMs }] of this.#remembered) if (nowMs - atMs > rememberMs) this.#remembered.delete(id);
    if (record.open) this.#remembered.set(record.migration.id, { record, atMs: nowMs });
    else this.#remembered.delete(record.migration.id);
  }

  /** Open migrations that are driven here, or were a moment ago, as last known: for a store that has lost them. */
  remembered(): readonly MigrationRecord[] {
    const nowMs = this.#options.clock.monotonicMs();
    for (const { record } of this.#drives.values()) if (record !== undefined) this.#remember(record);
    return [...this.#remembered.values()].flatMap(({ record, atMs }) => (nowMs - atMs > rememberMs ? [] : [record]));
  }

  /** Stops driving; what is half done goes on at the next start, or elsewhere. Twice is harmless. */
  async stop(): Promise<void> {
    this.#stopping.abort(new FerryError('cancelled', 'the coordinator is going down'));
    await Promise.all([...this.#drives.values()].map(({ done }) => done));
  }

  /**
   * Orders the source to abort; its answer counts, whoever drives. A source that is silent is asked on: throws host_unreachable,
   * and the migration turns back as soon as the source answers that it may.
   */
  async cancel(
    id: string,
    signal: AbortSignal,
    why = anOperatorDid,
  ): Promise<{ outcome: 'aborted' | 'too late'; migration: Migration }> {
    const { book } = this.#options;
    const before = await book.get(id);
    if (hasEnded(before.migration) || before.plan.direction === 'returning') {
      return { outcome: 'too late', migration: before.migration };
    }
    await book.update(id, (draft) => {
      if (!draft.migration.cancelRequested) draft.plan.cancelledBecause = why;
      draft.migration.cancelRequested = true;
    });
    const outcome = await this.#orderCancel(id, signal);
    return { outcome, migration: (await book.get(id)).migration };
  }

  async #orderCancel(id: string, signal: AbortSignal): Promise<'aborted' | 'too late'> {
    const { book } = this.#options;
    const error = cancelledBy((await book.get(id)).plan);
    const drive = this.#drives.get(id);
    if (drive !== undefined) drive.cancelHeard = true;
    for (let tries = 1; ; tries += 1) {
      try {
        await orderAbort(new Journey(this.#options, await book.get(id)), error.message, signal);
        drive?.interrupt.abort(error);
        return 'aborted';
      } catch (thrown) {
        const refusal = toFerryError(thrown);
        if (refusal.reason === 'too_late') return 'too late';
        // Somebody took the migration over in between: its new term is in the record.
        if (refusal.reason === 'stale_term' && tries === 1) continue;
        if (refusal.disposition === 'retry') drive?.interrupt.abort(error);
        throw refusal;
      }
    }
  }

  async #keepDriving(drive: Drive): Promise<void> {
    const { id, signal } = drive;
    const { log, clock, store } = this.#options;
    let termAbove = 0n;
    while (!signal.aborted) {
      try {
        const journey = await this.#take(drive, termAbove);
        if (journey === undefined) return;
        await this.#inSlot(drive, journey);
        await store.leaveMigration(id, drive.session.id);
        return;
      } catch (thrown) {
        if (signal.aborted) return;
        const error = toFerryError(thrown);
        if (error.reason === 'stale_term') {
          const seen = termSeen(error);
          if (await this.#isOurs(drive)) {
            // An agent that does not say what it has seen is not asked in a hot loop.
            if (seen <= termAbove) await pause(clock, lookMsMax, signal);
            termAbove = seen > termAbove ? seen : termAbove;
            continue;
          }
          drive.record = undefined;
          log.info({ migration: id }, `drives no longer here: ${error.message}`);
          return;
        }
        // The store has lost it: what is left is with the agents, and with `remembered`.
        if (error.reason === 'unknown_migration' || error.reason === 'rebuilding') return;
        const away = error.reason === 'store_unreachable';
        log[away ? 'warn' : 'error']({ migration: id, err: error }, 'a drive broke off; it is taken up again');
        await pause(clock, away ? lookMsMax : resumeMs, signal);
      }
    }
  }

  /** Whether the store still names this session as the driver: then only the term was too low. */
  async #isOurs({ id, session }: Drive): Promise<boolean> {
    const record = await this.#options.store.migration(id).catch(() => undefined);
    return record?.driver === session.id && isDriven(record);
  }

  /**
   * Becomes the driver, under a term above what both agents have seen, and takes note of what they have done already: the record
   * may be older than that. Undefined when somebody else drives, or nothing is left to do.
   */
  async #take(drive: Drive, termAbove: bigint): Promise<Journey | undefined> {
    const { store, log } = this.#options;
    const { id, session, signal } = drive;
    const before = await store.migration(id);
    if (before === undefined || !isDriven(before)) return undefined;
    const ends = await askEnds(new Journey(this.#options, before, session), signal);
    const seen = [termAbove, termOf(ends.source), termOf(ends.destination)];
    session.require();
    const taken = await store.takeMigration(
      id,
      session.id,
      seen.reduce((a, b) => (a > b ? a : b)),
    );
    if (taken.kind !== 'taken') return undefined;
    drive.record = taken.record;
    if (before.driver !== '')
      log.info({ migration: id, from: before.driver, term: taken.record.migration.term }, 'took over');
    const journey = new Journey(this.#options, taken.record, session, (record) => {
      drive.record = record;
    });
    const change = catchUp(taken.record, ends);
    if (change !== undefined) await journey.write(change);
    return journey;
  }

  /** Waits for a slot, and gives it back as soon as only the settlement is left. */
  async #inSlot(drive: Drive, journey: Journey): Promise<void> {
    const { clock, concurrentMax } = this.#options;
    const { migration } = journey;
    // A move back runs in the slot of the migration that it returns: no slot may wait for another.
    const free = hasEnded(migration) || migration.returns !== '';
    if (!free && this.#slots.full) {
      const text = `one of the ${concurrentMax} migrations that this coordinator drives at once to end`;
      await journey.write((draft) => setWait(draft.migration, 'slot', '', text, clock.nowMs()));
      this.#options.log.info({ migration: drive.id, waits: 'slot' }, `waits for ${text}`);
    }
    const over = new AbortController();
    const slot = { giveBack: () => {} };
    const watching = this.#watch(drive, AbortSignal.any([drive.signal, over.signal]), () => slot.giveBack());
    try {
      if (!free) slot.giveBack = await this.#takeSlot(drive);
      await this.#run(drive, journey);
    } finally {
      slot.giveBack();
      over.abort();
      await watching;
    }
  }

  /** Sees the end, and a cancel that another coordinator took; ends with `signal`. */
  async #watch(drive: Drive, signal: AbortSignal, onEnd: () => void): Promise<void> {
    const { book, log } = this.#options;
    try {
      for await (const migration of book.watch(drive.id, signal)) {
        if (hasEnded(migration)) return onEnd();
        if (!migration.cancelRequested || drive.cancelHeard) continue;
        await this.#orderCancel(drive.id, signal).catch((error: unknown) => {
          if (!signal.aborted) log.info({ migration: drive.id, err: error }, 'the cancel is passed on again');
        });
      }
    } catch (error) {
      if (!signal.aborted) log.debug({ migration: drive.id, err: error }, 'a watch broke off');
    }
  }

  /** A migration that is cancelled while it waits needs no slot to go back. */
  async #takeSlot({ interrupt, signal }: Drive): Promise<() => void> {
    try {
      return await this.#slots.take(AbortSignal.any([signal, interrupt.signal]));
    } catch (error) {
      if (signal.aborted) throw error;
      return () => {};
    }
  }

  async #run(drive: Drive, first: Journey): Promise<void> {
    const { id, signal, session } = drive;
    const { book, clock } = this.#options;
    for (let journey = first; ; ) {
      if (!isDriven(journey.record)) return;
      switch (journey.plan.direction) {
        case 'forward': {
          const interrupt = drive.interrupt.signal;
          const outcome = await runSteps(forward, journey, { journal: journey, clock, signal, interrupt });
          if (outcome.kind === 'done') return this.#closeIfDone(journey);
          if (outcome.error.reason === 'stale_term') throw outcome.error;
          if (interrupt.aborted) drive.interrupt = new AbortController();
          await this.#forwardEnded(journey, outcome);
          break;
        }
        case 'back': {
          const outcome = await runSteps(back, journey, { journal: journey, clock, signal });
          if (outcome.kind === 'done') return;
          if (outcome.error.reason === 'stale_term') throw outcome.error;
          await this.#backEnded(journey, outcome);
          break;
        }
        case 'returning':
          return this.#bringBack(drive, journey);
      }
      journey = new Journey(this.#options, await book.get(id), session, (record) => {
        drive.record = record;
      });
    }
  }

  async #forwardEnded(journey: Journey, { kind, step, error }: Exclude<StepsOutcome, { kind: 'done' }>): Promise<void> {
    // A fault before the source has signed leaves a Machine there that can run on; only a stop that failed needs a look first.
    const canTurn = ['plan', 'prepare', 'precopy', 'lock', 'fork', 'relinquish'].includes(step);
    if ((kind === 'park' && !canTurn) || step === 'settle' || step === 'release') return this.#park(journey, error);
    if (step !== 'start') return this.#turn(journey, 'back', error);
    if (journey.migration.returns !== '') return this.#park(journey, error);
    const { clock, random } = this.#options;
    const childId = newMigrationId(clock.nowMs(), random);
    await journey.write(({ migration, plan }) => {
      plan.direction = 'returning';
      plan.turnedBecause = becauseOf(error);
      migration.returnedBy = childId;
      migration.failure = error.reason;
      const text = `${childId} to bring the Machine back: ${error.message}`;
      setWait(migration, 'health', childId, text, clock.nowMs());
    });
  }

  async #backEnded(journey: Journey, { step, error }: Exclude<StepsOutcome, { kind: 'done' }>): Promise<void> {
    if (step === 'take-back' && error.reason === 'too_late') return this.#turn(journey, 'forward', error);
    return this.#park(journey, error);
  }

  async #turn(journey: Journey, direction: 'forward' | 'back', error: FerryError): Promise<void> {
    if (journey.plan.turns >= turnsMax) return this.#park(journey, error);
    const { id, migration, plan } = journey;
    const stopped = migration.steps.some((report) => report.step === MigrationStep.STOP);
    // One that only waited in line, and goes back now, must not keep those behind it waiting.
    if (direction === 'back' && !stopped && !migration.holdsLock && plan.lockHolder === id) {
      await this.#options.locks.leave(migration.network, id);
    }
    await journey.write(({ migration, plan }) => {
      // The source burnt the ID for a cancel whose answer this process did not live to see.
      const cancelled = migration.cancelRequested && error.reason === 'burnt';
      const because = becauseOf(cancelled ? cancelledBy(plan) : error);
      plan.direction = direction;
      plan.turns += 1;
      plan.turnedBecause = direction === 'back' ? because : null;
      migration.failure = because.reason;
      migration.reason = direction === 'back' ? `going back: ${because.message}` : '';
    });
  }

  /** The move back: a new migration with its own ID and the next epoch, once, under the same lock. */
  async #bringBack({ signal }: Drive, journey: Journey): Promise<void> {
    const { store, book, clock } = this.#options;
    const { migration, plan, id } = journey;
    const childId = migration.returnedBy;
    const child = newRecord({
      id: childId,
      machineId: migration.machineId,
      network: migration.network,
      source: migration.destination,
      destination: migration.source,
      strategy: MigrationStrategy.COLD,
      startDeadlineMs: plan.startDeadlineMs,
      overrideHosts: plan.overrideHosts,
      lockHolder: plan.lockHolder,
      permitHosts: plan.permitHosts,
      returns: id,
      nowMs: clock.nowMs(),
      downtimeBudgetMs: plan.downtimeBudgetMs,
      priority: plan.priority,
      reason: migration.moveReason,
      orderedBy: migration.orderedBy,
      drainId: migration.drainId,
    });
    const answer = await store.claimMigration(child, { takesOver: id });
    if (answer.kind !== 'claimed') {
      const other = answer.kind === 'busy' ? answer.migrationId : childId;
      const busy = new FerryError('machine_busy', `migration ${other} holds the Machine`);
      return this.#park(journey, busy);
    }
    this.drive(childId);
    const ended = await book.ended(childId, signal);
    const because = plan.turnedBecause;
    if (ended.state === MigrationState.MOVED) {
      await journey.write((draft) => {
        draft.migration.state = MigrationState.MOVED_BACK;
        draft.migration.endedAt = timestampFromMs(clock.nowMs());
        clearWait(draft.migration);
        draft.migration.holdsLock = false;
        draft.migration.reason = `moved back to ${migration.source} by ${childId}: ${because?.message ?? ''}`;
        draft.migration.nextAction = because?.nextAction ?? '';
        draft.plan.permitHosts = [];
        draft.open = false;
        draft.claim = false;
      });
      return;
    }
    const message = `${because?.message ?? 'it failed'}; and ${childId}, which should bring it back, failed: ${ended.reason}`;
    await this.#park(journey, new FerryError('unhealthy', message));
  }

  /** Stops for an operator. The lock stays if the Machine may be down because of this migration. */
  async #park(journey: Journey, error: FerryError): Promise<void> {
    const { locks, store, clock } = this.#options;
    const { migration, plan, id } = journey;
    const ended = hasEnded(migration);
    const stopped = migration.steps.some((report) => report.step === MigrationStep.STOP);
    const lock = await store.lock(migration.network);
    const holds = !ended && stopped && lock?.migrationId === plan.lockHolder;
    // Permits that were taken over belong to the migration that this one goes on for.
    let left: readonly string[] = holds || plan.lockHolder === id ? plan.permitHosts : [];
    if (!ended && !stopped && plan.lockHolder === id) {
      left = await locks.release(migration.network, id, plan.permitHosts, journey.signal);
    }
    await journey.write((draft) => {
      draft.migration.state = MigrationState.PARKED;
      draft.migration.endedAt ??= timestampFromMs(clock.nowMs());
      draft.migration.holdsLock = holds;
      draft.migration.failure = error.reason;
      draft.migration.reason = error.message;
      draft.migration.nextAction = nextActionOf(error, id, holds);
      clearWait(draft.migration);
      draft.plan.permitHosts = [...left];
      draft.claim = false;
      draft.open = holds || left.length > 0;
    });
    this.#options.log.warn({ migration: id, reason: error.reason, holds }, `parked: ${error.message}`);
  }

  async #closeIfDone(journey: Journey): Promise<void> {
    await journey.write((draft) => {
      draft.open = draft.plan.permitHosts.length > 0;
    });
  }
}

const anOperatorDid = 'an operator cancelled it';

function cancelledBy({ cancelledBecause = anOperatorDid }: Pick<MigrationPlan, 'cancelledBecause'>): FerryError {
  const nextAction =
    cancelledBecause === anOperatorDid ? 'Nothing: it was asked for.' : 'Nothing here: see the drain that ordered it.';
  return new FerryError('cancelled', cancelledBecause, { nextAction });
}

function becauseOf({ reason, message, nextAction }: FerryError) {
  return { reason, message, nextAction };
}

function nextActionOf(error: FerryError, id: string, holds: boolean): string {
  if (!holds) return error.nextAction;
  return (
    `${error.nextAction} Then "ferry migration retry ${id}". The network stays locked until the Machine is well again, or ` +
    `until you accept that it is down ("ferry migration accept-down ${id}").`
  );
}

/** The highest term that an agent told when it refused ours. */
function termSeen({ facts }: FerryError): bigint {
  return /^\d{1,18}$/.test(facts.seen ?? '') ? BigInt(facts.seen!) : 0n;
}
