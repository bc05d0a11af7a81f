import { rmSync } from 'node:fs';
import { fromBinary, toBinary } from '@bufbuild/protobuf';
import { type DirectoryRow, DirectoryRowSchema, type DirectoryUpdate } from '../proto/gen/ferry/v1/directory_pb.ts';
import type { Clock } from '../shared/clock.ts';
import { Database } from '../shared/database.ts';
import { directoryRowOf, isNewer, isSound, saysTheSame } from '../shared/directory-row.ts';
import { toFerryError } from '../shared/error.ts';
import type { Logger } from '../shared/log.ts';
import type { Journal, MachineRow } from './journal.ts';
import { privateIp } from './machines/addresses.ts';
import { toMachineState } from './machines/events.ts';

const schema = [
  `CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
   CREATE TABLE rows (machine_id TEXT PRIMARY KEY, row BLOB NOT NULL) STRICT, WITHOUT ROWID`,
];
/** Time between two looks whether the journal has changed. */
const watchMs = 100;
/** Destroyed Machines that one heartbeat tells of; the coordinator misses the others by itself. */
const goneMax = 1000;
const rowsMaxDefault = 100_000;
/** Machines without room that are counted; more are "at least so many". */
const leftOutMax = 10_000;

/** What a directory works with. */
export interface DirectoryOptions {
  /** Its file: a copy, no promise; without it the agent starts with what its journal knows. */
  readonly path: string;
  readonly host: string;
  readonly region: string;
  readonly journal: Journal;
  /** Address that a Machine of this host binds to. */
  readonly bindIp: (privateIp: string) => string;
  /** The journal is an older copy: what it owns may have moved on. */
  readonly journalWentBack: () => boolean;
  readonly log: Logger;
  /** Machines of other hosts that it has room for. Default 100,000. */
  readonly rowsMax?: number;
}

/**
 * Where all Machines are, as this agent answers it: its own from its journal, which overrides whatever it hears; the
 * others from coordinators and from the agents that it handed Machines to, the higher epoch first. Kept on disk, so that
 * an agent that restarts without a coordinator still knows.
 */
export class Directory {
  readonly #options: DirectoryOptions;
  readonly #heard = new Map<string, DirectoryRow>();
  #own = new Map<string, DirectoryRow>();
  /** Machines that were here: the last epoch owned here. */
  #left = new Map<string, bigint>();
  readonly #gone = new Map<string, DirectoryRow>();
  #db: Database | null;
  /** Journal counter that `#own` was read at. */
  #counter = -1;
  #byApp: ReadonlyMap<string, readonly DirectoryRow[]> | null = null;
  #wasBehind = false;
  #serial = 0;
  #id = '';
  #version = 0n;
  /** What the file says of these two. */
  #writtenAt = '';
  /** Machines that there was no room for. */
  readonly #leftOut = new Set<string>();
  /** While a complete update arrives in pages: what it holds so far. */
  #arriving: Set<string> | null = null;

  constructor(options: DirectoryOptions) {
    this.#options = options;
    this.#db = this.#open();
  }

  close(): void {
    this.#db?.close();
    this.#db = null;
  }

  /** Directory and version that this agent has, for the next heartbeat. */
  get known(): { directoryId: string; directoryVersion: bigint } {
    return { directoryId: this.#id, directoryVersion: this.#version };
  }

  /** What an operator should know: names that are not answered here; null if there is nothing. */
  get note(): string | null {
    const count = this.#leftOut.size;
    if (count === 0) return null;
    const least = count < leftOutMax ? '' : 'at least ';
    return `the directory has room for ${this.#rowsMax} Machines: names of ${least}${count} others are not answered here`;
  }

  /** Rises with each change; restarts with the agent. */
  get serial(): number {
    this.#refresh();
    return this.#serial;
  }

  /** All Machines by app, by Machine ID within one. */
  apps(): ReadonlyMap<string, readonly DirectoryRow[]> {
    this.#refresh();
    const isBehind = this.#options.journalWentBack();
    if (isBehind !== this.#wasBehind) this.#changed();
    this.#wasBehind = isBehind;
    this.#byApp ??= byApp(this.#effective(isBehind));
    return this.#byApp;
  }

  /** An own Machine's row; undefined when this host does not own it. */
  own(machineId: string): DirectoryRow | undefined {
    this.#refresh();
    return this.#own.get(machineId);
  }

  /** Own Machines that were destroyed since the last report that arrived. */
  destroyed(): DirectoryRow[] {
    this.#refresh();
    return [...this.#gone.values()].slice(0, goneMax);
  }

  /** The report with these destroyed Machines arrived. */
  reported(rows: readonly DirectoryRow[]): void {
    for (const { machineId } of rows) this.#gone.delete(machineId);
  }

  /** Takes what a coordinator said; answers whether there is more to ask for. */
  apply(update: DirectoryUpdate): boolean {
    if (update.complete) this.#arriving = new Set();
    else if (update.directoryId !== this.#id) return false;
    this.#id = update.directoryId;
    this.#version = update.version;
    const rows = update.rows.filter(isSound);
    for (const { machineId } of rows) this.#arriving?.add(machineId);
    const changed = this.#put(rows);
    const arrived = update.more ? null : this.#arriving;
    if (arrived !== null) {
      for (const machineId of this.#heard.keys()) if (!arrived.has(machineId)) changed.add(machineId);
      for (const machineId of changed) if (!arrived.has(machineId)) this.#heard.delete(machineId);
      for (const machineId of this.#leftOut) if (!arrived.has(machineId)) this.#leftOut.delete(machineId);
      this.#arriving = null;
    }
    if (!update.more) this.#askForLeftOut();
    this.#write(changed, !update.more);
    return update.more;
  }

  /** With room again for all that was left out, the next heartbeat asks for everything. */
  #askForLeftOut(): void {
    const count = this.#leftOut.size;
    if (count === 0 || count === leftOutMax || this.#heard.size + count > this.#rowsMax) return;
    this.#id = '';
    this.#version = 0n;
  }

  /** Takes one row that another agent told directly; a Machine's new owner speaks for it alone. */
  take(row: DirectoryRow): void {
    if (isSound(row)) this.#write(this.#put([row]), false);
  }

  /** Calls `onChange` soon after an own Machine's row changed, until the signal aborts. */
  async watch(clock: Clock, onChange: () => void, signal: AbortSignal): Promise<void> {
    let told = this.#own;
    while (!signal.aborted) {
      this.#refresh();
      if (told !== this.#own) onChange();
      told = this.#own;
      await clock.sleep(watchMs, signal).catch(() => {});
    }
  }

  #put(rows: readonly DirectoryRow[]): Set<string> {
    const changed = new Set<string>();
    for (const row of rows) {
      const known = this.#heard.get(row.machineId);
      if (row.gone) this.#leftOut.delete(row.machineId);
      if (!isNewer(row, known) || (known === undefined && row.gone)) continue;
      if (known === undefined && this.#heard.size >= this.#rowsMax) {
        this.#leaveOut(row.machineId);
        continue;
      }
      this.#leftOut.delete(row.machineId);
      if (saysTheSame(row, known) && row.revision === known?.revision) continue;
      if (row.gone) this.#heard.delete(row.machineId);
      else this.#heard.set(row.machineId, row);
      changed.add(row.machineId);
    }
    return changed;
  }

  get #rowsMax(): number {
    return this.#options.rowsMax ?? rowsMaxDefault;
  }

  #leaveOut(machineId: string): void {
    const isFirst = this.#leftOut.size === 0;
    if (this.#leftOut.size < leftOutMax) this.#leftOut.add(machineId);
    if (isFirst) this.#options.log.error({ machine: machineId }, this.note!);
  }

  /** Own Machines as the journal has them, read again only after it changed. */
  #refresh(): void {
    const { journal } = this.#options;
    const { counter } = journal;
    if (counter === this.#counter) return;
    const own = new Map<string, DirectoryRow>();
    const left = new Map<string, bigint>();
    let same = true;
    for (const machine of journal.machines()) {
      const { placement } = machine;
      if (placement.kind === 'none') continue;
      if (placement.kind !== 'owner') {
        left.set(machine.id, BigInt(placement.epoch));
        continue;
      }
      const known = this.#own.get(machine.id) ?? this.#heard.get(machine.id);
      const fresh = this.#rowOf(machine, BigInt(counter));
      const row = known !== undefined && saysTheSame(fresh, known) ? known : fresh;
      if (row.gone) {
        if (this.#own.has(machine.id)) this.#gone.set(machine.id, row);
        left.set(machine.id, row.epoch);
        continue;
      }
      if (this.#own.get(machine.id) !== row) same = false;
      own.set(machine.id, row);
    }
    this.#counter = counter;
    this.#left = left;
    if (same && own.size === this.#own.size) return;
    this.#own = own;
    this.#changed();
  }

  #rowOf({ id, record, placement, slot, runtime }: MachineRow, revision: bigint): DirectoryRow {
    const { host, region, journal, bindIp } = this.#options;
    const address = privateIp(record.networkNumber, Number(journal.meta('host_number') ?? 0), slot);
    return directoryRowOf({
      id,
      app: record.app,
      network: record.network,
      hostId: host,
      region,
      epoch: BigInt(placement.kind === 'none' ? 0 : placement.epoch),
      privateIp: address,
      bindIp: bindIp(address),
      state: toMachineState(runtime),
      config: record.config,
      revision,
    });
  }

  *#effective(isBehind: boolean): Iterable<DirectoryRow> {
    const { host } = this.#options;
    for (const row of this.#own.values()) {
      const heard = this.#heard.get(row.machineId);
      yield isBehind && heard !== undefined && heard.epoch > row.epoch ? heard : row;
    }
    for (const row of this.#heard.values()) {
      if (this.#own.has(row.machineId)) continue;
      const mayBeStale = row.hostId === host || row.epoch <= (this.#left.get(row.machineId) ?? 0n);
      if (isBehind || !mayBeStale) yield row;
    }
  }

  #changed(): void {
    this.#byApp = null;
    this.#serial += 1;
  }

  /** Writes rows down, and with them where in the directory this agent is. A disk that refuses costs only the copy. */
  #write(machineIds: ReadonlySet<string>, atVersion: boolean): void {
    if (machineIds.size > 0) this.#changed();
    const db = this.#db;
    const at = atVersion ? JSON.stringify({ id: this.#id, version: String(this.#version) }) : this.#writtenAt;
    if (db === null || (machineIds.size === 0 && at === this.#writtenAt)) return;
    try {
      db.transaction(() => {
        for (const machineId of machineIds) {
          const row = this.#heard.get(machineId);
          if (row === undefined) db.run('DELETE FROM rows WHERE machine_id = ?', machineId);
          else db.run('INSERT OR REPLACE INTO rows VALUES (?, ?)', machineId, toBinary(DirectoryRowSchema, row));
        }
        db.run('INSERT OR REPLACE INTO meta VALUES (?, ?)', 'at', at);
      });
      this.#writtenAt = at;
    } catch (error) {
      this.#options.log.warn({ reason: toFerryError(error).reason }, 'the copy of the directory was not written');
      // What is on the disk is older than what this agent would say it has: the next agent asks for all of it.
      this.close();
    }
  }

  #open(): Database | null {
    const { path, log } = this.#options;
    for (const again of [true, false]) {
      try {
        const db = new Database(path, schema, { reserve: false });
        this.#read(db);
        return db;
      } catch (error) {
        log.warn({ reason: toFerryError(error).reason }, `the copy of the directory is of no use: ${String(error)}`);
        this.#heard.clear();
        if (again) for (const end of ['', '-wal', '-shm']) rmSync(`${path}${end}`, { force: true });
      }
    }
    return null;
  }

  #read(db: Database): void {
    for (const { row } of db.all('SELECT row FROM rows')) {
      const read = fromBinary(DirectoryRowSchema, row as Uint8Array);
      if (isSound(read)) this.#heard.set(read.machineId, read);
    }
    const at = db.get('SELECT value FROM meta WHERE key = ?', 'at');
    if (at === undefined || at.value === '') return;
    this.#writtenAt = String(at.value);
    // What there was no room for is not in the file: all is asked for again, so that it is known how much that is.
    if (this.#heard.size >= this.#rowsMax) return;
    const { id, version } = JSON.parse(String(at.value)) as { id: string; version: string };
    this.#id = id;
    this.#version = BigInt(version);
  }
}

function byApp(rows: Iterable<DirectoryRow>): Map<string, DirectoryRow[]> {
  const apps = new Map<string, DirectoryRow[]>();
  for (const row of rows) {
    if (row.skipRegistration) continue;
    const app = apps.get(row.app) ?? [];
    app.push(row);
    apps.set(row.app, app);
  }
  for (const app of apps.values()) app.sort((a, b) => (a.machineId < b.machineId ? -1 : 1));
  return apps;
}
