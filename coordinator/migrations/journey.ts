// Longer than usual: everything that one drive reads and writes of its migration, so that no write goes round the fence.
import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import {
  type Handover,
  type OrderHeader,
  OrderHeaderSchema,
  type SignedStatement,
} from '../../proto/gen/ferry/v1/handover_pb.ts';
import {
  type CopyProgress,
  type Migration,
  MigrationStep,
  StepReportSchema,
  type Wait,
  WaitSchema,
} from '../../proto/gen/ferry/v1/migration_pb.ts';
import type { Clock } from '../../shared/clock.ts';
import { durationFromMs } from '../../shared/duration.ts';
import { FerryError, toFerryError } from '../../shared/error.ts';
import type { Logger } from '../../shared/log.ts';
import type { Reason } from '../../shared/reasons.ts';
import type { FinishedStep, StepFailure, StepJournal } from '../../shared/steps.ts';
import type { Agents } from '../agents.ts';
import type { NetworkLocks } from '../locks/network-lock.ts';
import { pause } from '../pause.ts';
import type { Roster } from '../roster.ts';
import type { Session } from '../sessions.ts';
import type { MigrationPlan, MigrationRecord, Placement, Store } from '../store/store.ts';
import type { Change, MigrationBook } from './book.ts';

/** Time between two tries of a write while the store does not answer. */
const storeRetryMs = 250;

/** What something waits for: see `Wait` in proto/ferry/v1/migration.proto. */
export type WaitKind =
  | 'lock'
  | 'permit'
  | 'slot'
  | 'capacity'
  | 'rate'
  | 'host'
  | 'budget'
  | 'copy'
  | 'stop'
  | 'health'
  | 'store'
  | 'operator'
  | 'retry';

/** What the steps of a migration work with. */
export interface JourneyParts {
  readonly store: Store;
  readonly book: MigrationBook;
  readonly agents: Agents;
  readonly roster: Roster;
  readonly locks: NetworkLocks;
  readonly clock: Clock;
  readonly log: Logger;
}

/** How a host is asked where a hand-over stands. */
export interface HandoverAsk {
  /** Deadline of the call. */
  readonly timeoutMs?: number;
  /** A host where the Machine is starting answers once it is healthy or not, or after this time. */
  readonly waitMs?: number;
}

/** What the source signed, and the record that it signed for. */
export interface CarriedTicket {
  readonly ticket: SignedStatement;
  readonly record: Uint8Array;
}

/** Public steps by the names of the driver's lists; a step that is not here is told within the one before. */
const publicSteps: Readonly<Record<string, MigrationStep>> = {
  plan: MigrationStep.PLAN,
  prepare: MigrationStep.PREPARE,
  precopy: MigrationStep.PRECOPY,
  lock: MigrationStep.LOCK,
  stop: MigrationStep.STOP,
  fork: MigrationStep.FORK,
  relinquish: MigrationStep.RELINQUISH,
  accept: MigrationStep.ACCEPT,
  start: MigrationStep.START,
  release: MigrationStep.RELEASE,
  'give-back': MigrationStep.RELEASE,
  settle: MigrationStep.SETTLE,
};

/** What a step waits for after a failure, by the failure's reason; anything else is only tried again. */
const waitAfter: Partial<Record<Reason, WaitKind>> = {
  host_unreachable: 'host',
  deadline: 'host',
  permit_refused: 'permit',
  permit_in_use: 'permit',
  no_permit: 'permit',
  copy_broken: 'copy',
  store_unreachable: 'store',
  rebuilding: 'store',
};

/**
 * One drive of one migration: what the steps need, and the journal of the step engine on top of the migration's durable
 * record. What a step learns is written together with its end, so a step costs one durable write. A journey of a session
 * sends and writes only while that session lives and drives the migration.
 */
export class Journey implements StepJournal {
  readonly parts: JourneyParts;
  readonly id: string;
  /** Most bytes that each phase of the copy was seen to have done: they are no measure for one another. */
  readonly #copiedBytes = new Map<string, bigint>();
  /** When the copy grew last: its patience counts from then. */
  copiedAtMs: number | undefined;
  /** When the source heard this driver last, while the copy runs. */
  sourceHeardMs: number | undefined;
  /** The ticket on its way: never kept, the source has it. */
  carried: CarriedTicket | undefined;
  readonly #session: Session | undefined;
  readonly #onWrite: (record: MigrationRecord) => void;
  #record: MigrationRecord;
  #learnt: Change[] = [];

  constructor(
    parts: JourneyParts,
    record: MigrationRecord,
    session?: Session,
    onWrite: (record: MigrationRecord) => void = () => {},
  ) {
    this.#session = session;
    this.#onWrite = onWrite;
    this.parts = session === undefined ? parts : { ...parts, agents: parts.agents.when(() => session.require()) };
    this.id = record.migration.id;
    this.#record = record;
  }

  /** As last written by this drive. */
  get record(): MigrationRecord {
    return this.#record;
  }

  get migration(): Readonly<Migration> {
    return this.#record.migration;
  }

  /** Takes note of how far the copy is; answers whether it has grown. Reading back shows no bytes, and ends by itself. */
  hasCopied({ phase, bytesDone }: Pick<CopyProgress, 'phase' | 'bytesDone'>): boolean {
    const most = this.#copiedBytes.get(phase) ?? -1n;
    if (bytesDone > most) this.#copiedBytes.set(phase, bytesDone);
    return bytesDone > most || phase === 'verifying';
  }

  /** Aborts with the session. */
  get signal(): AbortSignal {
    return this.#session?.lost ?? new AbortController().signal;
  }

  get plan(): Readonly<MigrationPlan> {
    return this.#record.plan;
  }

  /** What every order carries. */
  get header(): OrderHeader {
    const { fence, term } = this.migration;
    return create(OrderHeaderSchema, { migrationId: this.id, term, lockHolder: this.plan.lockHolder, fence });
  }

  /**
   * Changes the record durably now. Throws stale_term when another session drives the migration. A store that does not answer is
   * asked again for as long as the session lives.
   */
  async write(change: Change): Promise<void> {
    const learnt = this.#learnt;
    const all: Change = (draft) => {
      for (const each of learnt) each(draft);
      change(draft);
    };
    this.#wrote(await this.#untilStored(() => this.parts.book.update(this.id, all, this.#session?.id)), learnt.length);
  }

  #wrote(record: MigrationRecord, learnt: number): void {
    this.#record = record;
    this.#learnt = this.#learnt.slice(learnt);
    this.#onWrite(record);
  }

  async #untilStored<T>(write: () => Promise<T>): Promise<T> {
    for (;;) {
      this.#session?.require();
      try {
        return await write();
      } catch (error) {
        if (this.#session === undefined || toFerryError(error).reason !== 'store_unreachable') throw error;
        await pause(this.parts.clock, storeRetryMs, this.#session.lost);
      }
    }
  }

  /** Changes the record with the next write, at the latest with the end of the step; a crash before repeats the step. */
  learn(change: Change): void {
    this.#learnt = [...this.#learnt, change];
  }

  /** Changes what is only shown: a store that does not answer now gets it with the next write. */
  async show(change: Change): Promise<void> {
    this.#session?.require();
    this.learn(change);
    const learnt = this.#learnt;
    try {
      const all: Change = (draft) => {
        for (const each of learnt) each(draft);
      };
      this.#wrote(await this.parts.book.update(this.id, all, this.#session?.id), learnt.length);
    } catch (error) {
      if (toFerryError(error).reason !== 'store_unreachable') throw error;
    }
  }

  /** Says what is waited for, in the record and, once a change, in the log. */
  async waits(kind: WaitKind, subject: string, message: string, also?: Change): Promise<void> {
    const { wait } = this.migration;
    const same = wait?.kind === kind && wait.subject === subject;
    if (same && wait.message === message && also === undefined) return;
    if (!same || wait.message !== message) this.#logWait(kind, subject, message);
    const nowMs = this.parts.clock.nowMs();
    await this.show((draft) => {
      also?.(draft);
      setWait(draft.migration, kind, subject, message, nowMs);
    });
  }

  #logWait(kind: WaitKind, subject: string, message: string): void {
    this.parts.log.info({ migration: this.id, waits: kind, subject }, `waits for ${message}`);
  }

  /** Where the hand-over stands at a host: what is asked after a timeout, instead of guessing. */
  async handover(host: string, signal: AbortSignal, { timeoutMs, waitMs = 0 }: HandoverAsk = {}): Promise<Handover> {
    const wait = waitMs === 0 ? {} : { wait: durationFromMs(waitMs) };
    const { handover } = await this.parts.agents.handover(
      host,
      (client, options) => client.getHandover({ migrationId: this.id, ...wait }, options),
      { signal, ...(timeoutMs === undefined ? {} : { timeoutMs }) },
    );
    return present(handover, host);
  }

  /** Tells the directory where the Machine is, unless it knows a higher epoch. */
  async placed(hostId: string, epoch: bigint): Promise<void> {
    const { machineId } = this.migration;
    const known: Placement | undefined = await this.parts.store.placement(machineId);
    if (known === undefined || known.epoch >= epoch) return;
    known.machine.hostId = hostId;
    known.machine.epoch = epoch;
    // Its address and state there are not known yet.
    known.machine.revision = 0n;
    await this.parts.store.putPlacement({ ...known, hostId, epoch, seenMs: this.parts.clock.nowMs() });
  }

  finished(): ReadonlySet<string> {
    return new Set(this.plan.finished);
  }

  async advance(done: FinishedStep | undefined, next: string | undefined): Promise<void> {
    const now = timestampFromMs(this.parts.clock.nowMs());
    await this.write(({ migration, plan }) => {
      if (done !== undefined) {
        if (!plan.finished.includes(done.name)) plan.finished.push(done.name);
        const report = migration.steps.findLast((each) => each.step === publicSteps[done.name]);
        if (report !== undefined) {
          report.endedAt = now;
          report.message = `${done.message}${mendedText(migration)}`;
        }
        // What a later try has mended is no failure of the migration; on the way back it is the reason for that.
        if (plan.direction === 'forward') migration.failure = '';
      }
      migration.attempt = 1;
      clearWait(migration);
      const step = publicSteps[next ?? ''];
      if (step === undefined) return;
      migration.step = step;
      const last = migration.steps.at(-1);
      if (last?.step === step && last.endedAt === undefined) return;
      migration.steps.push(create(StepReportSchema, { step, startedAt: now }));
    });
  }

  async failed(_name: string, { attempt, error, pauseMs }: StepFailure): Promise<void> {
    const message = `${error.message}; try ${attempt + 1} in ${pauseMs} ms`;
    const kind = waitAfter[error.reason] ?? 'retry';
    await this.waits(kind, error.facts.host ?? '', message, ({ migration }) => {
      migration.attempt = attempt + 1;
      migration.failure = error.reason;
    });
  }
}

/** That a step needed more than one try, and why. */
function mendedText({ attempt, failure }: Migration): string {
  return attempt > 1 && failure !== '' ? `; done at try ${attempt}, after ${failure}` : '';
}

/** Writes what is waited for; since when stays as long as it is the same. */
export function setWait(migration: Migration, kind: WaitKind, subject: string, message: string, nowMs: number): void {
  const before: Wait | undefined = migration.wait;
  const since = before?.kind === kind && before.subject === subject ? before.since : undefined;
  migration.waitingFor = message;
  migration.wait = create(WaitSchema, { kind, subject, message, since: since ?? timestampFromMs(nowMs) });
}

/** Nothing is waited for any more. */
export function clearWait(migration: Migration): void {
  migration.waitingFor = '';
  delete migration.wait;
}

/** The hand-over that an agent has to answer with. */
export function present(handover: Handover | undefined, host: string): Handover {
  if (handover !== undefined) return handover;
  throw new FerryError('internal', `host ${host} answered without a hand-over`, { facts: { host } });
}
