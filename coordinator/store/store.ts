import type { HostCapacity } from '../../proto/gen/ferry/v1/host_pb.ts';
import type { Machine } from '../../proto/gen/ferry/v1/machine_pb.ts';
import type { Migration } from '../../proto/gen/ferry/v1/migration_pb.ts';

/** What an agent says about its host in a heartbeat, as the store needs it. */
export interface HostReport {
  readonly id: string;
  readonly region: string;
  /** "host:port" of its RPC port. */
  readonly address: string;
  readonly agentVersion: string;
  readonly capacity: HostCapacity | undefined;
  readonly capabilities: readonly string[];
  readonly journalId: string;
  readonly journalCounter: bigint;
  /** The agent's own record of its cordon: counts only for a host that the store does not know. */
  readonly cordoned: boolean;
  /** Number that the agent remembers; 0 = none. */
  readonly rememberedNumber: number;
  readonly atMs: number;
}

/** A host of the roster. */
export interface HostRow extends Omit<HostReport, 'rememberedNumber' | 'atMs'> {
  /** 32 bits, never 0, never used again. */
  readonly number: number;
  /** The journal was older than the store remembers, and no operator has said since that the newer one is back. */
  readonly journalWentBack: boolean;
  readonly lastHeartbeatMs: number;
}

/** What a heartbeat changed. */
export interface HeartbeatOutcome {
  readonly host: HostRow;
  /** Counter remembered from before this heartbeat; 0 for a new host. */
  readonly knownCounter: bigint;
}

/** Where a Machine is, as last seen. The agent that owns it is the truth. */
export interface Placement {
  readonly machineId: string;
  readonly hostId: string;
  /** The higher one wins. */
  readonly epoch: bigint;
  readonly network: string;
  readonly app: string;
  readonly machine: Machine;
  readonly seenMs: number;
}

/** A migration that asks for the lock of a network. */
export interface LockRequest {
  readonly network: string;
  readonly migrationId: string;
  readonly machineId: string;
  readonly source: string;
  readonly destination: string;
  readonly sinceMs: number;
  /** The fence must be above this one; 0 = any. */
  readonly fenceAbove: bigint;
}

/** The lock of one network. It has no expiry: a crashed coordinator must not free a half-moved network. */
export interface LockRow {
  readonly network: string;
  readonly migrationId: string;
  readonly machineId: string;
  readonly source: string;
  readonly destination: string;
  readonly sinceMs: number;
  readonly fence: bigint;
}

/** A migration in line. */
export interface LockWaiterRow {
  readonly network: string;
  readonly migrationId: string;
  readonly machineId: string;
  readonly sinceMs: number;
}

/** The answer to a lock request; a refused one stands in line from then on. */
export type LockAnswer =
  | { readonly kind: 'granted'; readonly lock: LockRow }
  /** `lock` holds it, or (undefined) it is free and the first in line has not taken it yet. */
  | { readonly kind: 'waiting'; readonly lock: LockRow | undefined; readonly ahead: readonly LockWaiterRow[] };

/** What the driver remembers about a migration besides what operators see. Plain JSON. */
export interface MigrationPlan {
  /** forward: towards the destination. back: the Machine stays at the source. returning: another migration brings it back. */
  direction: 'forward' | 'back' | 'returning';
  /** Steps that are finished, by name. */
  finished: string[];
  /** Migration that the lock and the permits belong to. */
  lockHolder: string;
  startDeadlineMs: number;
  /** Hosts whose permit is not waited for. */
  overrideHosts: string[];
  /** Hosts that may hold a permit for this migration. */
  permitHosts: string[];
  /** Why it turned back. */
  turnedBecause: { reason: string; message: string; nextAction: string } | null;
  /** How often it turned round; bounded. */
  turns: number;
  /** The destination has not declined yet, though the migration is over. */
  declineOwed: boolean;
}

/** A migration as the store keeps it. */
export interface MigrationRecord {
  readonly migration: Migration;
  readonly plan: MigrationPlan;
  /** Rises with each write; a write names the version that it changes. */
  readonly version: number;
  /** Something is left to do, be it only in the background. */
  readonly open: boolean;
  /** It holds the Machine: one migration a Machine. */
  readonly claim: boolean;
}

/** The answer to a claim. */
export type ClaimAnswer = { readonly kind: 'claimed' } | { readonly kind: 'busy'; readonly migrationId: string };

/** Which placements to read; no field = all. */
export interface PlacementFilter {
  readonly app?: string;
  readonly hostId?: string;
  readonly network?: string;
}

/**
 * What the coordinator keeps: roster, directory, locks, migrations. One operation = one atomic, durable change, so that
 * an implementation may be one transaction (SQLite) or one script (Redis). `conformance.ts` says what each must do.
 */
export interface Store {
  /** A driver term higher than all before. */
  nextTerm(): Promise<bigint>;

  /** The number of a network: known, else `remembered` (by an agent, 0 = none) if nobody has it, else drawn. */
  networkNumber(name: string, remembered: number): Promise<number>;
  /** Numbers of all networks ever seen, by name. */
  networks(): Promise<ReadonlyMap<string, number>>;

  /** Records a heartbeat and compares the journal counter with the remembered one. */
  recordHeartbeat(report: HostReport): Promise<HeartbeatOutcome>;
  hosts(): Promise<readonly HostRow[]>;
  host(id: string): Promise<HostRow | undefined>;
  /**
   * Answers whether the host is known. A journal that went back cordons its host; taking the cordon off says that the newer
   * journal is back, and stays without effect while the last report was below the highest.
   */
  setCordon(hostId: string, cordoned: boolean): Promise<boolean>;
  /** Forgets a host; its number stays used. */
  removeHost(hostId: string): Promise<boolean>;

  /** Records one placement unless a higher epoch is known. */
  putPlacement(placement: Placement): Promise<void>;
  /**
   * Records all placements of a host; others that it had and that were last seen before `forgetBeforeMs` are forgotten,
   * unless a migration holds the Machine.
   */
  putPlacements(hostId: string, placements: readonly Placement[], forgetBeforeMs: number): Promise<void>;
  placement(machineId: string): Promise<Placement | undefined>;
  /** Sorted by Machine ID. */
  placements(filter: PlacementFilter): Promise<readonly Placement[]>;
  /** Forgets a destroyed Machine. */
  removePlacement(machineId: string): Promise<void>;

  /** Grants the lock, or puts the asker in line. Asking again is harmless; a holder gets a new fence only for `fenceAbove`. */
  acquireLock(request: LockRequest): Promise<LockAnswer>;
  /** Compare-and-delete by migration; also leaves the line. Answers whether the lock was held by it. */
  releaseLock(network: string, migrationId: string): Promise<boolean>;
  locks(): Promise<readonly LockRow[]>;
  lock(network: string): Promise<LockRow | undefined>;
  /** First in line first. */
  lockWaiters(network: string): Promise<readonly LockWaiterRow[]>;

  /** Writes a new migration that claims its Machine. `takesOver` names a migration whose claim passes to it. */
  claimMigration(record: MigrationRecord, takesOver?: string): Promise<ClaimAnswer>;
  /** Writes version `record.version + 1` if `record.version` is the stored one; answers whether it was. */
  updateMigration(record: MigrationRecord): Promise<boolean>;
  migration(id: string): Promise<MigrationRecord | undefined>;
  /** Newest first. */
  migrations(limit: number): Promise<readonly MigrationRecord[]>;
  /** Those with something left to do, oldest first. */
  openMigrations(): Promise<readonly MigrationRecord[]>;
  /** Those that run or are parked, newest first. */
  unendedMigrations(limit: number): Promise<readonly MigrationRecord[]>;
  /** Forgets the oldest that are closed until at most `keep` are left. */
  pruneMigrations(keep: number): Promise<void>;

  close(): Promise<void>;
}
