import { create } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import type { DrainHostRequest, DrainService } from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import { type Drain, type DrainOptions, DrainOptionsSchema, DrainSchema } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { MigrationStrategy, MoveReason } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { invalidArgument } from '../../shared/error.ts';
import { checkId } from '../../shared/ids.ts';
import { downtimeBudgetMsMax, downtimeBudgetMsMin } from '../config.ts';
import type { DrainBook } from '../drains/book.ts';
import type { Drains } from '../drains/drains.ts';
import type { DrainWish } from '../drains/plan.ts';
import type { Roster } from '../roster.ts';
import type { Store } from '../store/store.ts';
import { boundedList, boundedPriority, boundedText } from './validate.ts';

const listDefault = 100;
const listMax = 1000;
const hostsMax = 1000;
const concurrencyMax = 64;
const attemptsMax = 20;
const orderedByMax = 200;

/** What drains need. */
export interface DrainParts {
  readonly store: Store;
  readonly roster: Roster;
  readonly book: DrainBook;
  readonly drains: Drains;
}

/** DrainService: empties hosts. Every coordinator answers, whichever of them drives. */
export function drainService({ store, roster, book, drains }: DrainParts): ServiceImpl<typeof DrainService> {
  return {
    drainHost: async (request) => {
      const wish = await readWish(request, roster);
      return { drain: request.dryRun ? await drains.preview(wish) : await drains.order(wish) };
    },

    listDrains: async ({ openOnly, limit }) => {
      if (limit > listMax) throw invalidArgument('limit', `is ${limit}`, `at most ${listMax}`);
      const max = limit === 0 ? listDefault : limit;
      const records = openOnly ? [...(await store.openDrains())].reverse().slice(0, max) : await store.drains(max);
      return { drains: records.map(({ drain }) => withoutMachines(drain)) };
    },

    getDrain: async ({ drainId }) => ({ drain: (await book.find(drainId)).drain }),

    watchDrain: async function* ({ drainId }, context) {
      for await (const drain of book.watch(drainId, context.signal)) yield { drain };
    },

    pauseDrain: async ({ drainId }) => ({ drain: await drains.pause(drainId) }),
    resumeDrain: async ({ drainId }) => ({ drain: await drains.resume(drainId) }),
    cancelDrain: async ({ drainId, uncordon }) => ({ drain: await drains.cancel(drainId, uncordon) }),
  };
}

function withoutMachines(drain: Drain): Drain {
  return create(DrainSchema, { ...drain, machines: [] });
}

async function readWish(request: DrainHostRequest, roster: Roster): Promise<DrainWish> {
  const { reason, orderedBy } = request;
  const hostId = checkId('name', request.hostId, 'host_id');
  if (!Object.values<number>(MoveReason).includes(reason)) {
    throw invalidArgument('reason', `is ${reason}`, 'one of MoveReason, or none');
  }
  boundedText(orderedBy, 'ordered_by', orderedByMax);
  if (/\p{Cc}/u.test(orderedBy)) throw invalidArgument('ordered_by', 'has control characters', 'a name');
  await roster.host(hostId);
  const options = readOptions(request.options ?? create(DrainOptionsSchema), hostId);
  for (const [index, host] of options.to.entries()) await roster.host(host, `options.to[${index}]`);
  for (const [index, host] of options.exclude.entries()) await roster.host(host, `options.exclude[${index}]`);
  return { hostId, options, reason, orderedBy };
}

function readOptions(options: DrainOptions, hostId: string): DrainOptions {
  const { to, exclude, concurrency, downtimeBudgetMs, strategy, priority } = options;
  checkHosts(to, 'options.to');
  checkHosts(exclude, 'options.exclude');
  const own = to.indexOf(hostId);
  if (own >= 0) throw invalidArgument(`options.to[${own}]`, `is ${hostId}, which is to be emptied`, 'another host');
  const both = to.findIndex((host) => exclude.includes(host));
  if (both >= 0)
    throw invalidArgument(`options.to[${both}]`, `is ${to[both]}, which is excluded too`, 'only one of both');
  atMost(concurrency, concurrencyMax, 'options.concurrency');
  atMost(options.attemptsMax, attemptsMax, 'options.attempts_max');
  if (downtimeBudgetMs !== 0n && (downtimeBudgetMs < downtimeBudgetMsMin || downtimeBudgetMs > downtimeBudgetMsMax)) {
    const expected = `${downtimeBudgetMsMin} to ${downtimeBudgetMsMax}; 0 = the default`;
    throw invalidArgument('options.downtime_budget_ms', `is ${downtimeBudgetMs}`, expected);
  }
  if (!Object.values<number>(MigrationStrategy).includes(strategy)) {
    throw invalidArgument('options.strategy', `is ${strategy}`, 'one of MigrationStrategy, or none');
  }
  boundedPriority(priority, 'options.priority');
  return options;
}

function checkHosts(hosts: readonly string[], field: string): void {
  for (const [index, host] of boundedList(hosts, field, hostsMax).entries())
    checkId('name', host, `${field}[${index}]`);
}

function atMost(value: number, max: number, field: string): void {
  if (value > max) throw invalidArgument(field, `is ${value}`, `at most ${max}; 0 = the default`);
}
