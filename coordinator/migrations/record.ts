import { clone, create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import {
  type Migration,
  MigrationSchema,
  MigrationState,
  MigrationStep,
  MigrationStrategy,
  MoveReason,
} from '../../proto/gen/ferry/v1/migration_pb.ts';
import { coordinatorOf } from '../sessions.ts';
import type { MigrationRecord } from '../store/store.ts';

/** Longest time that the last copy may take, unless somebody says otherwise. */
export const downtimeBudgetMsDefault = 300;

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
  readonly nowMs: number;
  /** 300 ms when left out. */
  readonly downtimeBudgetMs?: number;
  /** Higher goes first in line for the network; 0 when left out. */
  readonly priority?: number;
  readonly reason?: MoveReason;
  readonly orderedBy?: string;
  /** Drain that orders it, or empty. */
  readonly drainId?: string;
}

/** A migration as it is claimed: the durable intent before anything is done. Nobody drives it yet. */
export function newRecord(wish: NewMigration): MigrationRecord {
  const { id, machineId, network, source, destination, strategy, returns, nowMs } = wish;
  const downtimeBudgetMs = wish.downtimeBudgetMs ?? downtimeBudgetMsDefault;
  const priority = wish.priority ?? 0;
  return {
    migration: create(MigrationSchema, {
      id,
      machineId,
      network,
      source,
      destination,
      strategy: strategy === MigrationStrategy.UNSPECIFIED ? MigrationStrategy.PRECOPY : strategy,
      state: MigrationState.RUNNING,
      step: MigrationStep.PLAN,
      returns,
      attempt: 1,
      createdAt: timestampFromMs(nowMs),
      downtimeBudgetMs: BigInt(downtimeBudgetMs),
      priority,
      moveReason: wish.reason ?? MoveReason.UNSPECIFIED,
      orderedBy: wish.orderedBy ?? '',
      drainId: wish.drainId ?? '',
    }),
    plan: {
      direction: 'forward',
      finished: [],
      lockHolder: wish.lockHolder,
      startDeadlineMs: wish.startDeadlineMs,
      overrideHosts: [...wish.overrideHosts],
      permitHosts: [...wish.permitHosts],
      downtimeBudgetMs,
      priority,
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

/** A migration as operators see it: with the coordinator that drives it. */
export function shown({ migration, driver }: Pick<MigrationRecord, 'migration' | 'driver'>): Migration {
  return Object.assign(clone(MigrationSchema, migration), { driver: coordinatorOf(driver) });
}

/** Why a Machine is moved, as its event log says it; empty when nobody said. */
export function reasonName(reason: MoveReason): string {
  return reason === MoveReason.UNSPECIFIED ? '' : nameOf(MoveReason, reason);
}

/** A step's name, in words: "prepare", "lock", ... */
export function stepName(step: MigrationStep): string {
  return nameOf(MigrationStep, step) || 'unknown';
}

function nameOf(names: Readonly<Record<string, number | string>>, wanted: number): string {
  const found = Object.entries(names).find(([, value]) => value === wanted);
  return (found?.[0] ?? '').toLowerCase();
}
