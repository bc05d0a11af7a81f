// Past 300 lines because it is one writer: what decides, writes and takes up hand-overs again must not be apart.
import type { Clock } from '../../shared/clock.ts';
import type { FerryError } from '../../shared/error.ts';
import type { Logger } from '../../shared/log.ts';
import type { HandoverDetail, HandoverRow, Journal, MachineRow } from '../journal.ts';
import { ferryErrorOf } from '../volumes/ferry-error.ts';
import { type Placement, reconcile, type Seal, sealOf } from './boot.ts';
import {
  type DestinationContext,
  type DestinationEffect,
  type DestinationEvent,
  type DestinationState,
  destinationKeepsDown,
  destinationStanding,
  nextDestination,
  pendingDestination,
} from './destination.ts';
import type { Standing } from './permit.ts';
import { refusalError } from './refusal.ts';
import type { Seals } from './seals.ts';
import {
  holdsMachine,
  nextSource,
  pendingSource,
  type SourceContext,
  type SourceEffect,
  type SourceEvent,
  type SourceState,
  sourceKeepsDown,
  sourceStanding,
} from './source.ts';

/** The two roles of a row. */
export type SourceRow = HandoverRow & { readonly role: 'source' };
export type DestinationRow = HandoverRow & { readonly role: 'destination' };

/** Does what the transitions ask for. */
export interface Effects {
  /** Awaited: the marker is on the disk before anything is seen outside this host. */
  mark(machineId: string, seal: Seal, volumeId: string | null): Promise<void>;
  unmark(machineId: string, volumeId: string): Promise<void>;
  /** Removes copies that are being received for none of the wanted: first their markers, then their bytes. */
  removeStrays(wanted: ReadonlySet<string>): Promise<void>;
  /** Long ones run in the background, once at a time for a migration, until the row says that they are done. */
  source(row: SourceRow, effect: SourceEffect): Promise<void>;
  destination(row: DestinationRow, effect: DestinationEffect): Promise<void>;
}

/** What is written with a transition, in its transaction. */
export interface Change {
  readonly detail?: Partial<HandoverDetail>;
  readonly record?: Uint8Array;
  /** More writes, given the placement as it will be. */
  readonly also?: (placement: Placement) => void;
}

/** What a row needs that does not exist yet. */
export interface NewRow {
  readonly machineId: string;
  readonly detail: HandoverDetail;
}

/** Pause between two tries of a background effect, in milliseconds. */
const retryMs = 1000;

/**
 * The hand-overs of one agent: reads row and context, asks the pure transition, writes row and placement in one
 * transaction, then has the effects done. The reading and writing is synchronous, so that transitions never interleave.
 */
export class Handovers {
  readonly #host: string;
  readonly #journal: Journal;
  readonly #seals: Seals;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #signal: AbortSignal;
  #effects: Effects | null = null;
  /** The coordinator remembers a newer journal than this one. */
  isBehindCoordinator = false;
  /** A marker is ahead of this journal; only a newer journal, at a new start, mends that. */
  #isBehindMarkers = false;
  readonly #turns = new Map<string, Promise<void>>();
  readonly #tasks = new Map<string, Promise<void>>();
  readonly #failures = new Map<string, FerryError>();
  readonly #drivenAtMs = new Map<string, number>();
  readonly #waiters = new Map<string, Set<() => void>>();

  constructor(options: {
    host: string;
    journal: Journal;
    seals: Seals;
    clock: Clock;
    log: Logger;
    signal: AbortSignal;
  }) {
    this.#host = options.host;
    this.#journal = options.journal;
    this.#seals = options.seals;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#signal = options.signal;
  }

  /** The journal was put back to an older copy: nothing is promised, signed or started. */
  get journalWentBack(): boolean {
    return this.isBehindCoordinator || this.#isBehindMarkers;
  }

  /** Gives the hands that do what the transitions ask for; once, before anything else. */
  connect(effects: Effects): void {
    this.#effects = effects;
  }

  /** Finishes markers that a crash left behind their placement, then takes up what is pending in each row. */
  async recover(): Promise<void> {
    for (const machineId of new Set([...this.#seals.machineIds(), ...this.#journal.machines().map(({ id }) => id)])) {
      const { placement, seal } = this.placement(machineId);
      const agreement = reconcile(placement, seal);
      if (agreement.kind === 'journal-behind') {
        this.#isBehindMarkers = true;
        this.#log.error({ machine: machineId }, agreement.reason);
        // A disk that refuses one marker must not keep the agent from its other Machines; the boot rule keeps this one down.
      } else
        await this.#finishMark(machineId).catch((error) =>
          this.#log.error({ err: error, machine: machineId }, 'marker'),
        );
    }
    const open = this.#journal.openHandovers();
    const filling = open.flatMap(({ role, state }) =>
      role === 'destination' && (state.step === 'prepared' || state.step === 'verified')
        ? [state.subject.volumeId]
        : [],
    );
    const wanted = new Set(filling);
    await this.#effects!.removeStrays(wanted).catch((error) => this.#log.error({ err: error }, 'stray copies'));
    for (const row of open) void this.#takeUp(row.migrationId);
  }

  /** Machines that a hand-over starts here by itself. */
  starting(): Set<string> {
    const rows = this.#journal.openHandovers().filter((row) => this.ownsNow(row) && this.standing(row) === 'active');
    return new Set(rows.map((row) => row.machineId));
  }

  /** The row of a migration, or undefined. */
  row(migrationId: string): HandoverRow | undefined {
    return this.#journal.handover(migrationId);
  }

  /** Applies an event at the source. Resolves when its marker is on the disk. Throws the refusal. */
  async source(migrationId: string, event: SourceEvent, change: Change = {}, fresh?: NewRow): Promise<SourceRow> {
    const row = this.#journal.handover(migrationId);
    if (row?.role === 'destination')
      throw refusalError({ reason: 'other_role', message: `host ${this.#host} is the destination of ${migrationId}` });
    const outcome = nextSource(row?.state ?? null, event, this.#sourceContext(migrationId, row, fresh));
    if (!outcome.ok) throw refusalError(outcome.refusal);
    const next = this.#write(migrationId, 'source', row, outcome.state, outcome.placement, change, fresh) as SourceRow;
    if (row?.state.step !== outcome.state.step) this.#logStep(next);
    await this.#perform(next, outcome.effects);
    return next;
  }

  /** Applies an event at the destination. Resolves when its marker is on the disk. Throws the refusal. */
  async destination(
    migrationId: string,
    event: DestinationEvent,
    change: Change = {},
    fresh?: NewRow,
  ): Promise<DestinationRow> {
    const row = this.#journal.handover(migrationId);
    if (row?.role === 'source')
      throw refusalError({ reason: 'other_role', message: `host ${this.#host} is the source of ${migrationId}` });
    const outcome = nextDestination(row?.state ?? null, event, this.#destinationContext(migrationId, row, fresh));
    if (!outcome.ok) throw refusalError(outcome.refusal);
    const written = this.#write(migrationId, 'destination', row, outcome.state, outcome.placement, change, fresh);
    const next = written as DestinationRow;
    if (row?.state.step !== outcome.state.step) this.#logStep(next);
    await this.#perform(next, outcome.effects);
    return next;
  }

  /** Writes what is remembered besides the protocol's state. */
  note(migrationId: string, detail: Partial<HandoverDetail>): void {
    const row = this.#journal.handover(migrationId);
    if (row === undefined) return;
    this.#journal.write(() => this.#journal.putHandover({ ...row, detail: { ...row.detail, ...detail } }));
    this.changed(migrationId);
  }

  /** An order that no transition checks: refused below the highest term that gave one, which it raises durably. */
  ordered(migrationId: string, term: number): void {
    const row = this.#journal.handover(migrationId);
    const seen = row?.state.term ?? 0;
    if (term < seen) {
      const message = `term ${term} is below ${seen}, the driver's now`;
      throw refusalError({ reason: 'stale_term', message, seen });
    }
    if (row !== undefined && term > seen) {
      const raised = { ...row, state: { ...row.state, term } } as HandoverRow;
      this.#journal.write(() => this.#journal.putHandover(raised));
    }
    this.driven(migrationId);
  }

  /** A driver was heard. */
  driven(migrationId: string): void {
    this.#drivenAtMs.set(migrationId, this.#clock.nowMs());
  }

  /** Milliseconds since a driver was heard; counts from this agent's start. */
  silentMs(migrationId: string): number {
    const now = this.#clock.nowMs();
    const since = this.#drivenAtMs.get(migrationId);
    if (since === undefined) this.#drivenAtMs.set(migrationId, now);
    return now - (since ?? now);
  }

  /** Forgets who drove hand-overs that are over, and what went wrong with them. */
  forgetEnded(open: ReadonlySet<string>): void {
    for (const known of [this.#drivenAtMs, this.#failures])
      for (const migrationId of known.keys()) if (!open.has(migrationId)) known.delete(migrationId);
  }

  /** What went wrong last in the background, or null. */
  failure(migrationId: string): FerryError | null {
    return this.#failures.get(migrationId) ?? null;
  }

  /** Says what a background effect met, or that all is well. */
  setFailure(migrationId: string, error: FerryError | null): void {
    if (error === null) this.#failures.delete(migrationId);
    else this.#failures.set(migrationId, error);
    this.changed(migrationId);
  }

  /** Wakes whoever waits for this migration. */
  changed(migrationId: string): void {
    const waiters = this.#waiters.get(migrationId);
    this.#waiters.delete(migrationId);
    for (const wake of waiters ?? []) wake();
  }

  /** Waits until `done` says so, at most `waitMs`. */
  async until(migrationId: string, done: () => boolean, waitMs: number, signal: AbortSignal): Promise<void> {
    const deadline = AbortSignal.any([AbortSignal.timeout(waitMs), signal, this.#signal]);
    while (!done() && !deadline.aborted) {
      await new Promise<void>((resolve) => {
        const waiters = this.#waiters.get(migrationId) ?? new Set();
        this.#waiters.set(migrationId, waiters);
        const wake = () => {
          deadline.removeEventListener('abort', wake);
          waiters.delete(wake);
          if (waiters.size === 0 && this.#waiters.get(migrationId) === waiters) this.#waiters.delete(migrationId);
          resolve();
        };
        waiters.add(wake);
        deadline.addEventListener('abort', wake, { once: true });
      });
    }
  }

  /** Runs a background effect once at a time, again after each failure, until it succeeds or the agent goes down. */
  task(key: string, migrationId: string, work: () => Promise<void>): Promise<void> {
    const running = this.#tasks.get(key);
    if (running !== undefined) return running;
    const task = this.#repeat(key, migrationId, work).finally(() => this.#tasks.delete(key));
    this.#tasks.set(key, task);
    return task;
  }

  /** The background effect of this key, if it is under way. */
  running(key: string): Promise<void> | undefined {
    return this.#tasks.get(key);
  }

  /** Waits for all background work to see the agent's end. */
  async stopped(): Promise<void> {
    await Promise.allSettled(this.#tasks.values());
  }

  /** The migration that holds a Machine stopped at this source, or null. */
  heldBy(machineId: string): string | null {
    const holding = this.#journal
      .openHandovers()
      .find((row) => row.machineId === machineId && row.role === 'source' && holdsMachine(row.state));
    return holding?.migrationId ?? null;
  }

  /** Whether this row's Machine is still owned here at the epoch that the row gave it. */
  ownsNow(row: HandoverRow): boolean {
    const placement = this.#journal.machine(row.machineId)?.placement;
    return placement?.kind === 'owner' && placement.epoch === ownedEpoch(row);
  }

  /** How the migration stands here. */
  standing(row: HandoverRow): Standing {
    return row.role === 'source' ? sourceStanding(row.state) : destinationStanding(row.state);
  }

  /** Whether a migration keeps a Machine of a network down, or may, as far as this host knows; not what an operator accepted. */
  keepsDown(network: string, lockHolder: string): boolean {
    return this.#journal.openHandovers().some((row) => {
      const { detail } = row;
      if (detail.network !== network || detail.lockHolder !== lockHolder || detail.acceptedDown === true) return false;
      return row.role === 'source' ? sourceKeepsDown(row.state) : destinationKeepsDown(row.state);
    });
  }

  /** Bytes promised to copies that are being received. */
  reservedBytes(): number {
    const received = this.#journal
      .openHandovers()
      .filter((row) => row.role === 'destination' && (row.state.step === 'prepared' || row.state.step === 'verified'));
    return received.reduce((total, row) => total + row.detail.volumeAllocatedBytes, 0);
  }

  /** What the journal and the disk say of a Machine. */
  placement(machineId: string): { placement: Placement; seal: Seal | null; machine: MachineRow | undefined } {
    const machine = this.#journal.machine(machineId);
    return { machine, placement: machine?.placement ?? { kind: 'none' }, seal: sealOf(this.#seals.of(machineId)) };
  }

  #sourceContext(migrationId: string, row: HandoverRow | undefined, fresh: NewRow | undefined): SourceContext {
    const machineId = row?.machineId ?? fresh?.machineId ?? '';
    const network = row?.detail.network ?? fresh?.detail.network ?? '';
    return {
      host: this.#host,
      migrationId,
      ...this.placement(machineId),
      journalWentBack: this.journalWentBack,
      heldBy: this.heldBy(machineId),
      permit: this.#journal.permit(network),
    };
  }

  #destinationContext(
    migrationId: string,
    row: HandoverRow | undefined,
    fresh: NewRow | undefined,
  ): DestinationContext {
    const machineId = row?.machineId ?? fresh?.machineId ?? '';
    const subject = row?.role === 'destination' ? row.state.subject : undefined;
    return {
      host: this.#host,
      migrationId,
      ...this.placement(machineId),
      journalWentBack: this.journalWentBack,
      receiving: subject !== undefined && this.#seals.isReceiving(machineId, subject.volumeId, subject.epoch),
    };
  }

  #write(
    migrationId: string,
    role: 'source' | 'destination',
    row: HandoverRow | undefined,
    state: SourceState | DestinationState,
    placement: Placement,
    change: Change,
    fresh: NewRow | undefined,
  ): HandoverRow {
    const base = row ?? fresh;
    if (base === undefined)
      throw refusalError({ reason: 'unknown_migration', message: `nothing is known of ${migrationId}` });
    const next = {
      migrationId,
      machineId: base.machineId,
      role,
      state,
      detail: { ...base.detail, ...change.detail },
      record: change.record ?? row?.record ?? null,
      updatedAtMs: this.#clock.nowMs(),
    } as HandoverRow;
    this.#journal.write(() => {
      this.#journal.putHandover(next);
      change.also?.(placement);
      const machine = this.#journal.machine(base.machineId);
      if (machine !== undefined && JSON.stringify(machine.placement) !== JSON.stringify(placement)) {
        this.#journal.putMachine({ ...machine, placement, updatedAtMs: next.updatedAtMs });
      }
    });
    this.#failures.delete(migrationId);
    this.changed(migrationId);
    return next;
  }

  /** Markers in turn and awaited; what takes long goes on in the background. */
  #perform(row: HandoverRow, effects: readonly (SourceEffect | DestinationEffect)[]): Promise<void> {
    const before = this.#turns.get(row.machineId) ?? Promise.resolve();
    const mine = before.catch(() => {}).then(() => this.#performInTurn(row, effects));
    this.#turns.set(row.machineId, mine);
    mine
      .catch(() => void this.#takeUp(row.migrationId))
      .finally(() => {
        if (this.#turns.get(row.machineId) === mine) this.#turns.delete(row.machineId);
      });
    return mine;
  }

  async #performInTurn(row: HandoverRow, effects: readonly (SourceEffect | DestinationEffect)[]): Promise<void> {
    for (const effect of effects) {
      if (effect.do === 'mark') {
        const volumeId =
          'volumeId' in effect ? effect.volumeId : (this.#journal.machine(row.machineId)?.volumeId ?? '');
        await this.#effects!.mark(row.machineId, effect.marker, volumeId || null);
      } else if (effect.do === 'unmark') await this.#effects!.unmark(row.machineId, effect.volumeId);
    }
    this.#background(row, effects);
  }

  /** Takes up what is pending, in the order in which the transition lists it. */
  #background(row: HandoverRow, effects: readonly (SourceEffect | DestinationEffect)[]): void {
    for (const effect of effects) {
      if (effect.do === 'mark' || effect.do === 'unmark') continue;
      const work =
        row.role === 'source'
          ? () => this.#effects!.source(row, effect as SourceEffect)
          : () => this.#effects!.destination(row, effect as DestinationEffect);
      void this.task(`${row.migrationId} ${effect.do}`, row.migrationId, work);
    }
  }

  /** Takes up what is pending in a row, told from the journal alone: after a start, and after a marker that failed. */
  #takeUp(migrationId: string): Promise<void> {
    return this.task(`${migrationId} take up`, migrationId, async () => {
      const row = this.#journal.handover(migrationId);
      if (row === undefined) return;
      await this.#finishMark(row.machineId);
      await this.#performInTurn(row, row.role === 'source' ? pendingSource(row.state) : pendingDestination(row.state));
    });
  }

  async #finishMark(machineId: string): Promise<void> {
    const { placement, seal, machine } = this.placement(machineId);
    const agreement = reconcile(placement, seal);
    if (agreement.kind === 'finish') await this.#effects!.mark(machineId, agreement.marker, machine?.volumeId || null);
  }

  async #repeat(key: string, migrationId: string, work: () => Promise<void>): Promise<void> {
    while (!this.#signal.aborted) {
      try {
        await work();
        return;
      } catch (error) {
        if (this.#signal.aborted) return;
        const known = ferryErrorOf(error);
        this.#log.warn({ migration: migrationId, task: key, reason: known.reason }, known.message);
        this.setFailure(migrationId, known);
        await this.#clock.sleep(retryMs, this.#signal).catch(() => {});
      }
    }
  }

  #logStep(row: HandoverRow): void {
    this.#log.info(
      { migration: row.migrationId, machine: row.machineId, role: row.role, step: row.state.step },
      'hand-over',
    );
  }
}

/** The epoch at which the row's Machine is to come up here, or null when the row starts nothing. */
function ownedEpoch(row: HandoverRow): number | null {
  if (row.role === 'destination') return row.state.step === 'owner' ? row.state.subject.epoch : null;
  const { state } = row;
  if (state.step === 'returned') return state.offer.epoch + 1;
  return state.step === 'aborted' && state.held && state.offer !== null ? state.offer.epoch + 1 : null;
}
