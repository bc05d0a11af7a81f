// Longer than usual: all that coordinators keep, in one place.
import type { Drain } from '../../proto/gen/ferry/v1/drain_pb.ts';
import type { CopyLimits, HostCapacity } from '../../proto/gen/ferry/v1/host_pb.ts';
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
  /** Limits of copies, as the agent keeps them. */
  readonly copyLimits: CopyLimits | undefined;
  /** Address of its DNS resolver; empty without one. */
  readonly dnsAddress: string;
  /** Notes for the operator. */
  readonly notes: readonly string[];
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
  /** Higher goes first in line; first come first served within one priority. */
  readonly priority: number;
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
  readonly priority: number;
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
  /** Longest time that the last copy may take. */
  downtimeBudgetMs: number;
  /** Higher goes first in line for the network. */
  priority: number;
  /** Why it was cancelled, in words; left out: an operator did. */
  cancelledBecause?: string;
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
  /** Session that drives it; empty = none. Changed only by `takeMigration` and `leaveMigration`. */
  readonly driver: string;
}

/** The answer to a claim. `changed`: the record that it builds on is another one by now; read again. */
export type ClaimAnswer =
  | { readonly kind: 'claimed' }
  | { readonly kind: 'busy'; readonly migrationId: string }
  | { readonly kind: 'changed' };

/** What a claim builds on. */
export interface ClaimBasis {
  /** Migration whose claim passes to the new one. */
  readonly takesOver?: string;
  /**
   * Parked migration whose lock the new one goes on under: the claim is refused with `changed` unless it has this version still.
   * The claim raises that version, so that whoever was about to free the lock looks again.
   */
  readonly inherits?: { readonly migrationId: string; readonly version: number };
}

/** One running coordinator process. What it drives may be taken over once its session has run out. */
export interface SessionRow {
  /** The coordinator's name and a random part of this process. */
  readonly id: string;
  /** Name of the coordinator. */
  readonly coordinator: string;
  /** "host:port" of its RPC port. */
  readonly address: string;
  readonly version: string;
}

/** A session as the store sees it, by the store's clock. */
export interface SessionState extends SessionRow {
  readonly alive: boolean;
}

/** The answer to a take: whoever takes drives from then on, under a term above all before. */
export type TakeAnswer<T> =
  | { readonly kind: 'taken'; readonly record: T }
  /** A live session drives it. */
  | { readonly kind: 'driven'; readonly by: string }
  | { readonly kind: 'unknown' };

/** What the drain engine remembers besides what operators see. Plain JSON. */
export interface DrainPlan {
  /** When the next try of a Machine is due. */
  retryAtMs: Record<string, number>;
  /** The cordon comes off when the cancel is through. */
  uncordonAfter: boolean;
  /** Hosts at which a move of a Machine has failed, with the reason, by Machine ID. */
  failedAt: Record<string, Record<string, string>>;
  /** Migrations that the drain itself called off, because their network stays locked. */
  calledOff: string[];
  /** It has ended, and its host's agent, which keeps it for a lost store, has not been told yet. */
  forgetOwed: boolean;
}

/** A drain as the store keeps it. */
export interface DrainRecord {
  readonly drain: Drain;
  readonly plan: DrainPlan;
  /** Rises with each write; a write names the version that it changes. */
  readonly version: number;
  readonly open: boolean;
  /** Session that drives it; empty = none. */
  readonly driver: string;
}

/** The answer to a new drain. */
export type CreateDrainAnswer = { readonly kind: 'created' } | { readonly kind: 'busy'; readonly drainId: string };

/** What a store says about itself. */
export interface StoreIdentity {
  /** Random, made with the first use of an empty store: another one means that what was there is lost. */
  readonly generation: string;
  /** Changes when another server took over, which may lack the last writes; constant where that cannot happen. */
  readonly incarnation: string;
}

/** A store for people to read about. */
export interface StoreDescription {
  /** "sqlite PATH" or "redis://HOST:PORT/DB", without secrets. */
  readonly where: string;
  /** What its operator should change. */
  readonly notes: readonly string[];
}

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
  /** What and where it is. */
  describe(): StoreDescription;

  /**
   * Which store this is, as of now. A store that was lost, or that another server took over, refuses changes with `rebuilding`
   * (sessions excepted) until it has been asked here who it is: nobody builds on what is no longer there.
   */
  identity(): Promise<StoreIdentity>;

  /** Begins or renews a session for `ttlMs`. False: it had run out and its work may be another's; begin a new one. */
  renewSession(session: SessionRow, ttlMs: number): Promise<boolean>;
  /** Ends a session; what it drove may be taken at once. */
  endSession(id: string): Promise<void>;
  /** Sessions that are alive, or ran out less than a day ago. */
  sessions(): Promise<readonly SessionState[]>;

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

  /** Writes a new migration that claims its Machine. */
  claimMigration(record: MigrationRecord, basis?: ClaimBasis): Promise<ClaimAnswer>;
  /**
   * Drives a migration from now on, unless another live session does: sets driver and a fresh term in one change. The term is
   * above all before and above `termAbove` (what agents have seen, as a store may have lost its last writes), and its low 16
   * bits are random, so that two that were minted by stores that know nothing of each other are not equal.
   */
  takeMigration(id: string, sessionId: string, termAbove: bigint): Promise<TakeAnswer<MigrationRecord>>;
  /** Drives it no longer; harmless when another does. */
  leaveMigration(id: string, sessionId: string): Promise<void>;
  /** Writes version `record.version + 1` if `record.version` is the stored one; answers whether it was. Leaves the driver. */
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

  /** Writes a new drain; one open drain a host. */
  createDrain(record: DrainRecord): Promise<CreateDrainAnswer>;
  /** Writes version `record.version + 1` if `record.version` is the stored one; answers whether it was. Leaves the driver. */
  updateDrain(record: DrainRecord): Promise<boolean>;
  drain(id: string): Promise<DrainRecord | undefined>;
  /** The newest of a host. */
  drainOfHost(hostId: string): Promise<DrainRecord | undefined>;
  /** Newest first. */
  drains(limit: number): Promise<readonly DrainRecord[]>;
  /** Those with something left to do, oldest first. */
  openDrains(): Promise<readonly DrainRecord[]>;
  /** Drives a drain from now on, unless another live session does. */
  takeDrain(id: string, sessionId: string): Promise<TakeAnswer<DrainRecord>>;

  close(): Promise<void>;
}
