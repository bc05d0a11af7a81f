import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import {
  MigrationSchema,
  MigrationState,
  MigrationStep,
  MigrationStrategy,
} from '../../proto/gen/ferry/v1/migration_pb.ts';
import type { MigrationRecord } from '../store/store.ts';

/** What a new migration is about. */
export interface NewMigration {
  readonly id: string;
  readonly machineId: string;
  readonly network: string;
  readonly source: string;
  readonly destination: string;
  readonly strategy: MigrationStrategy;
  readonly startDeadlineMs: number;
  readonly overrideHosts: readonly string[];
  /** Migration whose lock it runs under; its own ID usually. */
  readonly lockHolder: string;
  readonly permitHosts: readonly string[];
  /** Migration that it takes back, or empty. */
  readonly returns: string;
  readonly term: bigint;
  readonly nowMs: number;
  /** Longest time that the last copy may take; 300 ms when left out. */
  readonly downtimeBudgetMs?: number;
  /** Higher goes first in line for the network; 0 when left out. */
  readonly priority?: number;
}

const downtimeBudgetMsDefault = 300;

/** A migration as it is claimed: the durable intent before anything is done. */
export function newRecord(wish: NewMigration): MigrationRecord {
  const { id, machineId, network, source, destination, strategy, returns, term, nowMs } = wish;
  return {
    migration: create(MigrationSchema, {
      id,
      machineId,
      network,
      source,
      destination,
      strategy: strategy === MigrationStrategy.UNSPECIFIED ? MigrationStrategy.COLD : strategy,
      state: MigrationState.RUNNING,
      step: MigrationStep.PLAN,
      returns,
      term,
      attempt: 1,
      createdAt: timestampFromMs(nowMs),
    }),
    plan: {
      direction: 'forward',
      finished: [],
      lockHolder: wish.lockHolder,
      startDeadlineMs: wish.startDeadlineMs,
      overrideHosts: [...wish.overrideHosts],
      permitHosts: [...wish.permitHosts],
      downtimeBudgetMs: wish.downtimeBudgetMs ?? downtimeBudgetMsDefault,
      priority: wish.priority ?? 0,
      turnedBecause: null,
      turns: 0,
      declineOwed: false,
    },
    version: 1,
    open: true,
    claim: true,
    driver: '',
  };
}

/** Whether the driver has steps left to do; what else is open belongs to the housekeeping. */
export function isDriven({ migration }: Pick<MigrationRecord, 'migration'>): boolean {
  if (migration.state === MigrationState.RUNNING) return true;
  return migration.state === MigrationState.MOVED && !migration.settled;
}

/** A step's name, in words: "prepare", "lock", ... */
export function stepName(step: MigrationStep): string {
  const found = Object.entries(MigrationStep).find(([, value]) => value === step);
  return (found?.[0] ?? 'unknown').toLowerCase();
}
