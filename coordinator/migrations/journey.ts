import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import {
  type Handover,
  type OrderHeader,
  OrderHeaderSchema,
  type SignedStatement,
} from '../../proto/gen/ferry/v1/handover_pb.ts';
import { type Migration, MigrationStep, StepReportSchema } from '../../proto/gen/ferry/v1/migration_pb.ts';
import type { Clock } from '../../shared/clock.ts';
import { FerryError } from '../../shared/error.ts';
import type { FinishedStep, StepFailure, StepJournal } from '../../shared/steps.ts';
import type { Agents } from '../agents.ts';
import type { NetworkLocks } from '../locks/network-lock.ts';
import type { Roster } from '../roster.ts';
import type { MigrationPlan, Placement, Store } from '../store/store.ts';
import type { Change, MigrationBook } from './book.ts';

/** What the steps of a migration work with. */
export interface JourneyParts {
  readonly store: Store;
  readonly book: MigrationBook;
  readonly agents: Agents;
  readonly roster: Roster;
  readonly locks: NetworkLocks;
  readonly clock: Clock;
  readonly term: bigint;
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

/**
 * One drive of one migration: what the steps need, and the journal of the step engine on top of the migration's durable
 * record. What a step learns is written together with its end, so a step costs one durable write.
 */
export class Journey implements StepJournal {
  readonly parts: JourneyParts;
  readonly id: string;
  /** Most bytes that the destination was seen to hold: the copy's patience counts from when they grew last. */
  copiedBytes = -1n;
  /** When the copy grew last. */
  copiedAtMs: number | undefined;
  /** When the source heard this driver last, while the copy runs. */
  sourceHeardMs: number | undefined;
  /** The ticket on its way: never kept, the source has it. */
  carried: CarriedTicket | undefined;
  #migration: Migration;
  #plan: MigrationPlan;
  #learnt: Change[] = [];

  constructor(parts: JourneyParts, migration: Migration, plan: MigrationPlan) {
    this.parts = parts;
    this.id = migration.id;
    this.#migration = migration;
    this.#plan = plan;
  }

  /** As last written by this drive. */
  get migration(): Readonly<Migration> {
    return this.#migration;
  }

  get plan(): Readonly<MigrationPlan> {
    return this.#plan;
  }

  /** What every order carries. */
  get header(): OrderHeader {
    const { fence } = this.#migration;
    const { lockHolder } = this.#plan;
    return create(OrderHeaderSchema, { migrationId: this.id, term: this.parts.term, lockHolder, fence });
  }

  /** Changes the record durably now. */
  async write(change: Change): Promise<void> {
    const learnt = this.#learnt;
    const { migration, plan } = await this.parts.book.update(this.id, (draft) => {
      for (const each of learnt) each(draft);
      change(draft);
    });
    this.#learnt = this.#learnt.slice(learnt.length);
    this.#migration = migration;
    this.#plan = plan;
  }

  /** Changes the record with the next write, at the latest with the end of the step; a crash before repeats the step. */
  learn(change: Change): void {
    this.#learnt = [...this.#learnt, change];
  }

  /** Says what is waited for. */
  async waits(text: string): Promise<void> {
    const current = (await this.parts.book.get(this.id)).migration.waitingFor;
    if (current === text) return;
    await this.write(({ migration }) => {
      migration.waitingFor = text;
    });
  }

  /** Where the hand-over stands at a host: what is asked after a timeout, instead of guessing. */
  async handover(host: string, signal: AbortSignal): Promise<Handover> {
    const { handover } = await this.parts.agents.handover(
      host,
      (client, options) => client.getHandover({ migrationId: this.id }, options),
      { signal },
    );
    return present(handover, host);
  }

  /** Tells the directory where the Machine is, unless it knows a higher epoch. */
  async placed(hostId: string, epoch: bigint): Promise<void> {
    const { machineId } = this.#migration;
    const known: Placement | undefined = await this.parts.store.placement(machineId);
    if (known === undefined || known.epoch >= epoch) return;
    known.machine.hostId = hostId;
    known.machine.epoch = epoch;
    await this.parts.store.putPlacement({ ...known, hostId, epoch, seenMs: this.parts.clock.nowMs() });
  }

  finished(): ReadonlySet<string> {
    return new Set(this.#plan.finished);
  }

  async advance(done: FinishedStep | undefined, next: string | undefined): Promise<void> {
    const now = timestampFromMs(this.parts.clock.nowMs());
    await this.write(({ migration, plan }) => {
      if (done !== undefined) {
        plan.finished.push(done.name);
        const report = migration.steps.findLast((each) => each.step === publicSteps[done.name]);
        if (report !== undefined) {
          report.endedAt = now;
          report.message = done.message;
        }
      }
      migration.attempt = 1;
      migration.waitingFor = '';
      const step = publicSteps[next ?? ''];
      if (step === undefined) return;
      migration.step = step;
      const last = migration.steps.at(-1);
      if (last?.step === step && last.endedAt === undefined) return;
      migration.steps.push(create(StepReportSchema, { step, startedAt: now }));
    });
  }

  async failed(_name: string, { attempt, error, pauseMs }: StepFailure): Promise<void> {
    await this.write(({ migration }) => {
      migration.attempt = attempt + 1;
      migration.failure = error.reason;
      migration.waitingFor = `${error.message}; try ${attempt + 1} in ${pauseMs} ms`;
    });
  }
}

/** The hand-over that an agent has to answer with. */
export function present(handover: Handover | undefined, host: string): Handover {
  if (handover !== undefined) return handover;
  throw new FerryError('internal', `host ${host} answered without a hand-over`, { facts: { host } });
}
