// Past 300 lines because it is one noun: the hands of both sides, one method for each effect of the protocol.
import { fromBinary, toBinary } from '@bufbuild/protobuf';
import type { DirectoryRow } from '../../proto/gen/ferry/v1/directory_pb.ts';
import { type MachineEvent, MachineRecordSchema } from '../../proto/gen/ferry/v1/machine_pb.ts';
import type { Clock } from '../../shared/clock.ts';
import { FerryError, toFerryError } from '../../shared/error.ts';
import type { Logger } from '../../shared/log.ts';
import type { SigningKey } from '../../shared/signing.ts';
import type { Directory } from '../directory.ts';
import type { Exports } from '../exports.ts';
import type { HandoverDetail, HandoverRow, Journal } from '../journal.ts';
import { keepSums, keptSumsName } from '../transfer/kept-sums.ts';
import { ferryErrorOf } from '../volumes/ferry-error.ts';
import type { VolumeStore } from '../volumes/store.ts';
import { type Seal, strayCopies } from './boot.ts';
import type { VolumeCopies } from './copies.ts';
import type { CopySources } from './copy-sources.ts';
import type { DestinationEffect } from './destination.ts';
import { downtimeOf } from './downtime.ts';
import type { DestinationRow, Effects, Handovers, SourceRow } from './handovers.ts';
import type { MovableMachines } from './machines.ts';
import type { Peers } from './peers.ts';
import type { Seals } from './seals.ts';
import { readStatement, signDecline, signSettlement, signTicket } from './signed.ts';
import type { SourceEffect } from './source.ts';
import { noVolumeRoot, type VolumeTransfer } from './transfer.ts';

/** Pause between two deliveries of a ticket that was taken but not settled yet, in milliseconds. */
const askAgainMs = 5_000;

/** What the hands work with. */
export interface EffectsOptions {
  readonly handovers: Handovers;
  readonly journal: Journal;
  readonly seals: Seals;
  readonly volumes: VolumeStore;
  readonly machines: MovableMachines;
  readonly exports: Exports;
  /** Ends the connections of these tokens. */
  readonly disconnect: (tokens: readonly string[]) => Promise<void>;
  readonly peers: Peers;
  readonly directory: Directory;
  readonly transfer: VolumeTransfer;
  readonly copies: VolumeCopies;
  readonly sources: CopySources;
  readonly key: SigningKey;
  readonly clock: Clock;
  readonly log: Logger;
  readonly signal: AbortSignal;
  readonly startDeadlineMs: number;
}

/** Does what the transitions of both sides ask for. Everything here can be repeated after a crash at any point. */
export class HandoverEffects implements Effects {
  readonly #options: EffectsOptions;

  constructor(options: EffectsOptions) {
    this.#options = options;
  }

  async mark(machineId: string, seal: Seal, volumeId: string | null): Promise<void> {
    const { volumes, seals } = this.#options;
    if (volumeId !== null && (await volumes.inspect(volumeId)) !== null) {
      if (seal.state === 'owned') await volumes.own(volumeId, seal.epoch);
      else await volumes.relinquish(volumeId, seal.epoch);
    }
    seals.mark(machineId, seal, volumeId);
  }

  async unmark(machineId: string, volumeId: string): Promise<void> {
    this.#options.seals.unmark(machineId, volumeId);
  }

  async removeStrays(wanted: ReadonlySet<string>): Promise<void> {
    const { seals, volumes, journal, log } = this.#options;
    const marked = seals.receiving();
    for (const volumeId of strayCopies(
      marked.map((each) => each.volumeId),
      wanted,
    )) {
      for (const { machineId } of marked.filter((each) => each.volumeId === volumeId))
        seals.unmark(machineId, volumeId);
    }
    const images = (await volumes.list()).volumes.filter(({ state }) => state === 'receiving');
    for (const volumeId of strayCopies(
      images.map((image) => image.volumeId),
      wanted,
    )) {
      await volumes.destroy(volumeId);
      journal.write(() => journal.removeVolume(volumeId));
      log.warn({ volume: volumeId }, 'a copy that no migration fills was removed');
    }
  }

  async source(row: SourceRow, effect: SourceEffect): Promise<void> {
    switch (effect.do) {
      case 'mark':
      case 'send-signal': // the signal goes in the same routine that observes what comes of it
        return;
      case 'retire-volume': // housekeeping deletes the kept copy when its time is over
        return this.#forget(row);
      case 'observe-gone':
        return this.#stop(row);
      case 'take-root':
        return this.#takeRoot(row);
      case 'deliver-ticket':
        return this.#deliverTicket(row);
      case 'read-retained-root':
        return this.#readRetainedRoot(row);
      case 'start-machine':
        return this.#startAgain(row);
    }
  }

  async destination(row: DestinationRow, effect: DestinationEffect): Promise<void> {
    switch (effect.do) {
      case 'mark':
      case 'unmark':
        return;
      case 'start-machine':
        return this.#startHere(row);
      case 'deliver-settlement':
        return this.#deliverSettlement(row);
      case 'deliver-decline':
        return this.#deliverDecline(row);
      case 'free-volume':
        return this.#free(row, effect.volumeId);
    }
  }

  async #stop(row: SourceRow): Promise<void> {
    const { handovers, machines, clock, signal } = this.#options;
    const { migrationId, machineId } = row;
    const now = this.#current(row);
    if (now.state.step !== 'stopping') return;
    await machines.hold(machineId, migrationId);
    await machines.stop(
      machineId,
      {
        signalSentAtMs: now.state.signalSentAtMs,
        onSignalSent: async (atMs) => {
          await handovers.source(migrationId, { type: 'signal-sent', atMs }, { detail: { signalSentAtMs: atMs } });
        },
      },
      signal,
    );
    if (this.#current(row).state.step !== 'stopping') return;
    await handovers.source(migrationId, { type: 'gone-observed' }, { detail: { stoppedAtMs: clock.nowMs() } });
  }

  async #takeRoot(row: SourceRow): Promise<void> {
    const { handovers } = this.#options;
    const { state } = this.#current(row);
    if (state.step !== 'stopped' || state.root !== null) return;
    const root =
      row.detail.sourceVolumeId === '' ? noVolumeRoot : await this.#options.sources.root(row, this.#options.signal);
    if (this.#current(row).state.step !== 'stopped') return;
    await handovers.source(row.migrationId, { type: 'root-taken', root });
  }

  /** Of the whole kept volume, read anew from its disk: nothing that the copy believed counts here. */
  async #retainedRoot(row: SourceRow, root: string): Promise<string> {
    const { volumes, transfer, signal } = this.#options;
    const volumeId = row.detail.sourceVolumeId;
    if (volumeId === '') return noVolumeRoot;
    const image = await volumes.inspect(volumeId);
    if (image === null) throw new FerryError('io_error', `volume ${volumeId} is not here any more`);
    const keptPath = volumes.statePath(volumeId, keptSumsName);
    return transfer.rereadKept({ imagePath: image.path, keptPath }, root, signal);
  }

  async #deliverTicket(row: SourceRow): Promise<void> {
    const { handovers, peers, key, exports, disconnect, machines, signal } = this.#options;
    const { migrationId } = row;
    for (;;) {
      const now = this.#current(row);
      if (now.state.step !== 'relinquished' || signal.aborted) return;
      void disconnect(exports.end(migrationId)).catch(() => {});
      const ticket = signTicket(key, now.state.ticket);
      // The ticket leaves at once: the Machine is down. One that has come back meanwhile, by a later migration, is not this
      // one's to end.
      const [there] = await Promise.all([
        peers.deliver(now.detail.peer, migrationId, ticket, { record: now.record }),
        this.#isGivenUp(row) ? machines.retire(row.machineId, now.state.ticket.destination) : null,
      ]);
      this.hear(now, there.directory);
      if (there.statement !== undefined) return this.believe(migrationId, there.statement);
      // Taken, and the Machine is coming up there: the settlement follows by itself; asked for again in case it is lost.
      handovers.setFailure(migrationId, null);
      const answered = () => this.#current(row).state.step !== 'relinquished';
      await handovers.until(migrationId, answered, askAgainMs, signal);
    }
  }

  #isGivenUp({ machineId, migrationId }: SourceRow): boolean {
    const placement = this.#options.journal.machine(machineId)?.placement;
    return placement?.kind === 'relinquished' && placement.migrationId === migrationId;
  }

  /** Takes the other agent's word for where the Machine is, so that both answer its names alike without a coordinator. */
  hear(row: HandoverRow, told: DirectoryRow | undefined): void {
    if (told?.machineId === row.machineId && told.hostId === row.detail.peer.hostId) this.#options.directory.take(told);
  }

  /** Takes a settlement or decline at the source, for its signature alone. */
  async believe(migrationId: string, signed: Parameters<typeof readStatement>[0]): Promise<void> {
    const { handovers } = this.#options;
    const row = handovers.row(migrationId);
    const statement = readStatement(signed, peerKey(row));
    if (statement.kind === 'Settlement')
      await handovers.source(migrationId, { type: 'settled', settlement: statement.received });
    else if (statement.kind === 'Decline')
      await handovers.source(migrationId, { type: 'declined', decline: statement.received });
    else throw new FerryError('wrong_statement', 'a source takes settlements and declines, not tickets');
  }

  async #readRetainedRoot(row: SourceRow): Promise<void> {
    const { handovers, journal, clock, log } = this.#options;
    const { state } = this.#current(row);
    if (state.step !== 'settled') return;
    const root = await this.#retainedRoot(row, state.ticket.root);
    const now = clock.nowMs();
    const volume = journal.volume(row.detail.sourceVolumeId);
    const next = await handovers.source(
      row.migrationId,
      { type: 'retained-root-read', root },
      {
        detail: { tombstonedAtMs: now },
        also: () => {
          // A copy that differs has no time after which it goes: it stays until an operator has looked.
          if (volume === undefined || root !== state.ticket.root) return;
          journal.putVolume({ ...volume, kept: { migrationId: row.migrationId, root, sinceMs: now } });
        },
      },
    );
    if (next.state.step !== 'parked') return;
    const text = `the kept volume's root is ${root}, the moved Machine has ${state.ticket.root}: bytes were lost or changed; both copies are kept`;
    log.error({ migration: row.migrationId, machine: row.machineId, reason: 'root_mismatch' }, text);
  }

  /** Removes what its programs left on this host besides the kept copy. */
  async #forget(row: SourceRow): Promise<void> {
    await this.#options.machines.forget(row.machineId);
    this.#options.handovers.note(row.migrationId, { freed: true });
  }

  /** The Machine comes back here after it was held. */
  async #startAgain(row: SourceRow): Promise<void> {
    const { handovers, machines, exports, disconnect, sources, signal, startDeadlineMs, clock } = this.#options;
    const { migrationId, machineId } = row;
    if (handovers.ownsNow(row)) {
      await disconnect(exports.end(migrationId));
      // The volume will be written to again: what was known of its bytes is void.
      await sources.end(row);
      await handovers.running(`${migrationId} observe-gone`);
      // A program that the signal may have reached is waited for first: adopting it would adopt a dying one.
      const { signalSentAtMs, stoppedAtMs } = this.#current(row).detail;
      if (signalSentAtMs !== undefined && stoppedAtMs === undefined && handovers.heldBy(machineId) === null) {
        await machines.hold(machineId, migrationId);
        await machines.stop(machineId, { signalSentAtMs, onSignalSent: async () => {} }, signal).catch((error) => {
          // Its processes are gone; who else holds the volume does not keep it from starting here.
          if (toFerryError(error).reason !== 'volume_busy') throw error;
        });
        handovers.note(migrationId, { stoppedAtMs: clock.nowMs() });
      }
      await machines.resume(machineId);
      await machines.untilUp(machineId, startDeadlineMs, signal);
    }
    await handovers.source(migrationId, { type: 'up' });
  }

  async #startHere(row: DestinationRow): Promise<void> {
    const { handovers, machines, signal, clock } = this.#options;
    const { migrationId, machineId } = row;
    if (!handovers.ownsNow(row)) {
      await handovers.destination(migrationId, { type: 'up' });
      return;
    }
    if (row.detail.health === undefined) handovers.note(migrationId, { health: 'starting' });
    await machines.resume(machineId);
    try {
      if (machines.isDesired(machineId)) await this.#noteStart(row);
      void this.#keepSums(row);
      const health = await machines.untilUp(machineId, row.detail.startDeadlineMs, signal);
      const now = clock.nowMs();
      const detail = health === 'healthy' ? { health, healthyAtMs: now } : { health };
      await handovers.destination(
        migrationId,
        { type: 'up' },
        { detail, also: () => this.#recordDowntime(row, detail) },
      );
    } catch (error) {
      if (signal.aborted) return;
      // Who hears of it brings the Machine back: without the sums all of its volume would travel.
      await this.#keepSums(row);
      if (!handovers.ownsNow(row)) throw error;
      // The reason first: who waits for the health looks once.
      handovers.setFailure(migrationId, ferryErrorOf(error));
      handovers.note(migrationId, { health: 'unhealthy' });
      throw error;
    }
  }

  async #noteStart({ migrationId, machineId, detail }: DestinationRow): Promise<void> {
    const { handovers, machines, peers, directory, signal } = this.#options;
    const deadline = AbortSignal.timeout(detail.startDeadlineMs);
    await machines.untilStarted(machineId, AbortSignal.any([signal, deadline]));
    const startedAtMs = machines.startedAtMs(machineId);
    if (startedAtMs === null) return;
    handovers.note(migrationId, { startedAtMs });
    // A courtesy: the settlement says it again, once the Machine is healthy.
    void peers.tell(detail.peer, migrationId, directory.own(machineId)).catch(() => {});
  }

  /** Completes the launch event with what the move cost. */
  #recordDowntime(row: DestinationRow, last: Partial<HandoverDetail>): void {
    const { journal } = this.#options;
    const detail = { ...(this.#options.handovers.row(row.migrationId)?.detail ?? row.detail), ...last };
    const downtime = downtimeOf(detail);
    if (downtime === undefined) return;
    const events = journal.events(row.machineId).map((event: MachineEvent) => {
      if (event.migration?.migrationId === row.migrationId) event.migration.downtime = downtime;
      return event;
    });
    journal.replaceEvents(row.machineId, events);
  }

  async #deliverSettlement(row: DestinationRow): Promise<void> {
    const { handovers, peers, key, directory, copies } = this.#options;
    const now = handovers.row(row.migrationId);
    if (now?.role !== 'destination' || now.state.step !== 'owner' || now.state.settlementKnown) return;
    await this.#keepSums(row);
    const settlement = signSettlement(key, now.state.settlement);
    await peers.deliver(now.detail.peer, row.migrationId, settlement, { directory: directory.own(row.machineId) });
    await handovers.destination(row.migrationId, { type: 'settlement-known' });
    await copies.end(row.migrationId);
  }

  /**
   * What is known of the copy's bytes stays beside it: should the Machine go back, only what changed since has to. Not before
   * the start, which the Machine waits for; before anybody is told how the start went.
   */
  #keepSums({ migrationId, detail, state }: DestinationRow): Promise<void> {
    const { volumes, log, handovers } = this.#options;
    if (detail.volumeSizeBytes === 0 || state.step !== 'owner') return Promise.resolve();
    const { volumeId } = state.subject;
    const { root } = state.ticket;
    const statePath = volumes.statePath(volumeId, 'receiving.state');
    return handovers.task(`${migrationId} keep-sums`, migrationId, async () => {
      await keepSums({ statePath, keptPath: volumes.statePath(volumeId, keptSumsName) }, root).catch((error) =>
        log.warn({ migration: migrationId, err: error }, 'a way back of this Machine will copy all of its volume'),
      );
    });
  }

  async #deliverDecline(row: DestinationRow): Promise<void> {
    const { peers, key, log, handovers } = this.#options;
    if (row.state.step !== 'declined') return;
    try {
      await peers.deliver(row.detail.peer, row.migrationId, signDecline(key, row.state.decline));
    } catch (error) {
      // A courtesy: a source that waits for it asks with its ticket, and gets it as the answer.
      log.info({ migration: row.migrationId, reason: toFerryError(error).reason }, 'the decline was not delivered');
    }
    if (!row.state.hadCopy) handovers.note(row.migrationId, { freed: true });
  }

  async #free(row: DestinationRow, volumeId: string): Promise<void> {
    const { handovers, volumes, journal, copies } = this.#options;
    await copies.end(row.migrationId);
    if (row.detail.volumeSizeBytes > 0) await volumes.destroy(volumeId);
    journal.write(() => journal.removeVolume(volumeId));
    handovers.note(row.migrationId, { freed: true });
  }

  #current(row: SourceRow): SourceRow {
    return (this.#options.handovers.row(row.migrationId) as SourceRow | undefined) ?? row;
  }
}

/** The pinned key of the other agent, or null. */
export function peerKey(row: HandoverRow | undefined): Uint8Array | null {
  const key = row?.detail.peer.publicKey;
  return typeof key === 'string' ? Buffer.from(key, 'base64') : null;
}

/** Reads a travelling record. */
export function readRecord(bytes: Uint8Array) {
  try {
    return fromBinary(MachineRecordSchema, bytes);
  } catch (cause) {
    throw new FerryError('invalid_argument', 'record: is not a Machine record', { field: 'record', cause });
  }
}

/** The bytes that a ticket's digest is over. */
export function writeRecord(record: Parameters<typeof toBinary<typeof MachineRecordSchema>>[1]): Uint8Array {
  return toBinary(MachineRecordSchema, record);
}
