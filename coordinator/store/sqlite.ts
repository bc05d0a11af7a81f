// Longer than usual: one class that is the whole SQLite side of the store interface, one statement or two an operation.
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { DrainSchema } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { CopyLimitsSchema, HostCapacitySchema } from '../../proto/gen/ferry/v1/host_pb.ts';
import { MachineSchema } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationSchema } from '../../proto/gen/ferry/v1/migration_pb.ts';
import type { Clock } from '../../shared/clock.ts';
import { Database, type Row } from '../../shared/database.ts';
import { FerryError } from '../../shared/error.ts';
import type { Random } from '../../shared/random.ts';
import { acknowledge, judgeJournal, type KnownJournal } from './journal-counter.ts';
import { drainsKept, drawsMax, sessionKeptMs } from './limits.ts';
import type {
  ClaimAnswer,
  ClaimBasis,
  CreateDrainAnswer,
  DrainPlan,
  DrainRecord,
  HeartbeatOutcome,
  HostReport,
  HostRow,
  LockAnswer,
  LockRequest,
  LockRow,
  LockWaiterRow,
  MigrationPlan,
  MigrationRecord,
  Placement,
  PlacementFilter,
  SessionRow,
  SessionState,
  Store,
  StoreDescription,
  StoreIdentity,
  TakeAnswer,
} from './store.ts';
import { mintTerm } from './term.ts';
import { isThrough } from './through.ts';

/** Versions of the schema. One that was released is never changed: a further one is added. */
export const schema = [
  `
  CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
  CREATE TABLE numbers (
    kind TEXT NOT NULL, number INTEGER NOT NULL, name TEXT NOT NULL, current INTEGER NOT NULL,
    PRIMARY KEY (kind, number)) STRICT;
  CREATE UNIQUE INDEX numbers_current ON numbers (kind, name) WHERE current = 1;
  CREATE TABLE hosts (
    id TEXT PRIMARY KEY, number INTEGER NOT NULL, region TEXT NOT NULL, address TEXT NOT NULL,
    agent_version TEXT NOT NULL, cordoned INTEGER NOT NULL, capacity BLOB, capabilities TEXT NOT NULL,
    journal_id TEXT NOT NULL, journal_highest INTEGER NOT NULL, journal_reported INTEGER NOT NULL,
    journal_went_back INTEGER NOT NULL, last_heartbeat_ms INTEGER NOT NULL) STRICT;
  CREATE TABLE placements (
    machine_id TEXT PRIMARY KEY, host_id TEXT NOT NULL, epoch INTEGER NOT NULL, network TEXT NOT NULL,
    app TEXT NOT NULL, machine BLOB NOT NULL, seen_ms INTEGER NOT NULL) STRICT;
  CREATE INDEX placements_host ON placements (host_id);
  CREATE INDEX placements_network ON placements (network);
  CREATE TABLE locks (
    network TEXT PRIMARY KEY, migration_id TEXT NOT NULL, machine_id TEXT NOT NULL, source TEXT NOT NULL,
    destination TEXT NOT NULL, since_ms INTEGER NOT NULL, fence INTEGER NOT NULL) STRICT;
  CREATE TABLE fences (network TEXT PRIMARY KEY, fence INTEGER NOT NULL) STRICT;
  CREATE TABLE lock_waiters (
    place INTEGER PRIMARY KEY AUTOINCREMENT, network TEXT NOT NULL, migration_id TEXT NOT NULL,
    machine_id TEXT NOT NULL, since_ms INTEGER NOT NULL, UNIQUE (network, migration_id)) STRICT;
  CREATE TABLE migrations (
    id TEXT PRIMARY KEY, machine_id TEXT NOT NULL, version INTEGER NOT NULL, open INTEGER NOT NULL,
    claim INTEGER NOT NULL, ended INTEGER NOT NULL, migration BLOB NOT NULL, plan TEXT NOT NULL) STRICT;
  CREATE UNIQUE INDEX migrations_claim ON migrations (machine_id) WHERE claim = 1;
  CREATE INDEX migrations_open ON migrations (id) WHERE open = 1;
  CREATE INDEX migrations_unended ON migrations (id) WHERE ended = 0;
  `,
  `
  CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
  ALTER TABLE hosts ADD COLUMN copy_limits BLOB;
  ALTER TABLE hosts ADD COLUMN dns_address TEXT NOT NULL DEFAULT '';
  ALTER TABLE hosts ADD COLUMN notes TEXT NOT NULL DEFAULT '[]';
  ALTER TABLE lock_waiters ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
  ALTER TABLE migrations ADD COLUMN driver TEXT NOT NULL DEFAULT '';
  UPDATE migrations SET plan = json_set(plan, '$.downtimeBudgetMs', 300, '$.priority', 0);
  CREATE TABLE sessions (
    id TEXT PRIMARY KEY, coordinator TEXT NOT NULL, address TEXT NOT NULL, version TEXT NOT NULL,
    until_ms INTEGER NOT NULL) STRICT;
  CREATE TABLE drains (
    id TEXT PRIMARY KEY, host_id TEXT NOT NULL, version INTEGER NOT NULL, open INTEGER NOT NULL,
    driver TEXT NOT NULL, drain BLOB NOT NULL, plan TEXT NOT NULL) STRICT;
  CREATE INDEX drains_host ON drains (host_id, id);
  CREATE UNIQUE INDEX drains_open ON drains (host_id) WHERE open = 1;
  `,
];

/** The store in one SQLite file, for one coordinator; the file is locked while it is open. */
export class SqliteStore implements Store {
  readonly #db: Database;
  readonly #random: Random;
  readonly #clock: Clock;

  constructor(options: { readonly path: string; readonly random: Random; readonly clock: Clock }) {
    this.#db = new Database(options.path, schema);
    this.#random = options.random;
    this.#clock = options.clock;
    const generation = Buffer.from(this.#random.bytes(16)).toString('hex');
    this.#db.run("INSERT OR IGNORE INTO facts VALUES ('generation', ?)", generation);
    // The file is open in one process only: whoever had a session before is gone.
    this.#db.run('UPDATE sessions SET until_ms = min(until_ms, ?)', this.#clock.nowMs());
  }

  describe(): StoreDescription {
    return { where: `sqlite ${this.#db.path}`, notes: [] };
  }

  async identity(): Promise<StoreIdentity> {
    const { value } = this.#db.get("SELECT value FROM facts WHERE name = 'generation'")!;
    return { generation: value as string, incarnation: 'embedded' };
  }

  async renewSession(session: SessionRow, ttlMs: number): Promise<boolean> {
    return this.#db.transaction(() => {
      const nowMs = this.#clock.nowMs();
      this.#db.run('DELETE FROM sessions WHERE until_ms <= ?', nowMs - sessionKeptMs);
      const { id, coordinator, address, version } = session;
      const changed = this.#db.run(
        `INSERT INTO sessions VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (id) DO UPDATE
         SET address = ?3, version = ?4, until_ms = ?5 WHERE until_ms > ?6`,
        id,
        coordinator,
        address,
        version,
        nowMs + ttlMs,
        nowMs,
      );
      return changed > 0;
    });
  }

  async endSession(id: string): Promise<void> {
    this.#db.run('UPDATE sessions SET until_ms = min(until_ms, ?) WHERE id = ?', this.#clock.nowMs(), id);
  }

  async sessions(): Promise<readonly SessionState[]> {
    const nowMs = this.#clock.nowMs();
    const rows = this.#db.all('SELECT * FROM sessions WHERE until_ms > ? ORDER BY id', nowMs - sessionKeptMs);
    return rows.map((row) => ({
      id: row.id as string,
      coordinator: row.coordinator as string,
      address: row.address as string,
      version: row.version as string,
      alive: (row.until_ms as number) > nowMs,
    }));
  }

  /** The live session, other than `sessionId`, that `driver` is. */
  #drivenBy(driver: string, sessionId: string): string | undefined {
    if (driver === sessionId) return undefined;
    const alive = this.#db.get('SELECT 1 FROM sessions WHERE id = ? AND until_ms > ?', driver, this.#clock.nowMs());
    return alive === undefined ? undefined : driver;
  }

  #nextTerm(above: bigint): bigint {
    const highest = BigInt((this.#db.get("SELECT value FROM counters WHERE name = 'term'")?.value as number) ?? 0);
    const term = mintTerm(highest > above ? highest : above, this.#random);
    this.#db.run("INSERT OR REPLACE INTO counters VALUES ('term', ?)", term);
    return term;
  }

  async networkNumber(name: string, remembered: number): Promise<number> {
    return this.#db.transaction(() => this.#number('network', name, remembered));
  }

  async networks(): Promise<ReadonlyMap<string, number>> {
    const rows = this.#db.all("SELECT name, number FROM numbers WHERE kind = 'network' AND current = 1 ORDER BY name");
    return new Map(rows.map((row) => [row.name as string, row.number as number]));
  }

  #number(kind: 'network' | 'host', name: string, remembered: number): number {
    const known = this.#db.get('SELECT number FROM numbers WHERE kind = ? AND name = ? AND current = 1', kind, name);
    if (known !== undefined) return known.number as number;
    for (let draw = 0; draw <= drawsMax; draw += 1) {
      const number = draw === 0 ? remembered : Buffer.from(this.#random.bytes(4)).readUInt32BE();
      const taken = this.#db.get('SELECT 1 FROM numbers WHERE kind = ? AND number = ?', kind, number);
      if (number === 0 || taken !== undefined) continue;
      this.#db.run('INSERT INTO numbers VALUES (?, ?, ?, 1)', kind, number, name);
      return number;
    }
    throw new FerryError('internal', `no free number for ${kind} ${name} in ${drawsMax} draws`);
  }

  async recordHeartbeat(report: HostReport): Promise<HeartbeatOutcome> {
    return this.#db.transaction(() => {
      const known = this.#db.get('SELECT * FROM hosts WHERE id = ?', report.id);
      const before = known === undefined ? undefined : journalOf(known);
      const journal = judgeJournal(before, report.journalId, report.journalCounter);
      const number = this.#number('host', report.id, report.rememberedNumber);
      this.#db.run(
        'INSERT OR REPLACE INTO hosts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)',
        report.id,
        number,
        report.region,
        report.address,
        report.agentVersion,
        known === undefined ? Number(report.cordoned) : Number(known.cordoned === 1 || journal.wentBack),
        report.capacity === undefined ? null : toBinary(HostCapacitySchema, report.capacity),
        JSON.stringify(report.capabilities),
        journal.id,
        journal.highest,
        journal.reported,
        Number(journal.wentBack),
        report.atMs,
        report.copyLimits === undefined ? null : toBinary(CopyLimitsSchema, report.copyLimits),
        report.dnsAddress,
        JSON.stringify(report.notes),
      );
      return {
        host: hostOf(this.#db.get('SELECT * FROM hosts WHERE id = ?', report.id)!),
        knownCounter: before?.highest ?? 0n,
      };
    });
  }

  async hosts(): Promise<readonly HostRow[]> {
    return this.#db.all('SELECT * FROM hosts ORDER BY id').map(hostOf);
  }

  async host(id: string): Promise<HostRow | undefined> {
    const row = this.#db.get('SELECT * FROM hosts WHERE id = ?', id);
    return row === undefined ? undefined : hostOf(row);
  }

  async setCordon(hostId: string, cordoned: boolean): Promise<boolean> {
    return this.#db.transaction(() => {
      const row = this.#db.get('SELECT * FROM hosts WHERE id = ?', hostId);
      if (row === undefined) return false;
      const known = journalOf(row);
      const { highest, wentBack } = cordoned ? known : acknowledge(known);
      this.#db.run(
        'UPDATE hosts SET cordoned = ?, journal_highest = ?, journal_went_back = ? WHERE id = ?',
        Number(cordoned || wentBack),
        highest,
        Number(wentBack),
        hostId,
      );
      return true;
    });
  }

  async removeHost(hostId: string): Promise<boolean> {
    return this.#db.transaction(() => {
      this.#db.run("UPDATE numbers SET current = 0 WHERE kind = 'host' AND name = ?", hostId);
      return this.#db.run('DELETE FROM hosts WHERE id = ?', hostId) > 0;
    });
  }

  async putPlacement(placement: Placement): Promise<void> {
    this.#put(placement);
  }

  #put({ machineId, hostId, epoch, network, app, machine, seenMs }: Placement): void {
    this.#db.run(
      `INSERT INTO placements VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (machine_id) DO UPDATE
       SET host_id = ?2, epoch = ?3, network = ?4, app = ?5, machine = ?6, seen_ms = ?7 WHERE ?3 >= epoch`,
      machineId,
      hostId,
      epoch,
      network,
      app,
      toBinary(MachineSchema, machine),
      seenMs,
    );
  }

  async putPlacements(hostId: string, placements: readonly Placement[], forgetBeforeMs: number): Promise<void> {
    this.#db.transaction(() => {
      for (const placement of placements) this.#put(placement);
      const listed = JSON.stringify(placements.map((placement) => placement.machineId));
      this.#db.run(
        `DELETE FROM placements WHERE host_id = ? AND seen_ms < ?
         AND machine_id NOT IN (SELECT value FROM json_each(?))
         AND machine_id NOT IN (SELECT machine_id FROM migrations WHERE claim = 1)`,
        hostId,
        forgetBeforeMs,
        listed,
      );
    });
  }

  async placement(machineId: string): Promise<Placement | undefined> {
    const row = this.#db.get('SELECT * FROM placements WHERE machine_id = ?', machineId);
    return row === undefined ? undefined : placementOf(row);
  }

  async placements({ app, hostId, network }: PlacementFilter): Promise<readonly Placement[]> {
    const filter = Object.entries({ app, host_id: hostId, network }).filter(([, value]) => value !== undefined);
    // Only what is asked for, so that the index of hosts or networks is of use.
    const where = filter.length === 0 ? '' : `WHERE ${filter.map(([column]) => `${column} = ?`).join(' AND ')}`;
    const values = filter.map(([, value]) => value!);
    return this.#db.all(`SELECT * FROM placements ${where} ORDER BY machine_id`, ...values).map(placementOf);
  }

  async removePlacement(machineId: string): Promise<void> {
    this.#db.run('DELETE FROM placements WHERE machine_id = ?', machineId);
  }

  async acquireLock(request: LockRequest): Promise<LockAnswer> {
    return this.#db.transaction(() => {
      const { network, migrationId } = request;
      const held = this.#lock(network);
      if (held?.migrationId === migrationId) {
        return { kind: 'granted', lock: held.fence > request.fenceAbove ? held : this.#grant(request, held) };
      }
      let line = this.#waiters(network);
      // Who stands in line already asks often, and a write is a sync.
      if (!line.some((waiter) => waiter.migrationId === migrationId && waiter.priority === request.priority)) {
        this.#db.run(
          `INSERT INTO lock_waiters (network, migration_id, machine_id, since_ms, priority) VALUES (?, ?, ?, ?, ?)
           ON CONFLICT (network, migration_id) DO UPDATE SET priority = excluded.priority`,
          network,
          migrationId,
          request.machineId,
          request.sinceMs,
          request.priority,
        );
        line = this.#waiters(network);
      }
      const place = line.findIndex((waiter) => waiter.migrationId === migrationId);
      if (held === undefined && place === 0) return { kind: 'granted', lock: this.#grant(request, held) };
      return { kind: 'waiting', lock: held, ahead: line.slice(0, place) };
    });
  }

  #grant(request: LockRequest, held: LockRow | undefined): LockRow {
    const { network, migrationId, machineId, source, destination, fenceAbove } = request;
    this.#db.run(
      'INSERT INTO fences VALUES (?1, ?2 + 1) ON CONFLICT (network) DO UPDATE SET fence = max(fence, ?2) + 1',
      network,
      fenceAbove,
    );
    this.#db.run(
      `INSERT OR REPLACE INTO locks SELECT ?1, ?2, ?3, ?4, ?5, ?6, fence FROM fences WHERE network = ?1`,
      network,
      migrationId,
      held?.machineId ?? machineId,
      held?.source ?? source,
      held?.destination ?? destination,
      held?.sinceMs ?? request.sinceMs,
    );
    this.#db.run('DELETE FROM lock_waiters WHERE network = ? AND migration_id = ?', network, migrationId);
    return this.#lock(network)!;
  }

  async releaseLock(network: string, migrationId: string): Promise<boolean> {
    return this.#db.transaction(() => {
      this.#db.run('DELETE FROM lock_waiters WHERE network = ? AND migration_id = ?', network, migrationId);
      return this.#db.run('DELETE FROM locks WHERE network = ? AND migration_id = ?', network, migrationId) > 0;
    });
  }

  async locks(): Promise<readonly LockRow[]> {
    return this.#db.all('SELECT * FROM locks ORDER BY network').map(lockOf);
  }

  async lock(network: string): Promise<LockRow | undefined> {
    return this.#lock(network);
  }

  #lock(network: string): LockRow | undefined {
    const row = this.#db.get('SELECT * FROM locks WHERE network = ?', network);
    return row === undefined ? undefined : lockOf(row);
  }

  async lockWaiters(network: string): Promise<readonly LockWaiterRow[]> {
    return this.#waiters(network);
  }

  #waiters(network: string): LockWaiterRow[] {
    const rows = this.#db.all('SELECT * FROM lock_waiters WHERE network = ? ORDER BY priority DESC, place', network);
    return rows.map((row) => ({
      network,
      migrationId: row.migration_id as string,
      machineId: row.machine_id as string,
      sinceMs: row.since_ms as number,
      priority: row.priority as number,
    }));
  }

  async claimMigration(record: MigrationRecord, { takesOver = '', inherits }: ClaimBasis = {}): Promise<ClaimAnswer> {
    return this.#db.transaction((): ClaimAnswer => {
      const { id, machineId } = record.migration;
      if (this.#db.get('SELECT 1 FROM migrations WHERE id = ?', id) !== undefined) return { kind: 'claimed' };
      const holder = this.#db.get('SELECT id FROM migrations WHERE machine_id = ? AND claim = 1', machineId);
      if (holder !== undefined && holder.id !== takesOver) return { kind: 'busy', migrationId: holder.id as string };
      if (inherits !== undefined) {
        const raise = 'UPDATE migrations SET version = version + 1 WHERE id = ? AND version = ?';
        if (this.#db.run(raise, inherits.migrationId, inherits.version) === 0) return { kind: 'changed' };
      }
      this.#db.run('UPDATE migrations SET claim = 0, version = version + 1 WHERE id = ? AND claim = 1', takesOver);
      const insert = 'INSERT INTO migrations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)';
      this.#db.run(insert, id, machineId, ...columnsOf(record), record.driver);
      return { kind: 'claimed' };
    });
  }

  async takeMigration(id: string, sessionId: string, termAbove: bigint): Promise<TakeAnswer<MigrationRecord>> {
    return this.#db.transaction((): TakeAnswer<MigrationRecord> => {
      const row = this.#db.get('SELECT * FROM migrations WHERE id = ?', id);
      if (row === undefined) return { kind: 'unknown' };
      const by = this.#drivenBy(row.driver as string, sessionId);
      if (by !== undefined) return { kind: 'driven', by };
      const found = recordOf(row);
      const record = { ...found, version: found.version + 1, driver: sessionId };
      record.migration.term = this.#nextTerm(termAbove);
      this.#db.run(
        'UPDATE migrations SET version = ?, driver = ?, migration = ? WHERE id = ?',
        record.version,
        sessionId,
        toBinary(MigrationSchema, record.migration),
        id,
      );
      return { kind: 'taken', record };
    });
  }

  async leaveMigration(id: string, sessionId: string): Promise<void> {
    const leave = "UPDATE migrations SET driver = '', version = version + 1 WHERE id = ? AND driver = ?";
    this.#db.run(leave, id, sessionId);
  }

  async updateMigration(record: MigrationRecord): Promise<boolean> {
    const columns = columnsOf({ ...record, version: record.version + 1 });
    return (
      this.#db.run(
        `UPDATE migrations SET version = ?, open = ?, claim = ?, ended = ?, migration = ?, plan = ?
         WHERE id = ? AND version = ?`,
        ...columns,
        record.migration.id,
        record.version,
      ) > 0
    );
  }

  async migration(id: string): Promise<MigrationRecord | undefined> {
    const row = this.#db.get('SELECT * FROM migrations WHERE id = ?', id);
    return row === undefined ? undefined : recordOf(row);
  }

  async migrations(limit: number): Promise<readonly MigrationRecord[]> {
    return this.#db.all('SELECT * FROM migrations ORDER BY id DESC LIMIT ?', limit).map(recordOf);
  }

  async openMigrations(): Promise<readonly MigrationRecord[]> {
    return this.#db.all('SELECT * FROM migrations WHERE open = 1 ORDER BY id').map(recordOf);
  }

  async unendedMigrations(limit: number): Promise<readonly MigrationRecord[]> {
    return this.#db.all('SELECT * FROM migrations WHERE ended = 0 ORDER BY id DESC LIMIT ?', limit).map(recordOf);
  }

  async pruneMigrations(keep: number): Promise<void> {
    this.#db.run(
      'DELETE FROM migrations WHERE open = 0 AND id NOT IN (SELECT id FROM migrations ORDER BY id DESC LIMIT ?)',
      keep,
    );
  }

  async createDrain(record: DrainRecord): Promise<CreateDrainAnswer> {
    return this.#db.transaction((): CreateDrainAnswer => {
      const { id, hostId } = record.drain;
      if (this.#db.get('SELECT 1 FROM drains WHERE id = ?', id) !== undefined) return { kind: 'created' };
      const other = this.#db.get('SELECT id FROM drains WHERE host_id = ? AND open = 1', hostId);
      if (other !== undefined) return { kind: 'busy', drainId: other.id as string };
      const { drain, plan, version, open, driver } = record;
      this.#db.run(
        'INSERT INTO drains VALUES (?, ?, ?, ?, ?, ?, ?)',
        id,
        hostId,
        version,
        Number(open),
        driver,
        toBinary(DrainSchema, drain),
        JSON.stringify(plan),
      );
      this.#db.run(
        'DELETE FROM drains WHERE open = 0 AND id NOT IN (SELECT id FROM drains ORDER BY id DESC LIMIT ?)',
        drainsKept,
      );
      return { kind: 'created' };
    });
  }

  async updateDrain({ drain, plan, version, open }: DrainRecord): Promise<boolean> {
    return (
      this.#db.run(
        'UPDATE drains SET version = version + 1, open = ?, drain = ?, plan = ? WHERE id = ? AND version = ?',
        Number(open),
        toBinary(DrainSchema, drain),
        JSON.stringify(plan),
        drain.id,
        version,
      ) > 0
    );
  }

  async drain(id: string): Promise<DrainRecord | undefined> {
    return this.#drain('SELECT * FROM drains WHERE id = ?', id);
  }

  async drainOfHost(hostId: string): Promise<DrainRecord | undefined> {
    return this.#drain('SELECT * FROM drains WHERE host_id = ? ORDER BY id DESC LIMIT 1', hostId);
  }

  #drain(sql: string, value: string): DrainRecord | undefined {
    const row = this.#db.get(sql, value);
    return row === undefined ? undefined : drainOf(row);
  }

  async drains(limit: number): Promise<readonly DrainRecord[]> {
    return this.#db.all('SELECT * FROM drains ORDER BY id DESC LIMIT ?', limit).map(drainOf);
  }

  async openDrains(): Promise<readonly DrainRecord[]> {
    return this.#db.all('SELECT * FROM drains WHERE open = 1 ORDER BY id').map(drainOf);
  }

  async takeDrain(id: string, sessionId: string): Promise<TakeAnswer<DrainRecord>> {
    return this.#db.transaction((): TakeAnswer<DrainRecord> => {
      const found = this.#drain('SELECT * FROM drains WHERE id = ?', id);
      if (found === undefined) return { kind: 'unknown' };
      const by = this.#drivenBy(found.driver, sessionId);
      if (by !== undefined) return { kind: 'driven', by };
      this.#db.run('UPDATE drains SET version = version + 1, driver = ? WHERE id = ?', sessionId, id);
      return { kind: 'taken', record: { ...found, version: found.version + 1, driver: sessionId } };
    });
  }

  async close(): Promise<void> {
    this.#db.close();
  }
}

function hostOf(row: Row): HostRow {
  return {
    id: row.id as string,
    number: row.number as number,
    region: row.region as string,
    address: row.address as string,
    agentVersion: row.agent_version as string,
    cordoned: row.cordoned === 1,
    capacity:
      row.capacity === null
        ? create(HostCapacitySchema)
        : fromBinary(HostCapacitySchema, row.capacity as Uint8Array<ArrayBuffer>),
    capabilities: JSON.parse(row.capabilities as string) as string[],
    journalId: row.journal_id as string,
    journalCounter: BigInt(row.journal_highest as number),
    journalWentBack: row.journal_went_back === 1,
    lastHeartbeatMs: row.last_heartbeat_ms as number,
    copyLimits:
      row.copy_limits === null ? undefined : fromBinary(CopyLimitsSchema, row.copy_limits as Uint8Array<ArrayBuffer>),
    dnsAddress: row.dns_address as string,
    notes: JSON.parse(row.notes as string) as string[],
  };
}

function journalOf(row: Row): KnownJournal {
  return {
    id: row.journal_id as string,
    highest: BigInt(row.journal_highest as number),
    reported: BigInt(row.journal_reported as number),
    wentBack: row.journal_went_back === 1,
  };
}

function placementOf(row: Row): Placement {
  return {
    machineId: row.machine_id as string,
    hostId: row.host_id as string,
    epoch: BigInt(row.epoch as number),
    network: row.network as string,
    app: row.app as string,
    machine: fromBinary(MachineSchema, row.machine as Uint8Array<ArrayBuffer>),
    seenMs: row.seen_ms as number,
  };
}

function lockOf(row: Row): LockRow {
  return {
    network: row.network as string,
    migrationId: row.migration_id as string,
    machineId: row.machine_id as string,
    source: row.source as string,
    destination: row.destination as string,
    sinceMs: row.since_ms as number,
    fence: BigInt(row.fence as number),
  };
}

function columnsOf({ migration, plan, version, open, claim }: MigrationRecord) {
  return [
    version,
    Number(open),
    Number(claim),
    Number(isThrough(migration)),
    toBinary(MigrationSchema, migration),
    JSON.stringify(plan),
  ] as const;
}

function recordOf(row: Row): MigrationRecord {
  return {
    migration: fromBinary(MigrationSchema, row.migration as Uint8Array<ArrayBuffer>),
    plan: JSON.parse(row.plan as string) as MigrationPlan,
    version: row.version as number,
    open: row.open === 1,
    claim: row.claim === 1,
    driver: row.driver as string,
  };
}

function drainOf(row: Row): DrainRecord {
  return {
    drain: fromBinary(DrainSchema, row.drain as Uint8Array<ArrayBuffer>),
    plan: JSON.parse(row.plan as string) as DrainPlan,
    version: row.version as number,
    open: row.open === 1,
    driver: row.driver as string,
  };
}
