import type { Handover } from '../../proto/gen/ferry/v1/handover_pb.ts';
import { MigrationStrategy } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { newRecord } from '../migrations/record.ts';
import { provenSteps } from '../migrations/standing.ts';
import type { MigrationRecord } from '../store/store.ts';

/** A migration as its two agents know it; at least one of them does. */
export interface Found {
  readonly id: string;
  readonly source: string;
  readonly destination: string;
  readonly machineId: string;
  readonly network: string;
  readonly lockHolder: string;
  /** Undefined where the agent does not know the ID. */
  readonly atSource: Handover | undefined;
  readonly atDestination: Handover | undefined;
}

/** What a restored migration is given that no agent knows. */
export interface RestoreDefaults {
  readonly startDeadlineMs: number;
  readonly downtimeBudgetMs: number;
  readonly nowMs: number;
}

/** What one agent said, as the half of a migration. */
export function foundOf(host: string, handover: Handover): Found {
  const { migrationId: id, machineId, network, peer, role } = handover;
  const isSource = role === 'source';
  return {
    id,
    machineId,
    network,
    lockHolder: handover.lockHolder === '' ? id : handover.lockHolder,
    source: isSource ? host : peer,
    destination: isSource ? peer : host,
    atSource: isSource ? handover : undefined,
    atDestination: isSource ? undefined : handover,
  };
}

/** Both halves in one. */
export function joined(a: Found, b: Found): Found {
  return { ...a, atSource: a.atSource ?? b.atSource, atDestination: a.atDestination ?? b.atDestination };
}

/**
 * The migration as a record that a driver can go on with. Its steps are those that the agents prove; all others are repeated,
 * which is harmless. One that an agent has ended already only has to come to rest.
 */
export function restored(found: Found, all: readonly Found[], defaults: RestoreDefaults): MigrationRecord {
  const { id, machineId, network, source, destination, lockHolder, atSource, atDestination } = found;
  const parent = all.find((other) => other.id === lockHolder && other.id !== id);
  const returns = parent?.source === destination && parent.destination === source ? parent.id : '';
  const record = newRecord({
    id,
    machineId,
    network,
    source,
    destination,
    lockHolder,
    returns,
    strategy: returns === '' ? MigrationStrategy.PRECOPY : MigrationStrategy.COLD,
    overrideHosts: [],
    permitHosts: [],
    ...defaults,
  });
  const { migration, plan } = record;
  const finished = provenSteps({ source: atSource, destination: atDestination });
  plan.finished = [...finished];
  migration.holdsLock = finished.includes('lock');
  migration.destinationVolumeId = atDestination?.volumeId ?? '';
  migration.epoch = epochOf(found);
  migration.reason = 'restored from what the agents know: the store had lost it';
  const child = all.find((other) => other.lockHolder === id && other.source === destination && other.id !== id);
  if (child !== undefined) return asReturning(record, child.id);
  const over = ['aborted', 'returned'].includes(atSource?.step ?? '') || atDestination?.step === 'declined';
  if (over) {
    plan.direction = 'back';
    plan.finished = [];
    const message = atSource?.reason || atDestination?.reason || 'it had ended at its hosts';
    plan.turnedBecause = { reason: 'burnt', message, nextAction: '' };
  }
  return record;
}

/** The epoch that the destination would get, as far as an agent tells. */
function epochOf({ atSource, atDestination }: Found): bigint {
  if (atDestination?.step === 'owner') return atDestination.epoch;
  if (atSource === undefined || ['aborted', 'returned'].includes(atSource.step)) return 0n;
  return atSource.epoch + 1n;
}

function asReturning(record: MigrationRecord, childId: string): MigrationRecord {
  const { migration, plan } = record;
  migration.returnedBy = childId;
  plan.direction = 'returning';
  plan.turnedBecause = {
    reason: 'unhealthy',
    message: `it did not become healthy at ${migration.destination}`,
    nextAction: '',
  };
  return { ...record, claim: false };
}
