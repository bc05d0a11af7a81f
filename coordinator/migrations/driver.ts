// Longer than usual: everything that decides where a migration goes next, so that no way out is overlooked.
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { type Migration, MigrationState, MigrationStep } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { FerryError, toFerryError } from '../../shared/error.ts';
import { newMigrationId } from '../../shared/ids.ts';
import type { Logger } from '../../shared/log.ts';
import type { Random } from '../../shared/random.ts';
import { runSteps, type StepsOutcome } from '../../shared/steps.ts';
import { pause } from '../pause.ts';
import { Slots } from '../slots.ts';
import { back, orderAbort } from './back.ts';
import { hasEnded } from './feed.ts';
import { forward } from './forward.ts';
import { Journey, type JourneyParts } from './journey.ts';
import { isDriven, newRecord } from './record.ts';

/** Times that a migration may turn round before an operator has to look at it. */
const turnsMax = 4;
/** Time after which a drive that ended in a defect or a full store disk is taken up again. */
const resumeMs = 5000;

/** How the driver is made. */
export interface DriverOptions extends JourneyParts {
  readonly random: Random;
  readonly log: Logger;
  /** Migrations that run at once; others wait. */
  readonly concurrentMax: number;
  /** Migrations that may wait for a slot. */
  readonly waitingMax: number;
}

/** One migration being driven. */
interface Drive {
  readonly id: string;
  done: Promise<void>;
  /** Calls the steps towards the destination off; a new one once it was heard. */
  interrupt: AbortController;
}

/** Drives migrations: each through its list of steps, forward or back, until it has ended; resumes all that are open. */
export class MigrationDriver {
  readonly #options: DriverOptions;
  readonly #slots: Slots;
  readonly #stopping = new AbortController();
  readonly #drives = new Map<string, Drive>();

  constructor(options: DriverOptions) {
    this.#options = options;
    this.#slots = new Slots(options.concurrentMax, options.waitingMax);
  }

  /** Takes up everything that is open, background settlements too. */
  async resume(): Promise<void> {
    for (const record of await this.#options.store.openMigrations()) {
      if (isDriven(record)) this.drive(record.migration.id);
    }
  }

  /** Throws overloaded when no more migrations can wait. */
  requireRoom(): void {
    this.#slots.requireRoom();
  }

  /** Begins to drive a claimed migration; twice is harmless. */
  drive(id: string): void {
    if (this.#drives.has(id) || this.#stopping.signal.aborted) return;
    const drive: Drive = { id, done: Promise.resolve(), interrupt: new AbortController() };
    this.#drives.set(id, drive);
    drive.done = this.#keepDriving(drive).finally(() => this.#drives.delete(id));
  }

  /** Stops driving; what is half done goes on at the next start. Twice is harmless. */
  async stop(): Promise<void> {
    this.#stopping.abort(new FerryError('cancelled', 'the coordinator is going down'));
    await Promise.all([...this.#drives.values()].map(({ done }) => done));
  }

  /**
   * Orders the source to abort; its answer counts. A source that is silent is asked on: throws host_unreachable, and the
   * migration turns back as soon as the source answers that it may.
   */
  async cancel(id: string, signal: AbortSignal): Promise<{ outcome: 'aborted' | 'too late'; migration: Migration }> {
    const { book } = this.#options;
    const before = await book.get(id);
    if (hasEnded(before.migration) || before.plan.direction === 'returning') {
      return { outcome: 'too late', migration: before.migration };
    }
    const { migration, plan } = await book.update(id, (draft) => {
      draft.migration.cancelRequested = true;
    });
    const error = cancelledBy();
    try {
      await orderAbort(new Journey(this.#options, migration, plan), error.message, signal);
    } catch (thrown) {
      const refusal = toFerryError(thrown);
      if (refusal.reason === 'too_late') return { outcome: 'too late', migration: (await book.get(id)).migration };
      if (refusal.disposition === 'retry') this.#drives.get(id)?.interrupt.abort(error);
      throw refusal;
    }
    this.#drives.get(id)?.interrupt.abort(error);
    return { outcome: 'aborted', migration: (await book.get(id)).migration };
  }

  async #keepDriving(drive: Drive): Promise<void> {
    const { id } = drive;
    const { log, clock, book } = this.#options;
    const signal = this.#stopping.signal;
    while (!signal.aborted) {
      try {
        return await this.#inSlot(drive);
      } catch (error) {
        if (signal.aborted) return;
        log.error({ migration: id, err: error }, 'a drive broke off; it is taken up again');
        await pause(clock, resumeMs, signal);
        if (!(await book.get(id).then(isDriven, () => true))) return;
      }
    }
  }

  /** Waits for a slot, and gives it back as soon as only the settlement is left. */
  async #inSlot(drive: Drive): Promise<void> {
    const { id } = drive;
    const { book } = this.#options;
    const signal = this.#stopping.signal;
    const record = await book.get(id);
    // A move back runs in the slot of the migration that it returns: no slot may wait for another.
    const free = hasEnded(record.migration) || record.migration.returns !== '';
    if (!free && this.#slots.full) {
      await book.update(id, ({ migration }) => {
        migration.waitingFor = `one of ${this.#options.concurrentMax} migrations to end`;
      });
    }
    const giveBack = free ? () => {} : await this.#takeSlot(drive);
    const over = new AbortController();
    const watching = book.ended(id, AbortSignal.any([signal, over.signal])).then(giveBack, () => {});
    try {
      await this.#run(drive);
    } finally {
      giveBack();
      over.abort();
      await watching;
    }
  }

  /** A migration that is cancelled while it waits needs no slot to go back. */
  async #takeSlot({ interrupt }: Drive): Promise<() => void> {
    try {
      return await this.#slots.take(AbortSignal.any([this.#stopping.signal, interrupt.signal]));
    } catch (error) {
      if (this.#stopping.signal.aborted) throw error;
      return () => {};
    }
  }

  async #run(drive: Drive): Promise<void> {
    const { id } = drive;
    const { book, clock } = this.#options;
    const signal = this.#stopping.signal;
    for (;;) {
      const record = await book.get(id);
      if (!isDriven(record)) return;
      const journey = new Journey(this.#options, record.migration, record.plan);
      switch (record.plan.direction) {
        case 'forward': {
          const interrupt = drive.interrupt.signal;
          const outcome = await runSteps(forward, journey, { journal: journey, clock, signal, interrupt });
          if (outcome.kind === 'done') return this.#closeIfDone(journey);
          if (interrupt.aborted) drive.interrupt = new AbortController();
          await this.#forwardEnded(journey, outcome);
          break;
        }
        case 'back': {
          const outcome = await runSteps(back, journey, { journal: journey, clock, signal });
          if (outcome.kind === 'done') return;
          await this.#backEnded(journey, outcome);
          break;
        }
        case 'returning':
          return this.#bringBack(journey);
      }
    }
  }

  async #forwardEnded(journey: Journey, { kind, step, error }: Exclude<StepsOutcome, { kind: 'done' }>): Promise<void> {
    // A fault before the source has signed leaves a Machine there that can run on; only a stop that failed needs a look first.
    const canTurn = error.reason !== 'stale_term' && ['plan', 'prepare', 'lock', 'fork', 'relinquish'].includes(step);
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
      migration.waitingFor = `${childId} to bring the Machine back: ${error.message}`;
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
      const because = becauseOf(cancelled ? cancelledBy() : error);
      plan.direction = direction;
      plan.turns += 1;
      plan.turnedBecause = direction === 'back' ? because : null;
      migration.failure = because.reason;
      migration.reason = direction === 'back' ? `going back: ${because.message}` : '';
    });
  }

  /** The move back: a new migration with its own ID and the next epoch, once, under the same lock. */
  async #bringBack(journey: Journey): Promise<void> {
    const { store, book, clock } = this.#options;
    const { migration, plan, id } = journey;
    const childId = migration.returnedBy;
    const child = newRecord({
      id: childId,
      machineId: migration.machineId,
      network: migration.network,
      source: migration.destination,
      destination: migration.source,
      strategy: migration.strategy,
      startDeadlineMs: plan.startDeadlineMs,
      overrideHosts: plan.overrideHosts,
      lockHolder: plan.lockHolder,
      permitHosts: plan.permitHosts,
      returns: id,
      term: this.#options.term,
      nowMs: clock.nowMs(),
    });
    const answer = await store.claimMigration(child, { takesOver: id });
    if (answer.kind !== 'claimed') {
      const other = answer.kind === 'busy' ? answer.migrationId : childId;
      const busy = new FerryError('machine_busy', `migration ${other} holds the Machine`);
      return this.#park(journey, busy);
    }
    this.drive(childId);
    const ended = await book.ended(childId, this.#stopping.signal);
    const because = plan.turnedBecause;
    if (ended.state === MigrationState.MOVED) {
      await journey.write((draft) => {
        draft.migration.state = MigrationState.MOVED_BACK;
        draft.migration.endedAt = timestampFromMs(clock.nowMs());
        draft.migration.waitingFor = '';
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
      left = await locks.release(migration.network, id, plan.permitHosts, this.#stopping.signal);
    }
    await journey.write((draft) => {
      draft.migration.state = MigrationState.PARKED;
      draft.migration.endedAt ??= timestampFromMs(clock.nowMs());
      draft.migration.holdsLock = holds;
      draft.migration.failure = error.reason;
      draft.migration.reason = error.message;
      draft.migration.nextAction = nextActionOf(error, id, holds);
      draft.migration.waitingFor = '';
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

function cancelledBy(): FerryError {
  return new FerryError('cancelled', 'an operator cancelled it', { nextAction: 'Nothing: it was asked for.' });
}

function becauseOf({ reason, message, nextAction }: FerryError) {
  return { reason, message, nextAction };
}

function nextActionOf(error: FerryError, id: string, holds: boolean): string {
  if (!holds) return error.nextAction;
  return (
    `${error.nextAction} Then "ferry migration retry ${id}". The network stays locked until the Machine is well again, or ` +
    'until you accept that it is down.'
  );
}
