import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { ServiceImpl } from '@connectrpc/connect';
import type { OpenExportRequest, PeerService } from '../../proto/gen/ferry/v1/handover_pb.ts';
import { FerryError, invalidArgument, toFerryError } from '../../shared/error.ts';
import { checkId } from '../../shared/ids.ts';
import { verifySignature } from '../../shared/signing.ts';
import type { HostCopyLimits } from '../copy-limits.ts';
import type { LiveRound } from '../transfer/copy-source.ts';
import { explainTransfer, type VolumeStream } from '../volume-stream.ts';
import { peerKey } from './effects.ts';
import type { SourceRow } from './handovers.ts';
import type { Orders, OrdersOptions } from './orders.ts';
import { exportRequestBytes } from './peers.ts';

const tokenMs = 10 * 60_000;
const tokenConnectionsMax = 16;
const snapshotCharsMax = 255;

/** What the answers to other agents work with. */
export interface PeerRoutesOptions extends OrdersOptions {
  readonly orders: Orders;
  readonly stream: VolumeStream;
  readonly copyLimits: HostCopyLimits;
}

/** What other agents ask of this one. What arrives is believed for its signature alone. */
export class PeerRoutes implements ServiceImpl<typeof PeerService> {
  readonly #options: PeerRoutesOptions;

  constructor(options: PeerRoutesOptions) {
    this.#options = options;
  }

  pair: ServiceImpl<typeof PeerService>['pair'] = async (request) => {
    const { journal, handovers, host, key } = this.#options;
    const migrationId = checkId('migration', request.migrationId, 'migration_id');
    const volumeId = checkId('volume', request.volumeId, 'volume_id');
    checkId('name', request.hostId, 'host_id');
    if (request.publicKey.length !== 32) {
      throw invalidArgument('public_key', `has ${request.publicKey.length} bytes`, 'a raw Ed25519 key of 32 bytes');
    }
    const publicKey = Buffer.from(request.publicKey).toString('base64');
    const row = handovers.row(migrationId);
    if (row?.role === 'source' && row.state.step !== 'aborted') {
      const same = row.detail.peer.publicKey === publicKey && row.detail.peer.hostId === request.hostId;
      if (!same || row.state.offer.volumeId !== volumeId)
        throw new FerryError('other_role', `migration ${migrationId} is paired already`);
      return { hostId: host, publicKey: key.publicKey };
    }
    const offer = journal.offer(migrationId);
    if (offer === undefined || row !== undefined) {
      throw new FerryError('unknown_migration', `host ${host} offers nothing under ${migrationId}`);
    }
    if (offer.peer.hostId !== request.hostId) {
      throw new FerryError(
        'other_role',
        `Machine ${offer.machineId} is offered to ${offer.peer.hostId}, not to ${request.hostId}`,
      );
    }
    const machine = journal.machine(offer.machineId);
    if (machine?.placement.kind !== 'owner')
      throw new FerryError('not_owner', `host ${host} does not own Machine ${offer.machineId}`);
    const volume = machine.volumeId === '' ? null : await this.#options.volumes.inspect(machine.volumeId);
    if (volume !== null && request.tls !== this.#options.stream.tls) {
      const has = (tls: boolean) => (tls ? 'has certificates' : 'has none');
      throw new FerryError(
        'unsupported',
        `host ${host} ${has(this.#options.stream.tls)} for volume streams, host ${request.hostId} ${has(request.tls)}`,
        { nextAction: 'Start both agents with --tls-cert, --tls-key and --tls-ca, or neither.' },
      );
    }
    const { network } = machine.record;
    const epoch = machine.placement.epoch + 1;
    const subject = {
      migrationId,
      machineId: offer.machineId,
      epoch,
      source: host,
      destination: request.hostId,
      volumeId,
    };
    await handovers.source(
      migrationId,
      { type: 'offer', term: offer.term, offer: { ...subject, network, lockHolder: offer.lockHolder } },
      { also: () => journal.removeOffer(migrationId) },
      {
        machineId: offer.machineId,
        detail: {
          peer: { ...offer.peer, publicKey },
          network,
          lockHolder: offer.lockHolder,
          volumeSizeBytes: volume?.sizeBytes ?? 0,
          volumeAllocatedBytes: volume?.allocatedBytes ?? 0,
          sourceVolumeId: machine.volumeId,
          startDeadlineMs: this.#options.startDeadlineMs,
          ...(offer.order === undefined ? {} : { order: offer.order }),
        },
      },
    );
    return { hostId: host, publicKey: key.publicKey };
  };

  openExport: ServiceImpl<typeof PeerService>['openExport'] = async (request) => {
    const { sources, exports, disconnect, clock, stream, copyLimits } = this.#options;
    const { migrationId, live, round, haveSnapshot, haveRoot } = request;
    const row = this.#exportable(request);
    if (haveSnapshot.length > snapshotCharsMax || haveRoot.length > snapshotCharsMax)
      throw invalidArgument('have_snapshot, have_root', 'are too long', `at most ${snapshotCharsMax} characters`);
    if (live && round === 0) throw invalidArgument('round', 'is 0', 'the number of the round, from 1');
    const source = await sources.of(row);
    const have = { snapshot: haveSnapshot, root: haveRoot };
    const opened = await (live ? source.live(round, have) : source.stopped(have)).catch((error) =>
      Promise.reject(explainTransfer(error)),
    );
    if (opened.comparing) {
      const { bytesDone, bytesTotal } = opened;
      return { comparing: true, comparedBytes: BigInt(bytesDone), compareBytesTotal: BigInt(bytesTotal) };
    }
    this.#exportable(request);
    const told = live ? this.#live(row, opened as LiveRound) : { mode: 'none' };
    if (opened.snapshot === '') return told;
    // A round's tokens end with it.
    await disconnect(exports.end(migrationId, { round: opened.snapshot }));
    this.#exportable(request);
    const expiresAtMs = clock.nowMs() + tokenMs;
    const token = exports.grant({
      purpose: migrationId,
      round: opened.snapshot,
      open: () => sources.openExport(migrationId, opened.snapshot),
      isLimited: live,
      audience: 'stream',
      fingerprint: request.fingerprint === '' ? null : request.fingerprint,
      connectionsMax: tokenConnectionsMax,
      expiresAtMs,
    });
    return {
      ...told,
      token,
      port: stream.streamPort,
      tls: stream.tls,
      sizeBytes: BigInt(row.detail.volumeSizeBytes),
      snapshot: opened.snapshot,
      baseContext: opened.baseContext,
      changedBytes: BigInt(opened.changedBytes),
      expiresAt: timestampFromMs(expiresAtMs),
      fingerprint: stream.fingerprint,
      limitBytesPerSecond: live ? copyLimits.limits.sendBytesPerSecond : 0n,
    };
  };

  /** What is told of a live round; the longest stall is remembered for the Machine's event log. */
  #live(row: SourceRow, { mode, modeReason, refused, snapshotMs, isUnchanged = false }: LiveRound) {
    const stallMs = Math.round(snapshotMs);
    if (stallMs > (this.#options.handovers.row(row.migrationId)?.detail.longestWriteStallMs ?? 0))
      this.#options.handovers.note(row.migrationId, { longestWriteStallMs: stallMs });
    return { mode, modeReason, refused, snapshotMs: BigInt(stallMs), unchanged: isUnchanged };
  }

  /** The row of which the asker may read: asked by its pinned key, in the step that it says. */
  #exportable(request: OpenExportRequest): SourceRow {
    const { migrationId, nonce, signature, live } = request;
    const { handovers, host } = this.#options;
    const row = handovers.row(checkId('migration', migrationId, 'migration_id'));
    const publicKey = peerKey(row);
    if (row?.role === 'destination')
      throw new FerryError(
        'other_role',
        `host ${host} is the destination of ${migrationId}: it reads, it exports nothing`,
      );
    if (row === undefined || publicKey === null)
      throw new FerryError('unknown_migration', `nothing is offered under ${migrationId}`);
    if (nonce.length < 16 || nonce.length > 64)
      throw invalidArgument('nonce', `has ${nonce.length} bytes`, '16 to 64 random bytes');
    verifySignature(publicKey, 'ferry.v1.OpenExport', exportRequestBytes(request), signature);
    const wanted = live ? 'offered' : 'stopped';
    if (row.state.step !== wanted) {
      const when = live ? 'while its Machine runs' : 'while it is stopped';
      throw new FerryError('not_yet', `the hand-over is ${row.state.step}: its volume is read so only ${when}`);
    }
    if (row.detail.sourceVolumeId === '')
      throw new FerryError('not_yet', `the Machine of ${migrationId} has no volume to read`);
    return row as SourceRow;
  }

  deliver: ServiceImpl<typeof PeerService>['deliver'] = async (request) => {
    const { orders, effects, handovers } = this.#options;
    const migrationId = checkId('migration', request.migrationId, 'migration_id');
    const { statement } = request;
    const row = handovers.row(migrationId);
    if (row !== undefined) effects.hear(row, request.directory);
    if (statement === undefined && request.directory !== undefined) return { handover: orders.view(migrationId) };
    if (statement === undefined) throw invalidArgument('statement', 'is missing', 'a signed statement');
    try {
      if (statement.kind === 'Ticket') await orders.takeTicket(migrationId, statement, request.record);
      else await effects.believe(migrationId, statement);
    } catch (error) {
      // The decline is the answer to a ticket that came too late.
      const declined = handovers.row(migrationId)?.state.step === 'declined';
      if (toFerryError(error).reason !== 'burnt' || !declined) throw error;
    }
    return { handover: orders.view(migrationId) };
  };
}
