// Past 300 lines because it is one noun: a coordinator's orders, one method each, in the order of the steps.
import { createHash } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import { type Duration, timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { ServiceImpl } from '@connectrpc/connect';
import type { Handover, HandoverService, OrderHeader, SignedStatement } from '../../proto/gen/ferry/v1/handover_pb.ts';
import { PermitSchema, type Permit as ProtoPermit } from '../../proto/gen/ferry/v1/lock_pb.ts';
import {
  DesiredState,
  type MachineRecord,
  MachineRecordSchema,
  type MoveOrder,
  MoveOrderSchema,
} from '../../proto/gen/ferry/v1/machine_pb.ts';
import { durationToMs } from '../../shared/duration.ts';
import { FerryError, invalidArgument } from '../../shared/error.ts';
import { checkAddress, checkId, newVolumeId } from '../../shared/ids.ts';
import type { Random } from '../../shared/random.ts';
import type { HandoverDetail, HandoverRow, MachineRow, MoveReason } from '../journal.ts';
import { newLife } from '../machines/lifecycle.ts';
import { ferryErrorOf } from '../volumes/ferry-error.ts';
import { validSize } from '../volumes/validate.ts';
import type { EffectsOptions, HandoverEffects } from './effects.ts';
import { peerKey, readRecord, writeRecord } from './effects.ts';
import type { NewRow } from './handovers.ts';
import { keptCopy } from './kept-copy.ts';
import { grant, type PermitOutcome, release } from './permit.ts';
import { refusalError } from './refusal.ts';
import { readStatement } from './signed.ts';
import { noVolumeRoot } from './transfer.ts';
import { unknownView, viewOf } from './view.ts';

const waitMaxMs = 30_000;
const releaseWaitMs = 2_000;
const listMax = 1000;
/** Characters of a reason that are kept: a text for people, not worth refusing an end for. */
const reasonMax = 2000;
const startDeadlineMsMax = 3_600_000;

/** What the orders work with. */
export interface OrdersOptions extends EffectsOptions {
  readonly host: string;
  readonly effects: HandoverEffects;
  readonly random: Random;
}

/** A header with its numbers read and its IDs checked. */
interface Header {
  readonly migrationId: string;
  readonly term: number;
  readonly lockHolder: string;
  readonly fence: number;
}

function readHeader(header: OrderHeader | undefined): Header {
  if (header === undefined) throw invalidArgument('header', 'is missing', 'migration ID and driver term');
  const migrationId = checkId('migration', header.migrationId, 'header.migration_id');
  const lockHolder = checkId('migration', header.lockHolder || migrationId, 'header.lock_holder');
  const term = readCount(header.term, 'header.term', 0);
  return { migrationId, lockHolder, term, fence: readCount(header.fence, 'header.fence', 0) };
}

/** A number that is counted up from small ones: one beyond 2^53 is a mistake, and remembering it would refuse all others. */
function readCount(value: bigint, field: string, min: number): number {
  if (value >= min && value <= Number.MAX_SAFE_INTEGER) return Number(value);
  throw invalidArgument(field, `is ${value}`, `a whole number from ${min} to 2^53 - 1`);
}

function readWaitMs(wait: Duration | undefined): number {
  const waitMs = durationToMs(wait) ?? 0;
  if (waitMs >= 0) return Math.min(waitMaxMs, waitMs);
  throw invalidArgument('wait', `is ${waitMs / 1000} s`, '0 s or more');
}

/** SHA-256 over the bytes of a record, hex. */
export function digestOf(record: Uint8Array): string {
  return createHash('sha256').update(record).digest('hex');
}

/** A coordinator's orders to this agent: checks what they say, asks the transitions, answers where the hand-over stands. */
export class Orders implements ServiceImpl<typeof HandoverService> {
  readonly #options: OrdersOptions;

  constructor(options: OrdersOptions) {
    this.#options = options;
  }

  /** Where a migration stands here. */
  view(migrationId: string): Handover {
    const { handovers, copies, key, machines, directory } = this.#options;
    const row = handovers.row(migrationId);
    if (row === undefined) return unknownView(migrationId);
    const { placement } = handovers.placement(row.machineId);
    const standing = handovers.standing(row);
    return viewOf(row, key, {
      standing,
      trouble: standing === 'active' && handovers.ownsNow(row) ? machines.trouble(row.machineId) : '',
      failure: handovers.failure(migrationId),
      progress: copies.progress(migrationId),
      epoch: placement.kind === 'none' ? 0 : placement.epoch,
      directory: directory.own(row.machineId),
    });
  }

  offer: ServiceImpl<typeof HandoverService>['offer'] = async (request) => {
    const { journal, handovers, host, clock } = this.#options;
    const { migrationId, term, lockHolder } = readHeader(request.header);
    const machineId = checkId('machine', request.machineId, 'machine_id');
    const { hostId, address } = request.destination ?? { hostId: '', address: '' };
    if (checkId('name', hostId, 'destination.host_id') === host) {
      throw new FerryError('same_host', `Machine ${machineId} is on host ${host} already`, {
        field: 'destination.host_id',
      });
    }
    checkAddress(address, 'destination.address');
    const order = readMoveOrder(request.order);
    const machine = this.#ownedMachine(machineId);
    const row = handovers.row(migrationId);
    if (row !== undefined && (row.role !== 'source' || row.state.step === 'aborted' || row.state.step === 'returned')) {
      throw new FerryError('burnt', `migration ${migrationId} is ${row.role} ${row.state.step} here`);
    }
    if (machine.runtime.desired === 'destroyed')
      throw new FerryError('machine_busy', `Machine ${machineId} is being destroyed`);
    if (row === undefined)
      journal.write(() =>
        journal.putOffer(migrationId, {
          machineId,
          peer: { hostId, address },
          lockHolder,
          term,
          order,
          sinceMs: clock.nowMs(),
        }),
      );
    handovers.ordered(migrationId, term);
    const record = await this.#describe(machine);
    const handover =
      row === undefined
        ? { ...unknownView(migrationId), machineId, epoch: this.#epoch(machine) }
        : this.view(migrationId);
    return { handover, record, network: machine.record.network };
  };

  prepare: ServiceImpl<typeof HandoverService>['prepare'] = async (request) => {
    const { handovers, host, random, machines, seals, volumes, peers, journal, transfer } = this.#options;
    const { migrationId, term, lockHolder } = readHeader(request.header);
    const { record } = request;
    if (record === undefined) throw invalidArgument('record', 'is missing', 'the record of the offer');
    const machineId = checkId('machine', record.machineId, 'record.machine_id');
    checkId('name', record.network, 'record.network');
    if (record.instanceId !== '') checkId('instance', record.instanceId, 'record.instance_id');
    if (record.sourceVolumeId !== '') checkId('volume', record.sourceVolumeId, 'record.source_volume_id');
    if (record.config === undefined) throw invalidArgument('record.config', 'is missing', 'a Machine config');
    const source = checkId('name', request.source?.hostId ?? '', 'source.host_id');
    if (source === host)
      throw new FerryError('same_host', `host ${host} cannot be its own source`, { field: 'source.host_id' });
    const address = checkAddress(request.source?.address ?? '', 'source.address');
    const epoch = readCount(request.epoch, 'epoch', 1);
    const sizeBytes = readSize(record.volumeSizeBytes);
    const startDeadlineMs = readStartDeadlineMs(request.startDeadline) ?? this.#options.startDeadlineMs;
    const known = handovers.row(migrationId);
    const volumeId = known?.role === 'destination' ? known.state.subject.volumeId : newVolumeId(random);
    const subject = { migrationId, machineId, epoch, source, destination: host, volumeId };
    const detail: HandoverDetail = {
      peer: { hostId: source, address, publicKey: null },
      network: record.network,
      lockHolder,
      volumeSizeBytes: sizeBytes,
      volumeAllocatedBytes: Number(record.volumeAllocatedBytes),
      sourceVolumeId: record.sourceVolumeId,
      startDeadlineMs,
      seed: keptCopy(journal, machineId, sizeBytes),
    };
    if (known === undefined) {
      await machines.canTake(record);
      // Marker and image come before the row: a row whose marker is missing has lost its copy and is never accepted.
      if (sizeBytes > 0) {
        await volumes.createReceiving({ volumeId, sizeBytes }).catch((error) => Promise.reject(ferryErrorOf(error)));
        const mount = record.config?.mounts[0];
        const createdAtMs = this.#options.clock.nowMs();
        journal.write(() =>
          journal.putVolume({
            id: volumeId,
            name: mount?.name ?? '',
            machineId,
            sizeBytes,
            createdAtMs,
            kept: null,
          }),
        );
      }
      seals.receive(machineId, volumeId, epoch);
    }
    try {
      await handovers.destination(migrationId, { type: 'prepare', term, subject }, {}, { machineId, detail });
    } finally {
      // Refused, or another order of the same name was faster: this copy is nobody's.
      const row = handovers.row(migrationId);
      if (known === undefined && (row?.role !== 'destination' || row.state.subject.volumeId !== volumeId)) {
        await this.#discard(machineId, volumeId);
      }
    }
    handovers.driven(migrationId);
    const row = handovers.row(migrationId)!;
    if (row.detail.peer.publicKey === null) {
      const publicKey = await peers.pair(row.detail.peer, migrationId, volumeId, transfer.fingerprint !== '');
      handovers.note(migrationId, {
        peer: { ...row.detail.peer, publicKey: Buffer.from(publicKey).toString('base64') },
      });
    }
    return { handover: this.view(migrationId) };
  };

  async #discard(machineId: string, volumeId: string): Promise<void> {
    const { seals, volumes, journal } = this.#options;
    seals.unmark(machineId, volumeId);
    await volumes.destroy(volumeId).catch((error) => Promise.reject(ferryErrorOf(error)));
    if (journal.volume(volumeId) !== undefined) journal.write(() => journal.removeVolume(volumeId));
  }

  grantPermit: ServiceImpl<typeof HandoverService>['grantPermit'] = (request) => {
    const { journal, handovers, host } = this.#options;
    const wish = readPermit(request.permit);
    // What it had promised is forgotten, so it may promise nothing.
    if (handovers.journalWentBack)
      throw new FerryError('journal_went_back', `the journal of host ${host} went back to an older copy`);
    const permit = this.#permitted(grant(journal.permit(wish.network), wish));
    return { permit };
  };

  releasePermit: ServiceImpl<typeof HandoverService>['releasePermit'] = async (request, context) => {
    const { journal, handovers, directory } = this.#options;
    const wish = readPermit(request.permit);
    // Before the next stop can be permitted here, names lead to where this Machine is now.
    if (request.directory !== undefined) directory.take(request.directory);
    const keepsDown = () => handovers.keepsDown(wish.network, wish.holder);
    // A source hears that the Machine is up a moment after the coordinator does.
    await handovers.until(wish.holder, () => !keepsDown(), releaseWaitMs, context.signal);
    const held = journal.permit(wish.network);
    this.#permitted(release(held, wish, keepsDown()));
    return { released: held?.holder === wish.holder && held.fence === wish.fence };
  };

  listPermits: ServiceImpl<typeof HandoverService>['listPermits'] = () => {
    const held = this.#options.journal.permits().filter((permit) => permit.holder !== null);
    return {
      permits: held.map(({ network, holder, fence }) => ({ network, migrationId: holder ?? '', fence: BigInt(fence) })),
    };
  };

  stopForMigration: ServiceImpl<typeof HandoverService>['stopForMigration'] = async (request, context) => {
    const { handovers } = this.#options;
    const { migrationId, term, fence } = readHeader(request.header);
    const waitMs = readWaitMs(request.wait);
    const row = await handovers.source(migrationId, { type: 'stop', term, fence });
    handovers.driven(migrationId);
    const stuck = () => (handovers.failure(migrationId)?.disposition ?? 'retry') !== 'retry';
    const stopped = () => handovers.row(migrationId)?.state.step !== 'stopping';
    if (row.state.step === 'stopping') {
      await handovers.until(migrationId, () => stopped() || stuck(), waitMs, context.signal);
    }
    handovers.driven(migrationId);
    if (!stopped() && stuck()) throw handovers.failure(migrationId);
    return { handover: this.view(migrationId) };
  };

  precopy: ServiceImpl<typeof HandoverService>['precopy'] = async (request, context) => {
    const { handovers, copies } = this.#options;
    const { migrationId, term } = readHeader(request.header);
    const waitMs = readWaitMs(request.wait);
    const budgetMs = readCount(request.downtimeBudgetMs, 'downtime_budget_ms', 0);
    const row = this.#row(migrationId, 'destination');
    handovers.ordered(migrationId, term);
    if (row.state.step === 'declined') throw new FerryError('burnt', `migration ${migrationId} was declined here`);
    if (row.state.step === 'owner')
      throw new FerryError('too_late', `host ${this.#options.host} owns the Machine of ${migrationId} already`);
    const wish = { budgetMs, lastRound: request.lastRound };
    await this.#copying(migrationId, waitMs, context.signal, () => copies.precopy(migrationId, wish));
    return { handover: this.view(migrationId) };
  };

  copy: ServiceImpl<typeof HandoverService>['copy'] = async (request, context) => {
    const { handovers, copies } = this.#options;
    const { migrationId, term } = readHeader(request.header);
    const waitMs = readWaitMs(request.wait);
    const row = this.#row(migrationId, 'destination');
    handovers.ordered(migrationId, term);
    if (row.state.step === 'declined') throw new FerryError('burnt', `migration ${migrationId} was declined here`);
    await this.#copying(migrationId, waitMs, context.signal, () => copies.copy(migrationId));
    return { handover: this.view(migrationId) };
  };

  /** Begins a copy and waits for its end; each failed try is told once, also one that failed between two orders. */
  async #copying(migrationId: string, waitMs: number, signal: AbortSignal, begin: () => Promise<void>): Promise<void> {
    const { handovers, copies } = this.#options;
    const tell = () => {
      const failure = handovers.failure(migrationId);
      if (failure === null || copies.isCopying(migrationId)) return;
      handovers.setFailure(migrationId, null);
      throw failure;
    };
    tell();
    await begin();
    await handovers.until(migrationId, () => !copies.isCopying(migrationId), waitMs, signal);
    handovers.driven(migrationId);
    tell();
  }

  relinquish: ServiceImpl<typeof HandoverService>['relinquish'] = async (request, context) => {
    const { handovers, machines } = this.#options;
    const { migrationId, term } = readHeader(request.header);
    handovers.ordered(migrationId, term);
    const rootTaken = () => {
      const state = handovers.row(migrationId)?.state;
      return state?.step !== 'stopped' || !('root' in state) || state.root !== null;
    };
    await handovers.until(migrationId, rootTaken, waitMaxMs, context.signal);
    const row = this.#row(migrationId, 'source');
    const [record, survivors] = await Promise.all([
      row.record ?? this.#travelRecord(row).then(writeRecord),
      machines.survivors(row.machineId),
    ]);
    await handovers.source(
      migrationId,
      {
        type: 'relinquish',
        term,
        root: request.destinationRoot,
        recordDigest: digestOf(record),
        processGone: survivors === null,
      },
      { record },
    );
    return { handover: this.view(migrationId) };
  };

  accept: ServiceImpl<typeof HandoverService>['accept'] = async (request) => {
    const { migrationId, term } = readHeader(request.header);
    this.#options.handovers.ordered(migrationId, term);
    if (request.ticket === undefined) throw invalidArgument('ticket', 'is missing', 'the signed ticket of the source');
    await this.takeTicket(migrationId, request.ticket, request.record);
    return { handover: this.view(migrationId) };
  };

  settle: ServiceImpl<typeof HandoverService>['settle'] = async (request, context) => {
    const { handovers, effects } = this.#options;
    const { migrationId, term } = readHeader(request.header);
    const waitMs = readWaitMs(request.wait);
    this.#row(migrationId, 'source');
    handovers.ordered(migrationId, term);
    if (request.settlement === undefined)
      throw invalidArgument('settlement', 'is missing', "the destination's settlement");
    await effects.believe(migrationId, request.settlement);
    const read = () => handovers.row(migrationId)?.state.step !== 'settled';
    await handovers.until(migrationId, read, waitMs, context.signal);
    return { handover: this.view(migrationId) };
  };

  abort: ServiceImpl<typeof HandoverService>['abort'] = async (request) => {
    const { handovers, journal } = this.#options;
    const { migrationId, term, lockHolder } = readHeader(request.header);
    const machineId = checkId('machine', request.machineId, 'machine_id');
    const fresh = this.#burntRow(machineId, '', lockHolder);
    await handovers.source(
      migrationId,
      { type: 'abort', term, reason: request.reason.slice(0, reasonMax) },
      { also: () => journal.removeOffer(migrationId) },
      fresh,
    );
    handovers.driven(migrationId);
    return { handover: this.view(migrationId) };
  };

  decline: ServiceImpl<typeof HandoverService>['decline'] = async (request) => {
    const { handovers, host } = this.#options;
    const { migrationId, term, lockHolder } = readHeader(request.header);
    const machineId = checkId('machine', request.machineId, 'machine_id');
    const source = checkId('name', request.source, 'source');
    const volumeId = request.volumeId === '' ? '' : checkId('volume', request.volumeId, 'volume_id');
    const reason = request.reason.slice(0, reasonMax);
    const epoch = readCount(request.epoch, 'epoch', 0);
    const subject = { migrationId, machineId, epoch, source, destination: host, volumeId };
    const fresh = this.#burntRow(machineId, source, lockHolder);
    await handovers.destination(migrationId, { type: 'decline', term, subject, reason }, {}, fresh);
    return { handover: this.view(migrationId) };
  };

  takeBack: ServiceImpl<typeof HandoverService>['takeBack'] = async (request) => {
    const { migrationId, term } = readHeader(request.header);
    this.#row(migrationId, 'source');
    this.#options.handovers.ordered(migrationId, term);
    if (request.decline === undefined) throw invalidArgument('decline', 'is missing', "the destination's decline");
    await this.#options.effects.believe(migrationId, request.decline);
    return { handover: this.view(migrationId) };
  };

  acceptMachineDown: ServiceImpl<typeof HandoverService>['acceptMachineDown'] = (request) => {
    const { handovers } = this.#options;
    const { migrationId, term } = readHeader(request.header);
    if (handovers.row(migrationId) === undefined)
      throw new FerryError('unknown_migration', `host ${this.#options.host} never heard of migration ${migrationId}`);
    handovers.ordered(migrationId, term);
    handovers.note(migrationId, { acceptedDown: true });
    return { handover: this.view(migrationId) };
  };

  getHandover: ServiceImpl<typeof HandoverService>['getHandover'] = async (request, context) => {
    const { handovers } = this.#options;
    const migrationId = checkId('migration', request.migrationId, 'migration_id');
    const isStarting = () => {
      const row = handovers.row(migrationId);
      return (
        row?.role === 'destination' && row.state.step === 'owner' && (row.detail.health ?? 'starting') === 'starting'
      );
    };
    await handovers.until(migrationId, () => !isStarting(), readWaitMs(request.wait), context.signal);
    return { handover: this.view(migrationId) };
  };

  listHandovers: ServiceImpl<typeof HandoverService>['listHandovers'] = (request) => {
    const { handovers, journal } = this.#options;
    const rows = journal.handovers().filter((row) => !request.openOnly || handovers.standing(row) === 'active');
    return { handovers: rows.slice(0, listMax).map((row) => this.view(row.migrationId)) };
  };

  /** Takes a ticket from whoever carries it. Refused only for what it says. */
  async takeTicket(migrationId: string, signed: SignedStatement, record: Uint8Array): Promise<void> {
    const { handovers } = this.#options;
    const row = handovers.row(migrationId);
    const statement = readStatement(signed, peerKey(row));
    if (statement.kind !== 'Ticket')
      throw new FerryError('wrong_statement', `expected a ticket, got a ${statement.kind}`);
    const { received } = statement;
    const { machineId, source } = received.statement;
    const fresh =
      row === undefined
        ? this.#burntRow(checkId('machine', machineId, 'ticket.machine_id'), source, migrationId)
        : undefined;
    const event = { type: 'accept', ticket: received, recordDigest: digestOf(record) } as const;
    const also = () => {
      const now = handovers.row(migrationId);
      if (now?.role === 'destination' && now.state.step === 'owner' && row?.state.step !== 'owner')
        this.#adopt(now, record);
    };
    const travelling = readRecord(record);
    const { signalSentAt, stoppedAt, longestWriteStallMs } = travelling;
    const detail = {
      longestWriteStallMs: Number(longestWriteStallMs),
      ...(signalSentAt === undefined
        ? {}
        : { signalSentAtMs: Number(signalSentAt.seconds) * 1000 + signalSentAt.nanos / 1e6 }),
      ...(stoppedAt === undefined ? {} : { stoppedAtMs: Number(stoppedAt.seconds) * 1000 + stoppedAt.nanos / 1e6 }),
    };
    await handovers.destination(migrationId, event, { record, detail, also }, fresh);
  }

  /** The accepted Machine's own row, in the transaction of the acceptance. */
  #adopt(row: HandoverRow, bytes: Uint8Array): void {
    const { journal, clock, host } = this.#options;
    if (row.role !== 'destination' || row.state.step !== 'owner') return;
    const record = readRecord(bytes);
    const { subject, ticket } = row.state;
    const volumeId = row.detail.volumeSizeBytes > 0 ? subject.volumeId : '';
    const desired = record.desiredState === DesiredState.STOPPED ? 'stopped' : 'started';
    const placement = { kind: 'owner', epoch: subject.epoch } as const;
    const life = { ...newLife(desired), instanceId: record.instanceId };
    const slot = journal.machine(row.machineId)?.slot ?? journal.nextSlot();
    const now = clock.nowMs();
    journal.putMachine({ id: row.machineId, placement, record, runtime: life, volumeId, slot, updatedAtMs: now });
    const migration = {
      migrated: true,
      migrationId: row.migrationId,
      sourceHost: subject.source,
      destinationHost: host,
      sourceVolumeId: row.detail.sourceVolumeId,
      destinationVolumeId: volumeId,
      root: ticket.root === noVolumeRoot ? '' : ticket.root,
      moveReason: record.order?.reason ?? '',
      orderedBy: record.order?.orderedBy ?? '',
      drainId: record.order?.drainId ?? '',
    };
    const launch = { type: 'launch', status: 'created', source: 'agent', timestamp: timestampFromMs(now), migration };
    journal.replaceEvents(row.machineId, create(MachineRecordSchema, { events: [...record.events, launch] }).events);
  }

  #row(migrationId: string, role: HandoverRow['role']): HandoverRow {
    const row = this.#options.handovers.row(migrationId);
    if (row?.role === role) return row;
    const { host } = this.#options;
    if (row === undefined)
      throw new FerryError('unknown_migration', `host ${host} never heard of migration ${migrationId}`);
    throw new FerryError('other_role', `host ${host} is the ${row.role} of ${migrationId}; this is for the ${role}`);
  }

  #ownedMachine(machineId: string): MachineRow {
    const { journal, host } = this.#options;
    const machine = journal.machine(machineId);
    if (machine === undefined)
      throw new FerryError('unknown_machine', `no Machine ${machineId} on host ${host}`, { field: 'machine_id' });
    if (machine.placement.kind !== 'owner')
      throw new FerryError('not_owner', `host ${host} does not own Machine ${machineId}`);
    return machine;
  }

  #epoch(machine: MachineRow): bigint {
    return BigInt(machine.placement.kind === 'none' ? 0 : machine.placement.epoch);
  }

  /** The Machine as it is now, without its events. */
  async #describe(machine: MachineRow): Promise<MachineRecord> {
    const { volumes } = this.#options;
    const volume = machine.volumeId === '' ? null : await volumes.inspect(machine.volumeId);
    return create(MachineRecordSchema, {
      ...machine.record,
      desiredState: machine.runtime.desired === 'started' ? DesiredState.STARTED : DesiredState.STOPPED,
      events: [],
      volumeSizeBytes: BigInt(volume?.sizeBytes ?? 0),
      volumeAllocatedBytes: BigInt(volume?.allocatedBytes ?? 0),
      sourceVolumeId: machine.volumeId,
      instanceId: machine.runtime.instanceId,
    });
  }

  /** What travels with the ticket: the record with the destination's volume, the events, and the times of the stop. */
  async #travelRecord(row: HandoverRow): Promise<MachineRecord> {
    const { journal } = this.#options;
    const machine = this.#ownedMachine(row.machineId);
    const record = structuredClone(await this.#describe(machine));
    const mount = record.config?.mounts[0];
    if (mount !== undefined && row.role === 'source' && row.state.step !== 'aborted')
      mount.volume = row.state.offer.volumeId;
    record.events = journal.events(row.machineId);
    const { signalSentAtMs, stoppedAtMs, longestWriteStallMs = 0, order } = row.detail;
    record.longestWriteStallMs = BigInt(longestWriteStallMs);
    if (order !== undefined) record.order = create(MoveOrderSchema, order);
    else delete record.order;
    if (signalSentAtMs !== undefined) record.signalSentAt = timestampFromMs(signalSentAtMs);
    if (stoppedAtMs !== undefined) record.stoppedAt = timestampFromMs(stoppedAtMs);
    return record;
  }

  /** What a row needs that only says that its ID is burnt. */
  #burntRow(machineId: string, source: string, lockHolder: string): NewRow {
    const peer = { hostId: source, address: this.#options.journal.roster().get(source) ?? '', publicKey: null };
    return {
      machineId,
      detail: {
        peer,
        network: '',
        lockHolder,
        volumeSizeBytes: 0,
        volumeAllocatedBytes: 0,
        sourceVolumeId: '',
        startDeadlineMs: this.#options.startDeadlineMs,
      },
    };
  }

  #permitted(outcome: PermitOutcome): ProtoPermit {
    const { journal } = this.#options;
    if (!outcome.ok) throw refusalError(outcome.refusal, outcome.holder === null ? {} : { holder: outcome.holder });
    const { network, holder, fence } = outcome.permit;
    journal.write(() => journal.putPermit(outcome.permit));
    return create(PermitSchema, { network, migrationId: holder ?? '', fence: BigInt(fence) });
  }
}

function readPermit(permit: ProtoPermit | undefined): { network: string; holder: string; fence: number } {
  if (permit === undefined) throw invalidArgument('permit', 'is missing', 'network, migration ID and fence');
  const network = checkId('name', permit.network, 'permit.network');
  const holder = checkId('migration', permit.migrationId, 'permit.migration_id');
  return { network, holder, fence: readCount(permit.fence, 'permit.fence', 1) };
}

const moveReasons = ['', 'overcrowded', 'deprecated', 'maintenance', 'failing'];
const orderedByMax = 200;

function readMoveOrder(order: MoveOrder | undefined): MoveReason {
  const { reason = '', orderedBy = '', drainId = '' } = order ?? {};
  if (!moveReasons.includes(reason))
    throw invalidArgument(
      'order.reason',
      `is ${JSON.stringify(reason.slice(0, 80))}`,
      `one of ${moveReasons.slice(1).join(', ')}, or empty`,
    );
  if (drainId !== '') checkId('drain', drainId, 'order.drain_id');
  return { reason, orderedBy: orderedBy.slice(0, orderedByMax), drainId };
}

function readSize(sizeBytes: bigint): number {
  try {
    return sizeBytes === 0n ? 0 : validSize(Number(sizeBytes));
  } catch (error) {
    throw invalidArgument('record.volume_size_bytes', (error as Error).message, 'the size of the volume');
  }
}

function readStartDeadlineMs(deadline: Duration | undefined): number | undefined {
  const ms = durationToMs(deadline);
  if (ms === undefined || (ms > 0 && ms <= startDeadlineMsMax)) return ms;
  throw invalidArgument('start_deadline', `is ${ms / 1000} s`, `above 0 s, at most ${startDeadlineMsMax / 1000} s`);
}
