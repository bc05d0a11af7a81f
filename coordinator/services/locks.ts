import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { ServiceImpl } from '@connectrpc/connect';
import { type HostPermit, HostPermitSchema, type LockService } from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import { type NetworkLock, NetworkLockSchema } from '../../proto/gen/ferry/v1/lock_pb.ts';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { FerryError } from '../../shared/error.ts';
import { checkId } from '../../shared/ids.ts';
import { permitsOf } from '../locks/permits.ts';
import type { JourneyParts } from '../migrations/journey.ts';
import { stepName } from '../migrations/record.ts';
import type { LockRow, MigrationRecord } from '../store/store.ts';

/** LockService: who holds a network, who waits, and what would free it. */
export function lockService(parts: JourneyParts): ServiceImpl<typeof LockService> {
  const { store } = parts;
  return {
    listLocks: async () => ({
      locks: await Promise.all((await store.locks()).map((lock) => describe(parts, lock))),
    }),

    explainLock: async ({ network }) => {
      checkId('name', network, 'network');
      if (!(await store.networks()).has(network)) {
        throw new FerryError('unknown_network', `no Machine ever belonged to network ${network}`, {
          field: 'network',
          facts: { network },
        });
      }
      const [row, permits] = await Promise.all([store.lock(network), permitsOfNetwork(parts, network)]);
      if (row === undefined) return { permits, explanation: freeText(network, permits) };
      const lock = await describe(parts, row);
      return { lock, permits, explanation: heldText(lock, permits) };
    },
  };
}

async function describe({ store }: JourneyParts, row: LockRow): Promise<NetworkLock> {
  const [record, waiters] = await Promise.all([store.migration(row.migrationId), store.lockWaiters(row.network)]);
  return create(NetworkLockSchema, {
    network: row.network,
    migrationId: row.migrationId,
    fence: row.fence,
    machineId: row.machineId,
    source: row.source,
    destination: row.destination,
    since: timestampFromMs(row.sinceMs),
    step: record === undefined ? '' : stepName(record.migration.step),
    waitingFor: record?.migration.waitingFor ?? '',
    waiters: waiters.map((waiter) => ({ ...waiter, since: timestampFromMs(waiter.sinceMs) })),
    freesWhen: freesWhen(record),
  });
}

function freesWhen(record: MigrationRecord | undefined): string {
  if (record === undefined) return 'its migration is unknown here: free once its hosts say that it is over';
  const { migration } = record;
  if (migration.state === MigrationState.PARKED) {
    const accept = `"ferry migration accept-down ${migration.id}"`;
    return `the Machine is well again, or an operator accepts that it is down with ${accept} (${migration.reason})`;
  }
  if (migration.returnedBy !== '') return `${migration.returnedBy} has brought the Machine back`;
  return 'the Machine is healthy at its destination, or up again at its source';
}

async function permitsOfNetwork({ store, agents }: JourneyParts, network: string): Promise<HostPermit[]> {
  return Promise.all(
    (await store.hosts()).map(async ({ id, lastHeartbeatMs }) => {
      try {
        const permit = (await permitsOf(agents, id)).find((each) => each.network === network);
        return create(HostPermitSchema, { hostId: id, ...(permit === undefined ? {} : { permit }) });
      } catch (error) {
        return create(HostPermitSchema, {
          hostId: id,
          unreachable: error instanceof Error ? error.message : String(error),
          since: timestampFromMs(lastHeartbeatMs),
        });
      }
    }),
  );
}

function heldText(lock: NetworkLock, permits: readonly HostPermit[]): string {
  const { network, migrationId, machineId, source, destination, fence, step, waitingFor, waiters } = lock;
  const lines = [
    `Network ${network} is held by ${migrationId} (Machine ${machineId}, ${source} → ${destination}), fence ${fence}.`,
  ];
  if (step !== '') lines.push(`It is at step ${step}${waitingFor === '' ? '' : ` and waits for ${waitingFor}`}.`);
  lines.push(...permitLines(permits, migrationId));
  const line = waiters.map(({ migrationId, priority }) =>
    priority === 0 ? migrationId : `${migrationId} (priority ${priority})`,
  );
  if (line.length > 0) lines.push(`In line: ${line.join(', ')}.`);
  lines.push(`It becomes free when: ${lock.freesWhen}.`);
  return lines.join('\n');
}

function freeText(network: string, permits: readonly HostPermit[]): string {
  return [`Network ${network} is free: no migration holds it.`, ...permitLines(permits, '')].join('\n');
}

function permitLines(permits: readonly HostPermit[], holder: string): string[] {
  return permits.flatMap(({ hostId, permit, unreachable }) => {
    if (unreachable !== '') return [`Host ${hostId} does not answer; whether it promised the network is unknown.`];
    if (permit === undefined || permit.migrationId === holder) return [];
    return [`Host ${hostId} still promises it to ${permit.migrationId}; given back once that migration is over.`];
  });
}
