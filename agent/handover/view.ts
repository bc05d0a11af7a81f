import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { DirectoryRow } from '../../proto/gen/ferry/v1/directory_pb.ts';
import { type Handover, HandoverSchema, type SignedStatement } from '../../proto/gen/ferry/v1/handover_pb.ts';
import { type CopyProgress, type PrecopyReport, PrecopyReportSchema } from '../../proto/gen/ferry/v1/migration_pb.ts';
import type { FerryError } from '../../shared/error.ts';
import type { SigningKey } from '../../shared/signing.ts';
import type { HandoverRow } from '../journal.ts';
import { downtimeOf } from './downtime.ts';
import type { Standing } from './permit.ts';
import type { PrecopyNote } from './rounds.ts';
import { signDecline, signSettlement, signTicket } from './signed.ts';

/** What a view shows besides the row itself. */
export interface ViewFacts {
  readonly standing: Standing;
  readonly failure: FerryError | null;
  /** Why the Machine that is to come up here is not up yet; empty if there is none. */
  readonly trouble: string;
  readonly progress: CopyProgress | undefined;
  /** Epoch of the Machine at this agent; 0 where it never was. */
  readonly epoch: number;
  /** The Machine's directory row, if this host owns it. */
  readonly directory: DirectoryRow | undefined;
}

/** Where a hand-over stands here, as others see it. */
export function viewOf(row: HandoverRow, key: SigningKey, facts: ViewFacts): Handover {
  const { detail, state } = row;
  const { signalSentAtMs, stoppedAtMs } = detail;
  const downtime = downtimeOf(detail);
  const statement = statementOf(row, key);
  return create(HandoverSchema, {
    migrationId: row.migrationId,
    machineId: row.machineId,
    role: row.role,
    step: state.step,
    term: BigInt(state.term),
    epoch: BigInt(facts.epoch),
    root: rootOf(row),
    health: detail.health ?? '',
    reason: facts.failure?.message ?? ('reason' in state ? state.reason : facts.trouble),
    failure: facts.failure?.reason ?? '',
    volumeId: row.role === 'source' ? detail.sourceVolumeId : row.state.subject.volumeId,
    volumeSizeBytes: BigInt(detail.volumeSizeBytes),
    network: detail.network,
    peer: detail.peer.hostId,
    lockHolder: detail.lockHolder,
    standing: facts.standing,
    ...(statement === undefined ? {} : { statement }),
    ...(row.record === null ? {} : { record: row.record }),
    ...(facts.progress === undefined ? {} : { progress: facts.progress }),
    ...(detail.precopy === undefined ? {} : { precopy: precopyOf(detail.precopy) }),
    ...(downtime === undefined ? {} : { downtime }),
    ...(facts.directory === undefined ? {} : { directory: facts.directory }),
    ...(signalSentAtMs === undefined ? {} : { signalSentAt: timestampFromMs(signalSentAtMs) }),
    ...(stoppedAtMs === undefined ? {} : { stoppedAt: timestampFromMs(stoppedAtMs) }),
  });
}

/** The answer about a migration that this agent never heard of. */
export function unknownView(migrationId: string): Handover {
  return create(HandoverSchema, { migrationId, role: 'unknown', standing: 'over' });
}

function precopyOf(note: PrecopyNote): PrecopyReport {
  const { predictedFinalMs, finalBytes, rounds, ...same } = note;
  return create(PrecopyReportSchema, {
    ...same,
    rounds: rounds.map(({ number, ...round }) => ({
      number,
      changedBytes: BigInt(round.changedBytes),
      bytesTransferred: BigInt(round.bytesTransferred),
      durationMs: BigInt(round.durationMs),
      snapshotMs: BigInt(round.snapshotMs),
    })),
    predictedFinalMs: BigInt(predictedFinalMs),
    ...(finalBytes === null ? {} : { finalBytes: BigInt(finalBytes) }),
  });
}

function statementOf(row: HandoverRow, key: SigningKey): SignedStatement | undefined {
  if (row.role === 'source') return 'ticket' in row.state ? signTicket(key, row.state.ticket) : undefined;
  // The settlement waits until the Machine is up: until then the source keeps its permit of the network.
  if (row.state.step === 'owner') return row.state.up ? signSettlement(key, row.state.settlement) : undefined;
  return row.state.step === 'declined' ? signDecline(key, row.state.decline) : undefined;
}

function rootOf(row: HandoverRow): string {
  const { state } = row;
  if ('ticket' in state) return state.ticket.root;
  return 'root' in state ? (state.root ?? '') : '';
}
