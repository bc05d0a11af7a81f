import type { ServiceImpl } from '@connectrpc/connect';
import type { MigrationService } from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import { MigrationState, MigrationStrategy, MoveReason } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { FerryError, invalidArgument, toFerryError } from '../../shared/error.ts';
import { checkId } from '../../shared/ids.ts';
import { downtimeBudgetMsMax, downtimeBudgetMsMin, startDeadlineMsMax, startDeadlineMsMin } from '../config.ts';
import type { MigrationDriver } from '../migrations/driver.ts';
import { hasEnded } from '../migrations/feed.ts';
import { freeLock } from '../migrations/free-lock.ts';
import { Journey, type JourneyParts } from '../migrations/journey.ts';
import type { Planner } from '../migrations/planner.ts';
import { shown } from '../migrations/record.ts';
import { boundedList, boundedMs, boundedPriority, boundedText, optionalName } from './validate.ts';

const listDefault = 100;
const listMax = 1000;
/** Parked ones that were answered are passed over in a list of open ones: so many are read for it. */
const readMax = 10_000;
const overridesMax = 1000;
const orderedByMax = 200;
const acceptTimeoutMs = 10_000;
const accepted = 'an operator accepts that it is down';

/** What migrations need. */
export interface MigrationParts {
  readonly parts: JourneyParts;
  readonly driver: MigrationDriver;
  readonly planner: Planner;
  readonly startDeadlineMs: number;
  readonly downtimeBudgetMs: number;
}

/** MigrationService: claims, shows and steers migrations, whichever coordinator drives them. */
export function migrationService(options: MigrationParts): ServiceImpl<typeof MigrationService> {
  const { parts, driver, planner } = options;
  const { store, book, roster } = parts;
  const get = (migrationId: string) => book.get(checkId('migration', migrationId, 'migration_id'));

  return {
    migrateMachine: async (request) => {
      const { machineId, destination, strategy, startDeadline, overrideHosts, reason, downtimeBudget } = request;
      checkId('machine', machineId, 'machine_id');
      optionalName(destination, 'destination');
      if (!Object.values<number>(MigrationStrategy).includes(strategy)) {
        throw invalidArgument('strategy', `is ${strategy}`, 'PRECOPY, COLD, or none');
      }
      if (!Object.values<number>(MoveReason).includes(reason)) {
        throw invalidArgument('reason', `is ${reason}`, 'OVERCROWDED, DEPRECATED, MAINTENANCE, FAILING, or none');
      }
      for (const [index, host] of boundedList(overrideHosts, 'override_hosts', overridesMax).entries()) {
        checkId('name', host, `override_hosts[${index}]`);
      }
      const record = await planner.migrate({
        machineId,
        destination,
        strategy,
        overrideHosts,
        reason,
        startDeadlineMs: boundedMs(startDeadline, 'start_deadline', {
          msMin: startDeadlineMsMin,
          msMax: startDeadlineMsMax,
          fallbackMs: options.startDeadlineMs,
        }),
        downtimeBudgetMs: boundedMs(downtimeBudget, 'downtime_budget', {
          msMin: downtimeBudgetMsMin,
          msMax: downtimeBudgetMsMax,
          fallbackMs: options.downtimeBudgetMs,
        }),
        priority: boundedPriority(request.priority, 'priority'),
        orderedBy: boundedText(request.orderedBy, 'ordered_by', orderedByMax),
      });
      return { migration: record.migration };
    },

    listMigrations: async ({ openOnly, limit }) => {
      if (limit > listMax) throw invalidArgument('limit', `is ${limit}`, `at most ${listMax}`);
      const max = limit === 0 ? listDefault : limit;
      const records = openOnly ? await store.unendedMigrations(readMax) : await store.migrations(max);
      const wanted = records.filter(({ migration }) => !openOnly || migration.answered === '');
      return { migrations: wanted.slice(0, max).map(shown) };
    },

    getMigration: async ({ migrationId }) => ({ migration: shown(await get(migrationId)) }),

    watchMigration: async function* ({ migrationId }, context) {
      await get(migrationId);
      for await (const migration of book.watch(migrationId, context.signal)) yield { migration };
    },

    cancelMigration: async ({ migrationId }, context) => {
      await get(migrationId);
      return driver.cancel(migrationId, context.signal);
    },

    retryMigration: async ({ migrationId }) => {
      const { migration, plan } = await get(migrationId);
      if (!hasEnded(migration)) {
        throw new FerryError('machine_busy', `migration ${migrationId} still runs`, {
          field: 'migration_id',
          facts: { migration: migrationId },
        });
      }
      if (migration.state === MigrationState.MOVED) {
        throw invalidArgument('migration_id', `${migrationId} moved its Machine`, 'one that is parked or moved back');
      }
      // A move back is retried as what it was for; its own destination is where the Machine should be then.
      const { machineId, strategy, destination, moveReason, orderedBy, drainId } = migration;
      const { startDeadlineMs, overrideHosts, downtimeBudgetMs, priority } = plan;
      const wish = { machineId, destination, strategy, startDeadlineMs, overrideHosts, downtimeBudgetMs, priority };
      const record = await planner.migrate({ ...wish, reason: moveReason, orderedBy, drainId });
      return { migration: record.migration };
    },

    acceptDown: async ({ migrationId }) => {
      const { migration, plan } = await get(migrationId);
      if (migration.state !== MigrationState.PARKED) {
        throw invalidArgument('migration_id', `${migrationId} is not parked`, 'a parked migration');
      }
      if (migration.holdsLock) {
        const parked = (await store.openMigrations()).filter(
          (each) => each.migration.holdsLock && each.plan.lockHolder === plan.lockHolder && hasEnded(each.migration),
        );
        for (const each of parked) await tellDown(parts, new Journey(parts, each));
        await freeLock(parts, plan.lockHolder, AbortSignal.timeout(acceptTimeoutMs), accepted);
      } else if (migration.answered === '') {
        await book.update(migrationId, (draft) => {
          draft.migration.answered = 'an operator has seen it';
        });
      }
      return { migration: shown(await get(migrationId)) };
    },

    overrideHost: async ({ migrationId, hostId }) => {
      const { migration } = await get(migrationId);
      await roster.host(checkId('name', hostId, 'host_id'));
      if (migration.state !== MigrationState.RUNNING) {
        throw invalidArgument('migration_id', `${migrationId} has ended`, 'one that runs');
      }
      if (hostId === migration.source || hostId === migration.destination) {
        throw invalidArgument('host_id', `${hostId} takes part in the move`, 'a host that only has to promise');
      }
      const record = await book.update(migrationId, ({ plan }) => {
        if (!plan.overrideHosts.includes(hostId)) plan.overrideHosts.push(hostId);
      });
      return { migration: shown(record) };
    },
  };
}

/** Both hosts give their permits back only once they know that the Machine may stay down. */
async function tellDown({ agents }: JourneyParts, journey: Journey): Promise<void> {
  const { source, destination } = journey.migration;
  await Promise.all(
    [source, destination].map((host) =>
      agents
        .handover(host, (client, options) => client.acceptMachineDown({ header: journey.header }, options), {
          timeoutMs: 3000,
        })
        .catch((thrown: unknown) => {
          // A host that is silent, or has nothing to do with it any more, is asked for its permit all the same.
          const error = toFerryError(thrown);
          if (error.disposition === 'park') throw error;
        }),
    ),
  );
}
