// Past 300 lines because it is one noun: all that an agent must not forget, and the only place with SQL.
import { fromBinary, toBinary } from '@bufbuild/protobuf';
import {
  type MachineEvent,
  MachineEventSchema,
  type MachineRecord,
  MachineRecordSchema,
} from '../proto/gen/ferry/v1/machine_pb.ts';
import { Database, type Row } from '../shared/database.ts';
import type { Placement } from './handover/boot.ts';
import type { DestinationState } from './handover/destination.ts';
import type { Permit } from './handover/permit.ts';
import type { PrecopyNote } from './handover/rounds.ts';
import type { SourceState } from './handover/source.ts';
import type { Life } from './machines/lifecycle.ts';

const schema = [
  `CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

   CREATE TABLE machines (
     id TEXT PRIMARY KEY, placement TEXT NOT NULL, record BLOB NOT NULL, runtime TEXT NOT NULL,
     volume_id TEXT NOT NULL, slot INTEGER NOT NULL, updated_at_ms INTEGER NOT NULL
   ) STRICT, WITHOUT ROWID;
   CREATE TABLE events (
     machine_id TEXT NOT NULL, sequence INTEGER NOT NULL, event BLOB NOT NULL, PRIMARY KEY (machine_id, sequence)
   ) STRICT, WITHOUT ROWID;
   CREATE TABLE volumes (id TEXT PRIMARY KEY, row TEXT NOT NULL) STRICT, WITHOUT ROWID;
   CREATE TABLE handovers (
     migration_id TEXT PRIMARY KEY, machine_id TEXT NOT NULL, role TEXT NOT NULL, state TEXT NOT NULL,
     detail TEXT NOT NULL, record BLOB, is_open INTEGER NOT NULL, updated_at_ms INTEGER NOT NULL
   ) STRICT, WITHOUT ROWID;
   CREATE INDEX handovers_open ON handovers (is_open) WHERE is_open = 1;
   CREATE TABLE offers (migration_id TEXT PRIMARY KEY, row TEXT NOT NULL) STRICT, WITHOUT ROWID;
   CREATE INDEX handovers_by_machine ON handovers (machine_id);
   CREATE TABLE permits (network TEXT PRIMARY KEY, holder TEXT, fence INTEGER NOT NULL) STRICT, WITHOUT ROWID;
   CREATE TABLE roster (host_id TEXT PRIMARY KEY, row TEXT NOT NULL) STRICT, WITHOUT ROWID`,
];

/** Events of one Machine that are kept; the oldest go first. */
const eventsMax = 500;

/** A Machine as this agent remembers it; the row stays after it moved away, for its epoch. */
export interface MachineRow {
  readonly id: string;
  readonly placement: Placement;
  readonly record: MachineRecord;
  readonly runtime: Life;
  /** Empty without a volume. */
  readonly volumeId: string;
  /** Number of the Machine within this host, for its addresses. */
  readonly slot: number;
  readonly updatedAtMs: number;
}

/** What is known of a volume besides its image. */
export interface VolumeRow {
  readonly id: string;
  readonly name: string;
  /** Empty while it belongs to none. */
  readonly machineId: string;
  readonly sizeBytes: number;
  readonly createdAtMs: number;
  /** Set while a copy is kept after its Machine moved away. */
  readonly kept: { readonly migrationId: string; readonly root: string; readonly sinceMs: number } | null;
}

/** Why a Machine is moved, and for whom; all texts may be empty. */
export interface MoveReason {
  readonly reason: string;
  readonly orderedBy: string;
  readonly drainId: string;
}

/** What an agent remembers of a hand-over besides the protocol's own state. */
export interface HandoverDetail {
  /** The other agent: where it is, and its pinned key (base64); null before they paired. */
  readonly peer: { readonly hostId: string; readonly address: string; readonly publicKey: string | null };
  readonly network: string;
  /** Whose permit covers this hand-over. */
  readonly lockHolder: string;
  readonly volumeSizeBytes: number;
  /** What the copy needs room for. */
  readonly volumeAllocatedBytes: number;
  /** Volume at the source; empty without one. */
  readonly sourceVolumeId: string;
  /** Time for the Machine to become healthy at the destination. */
  readonly startDeadlineMs: number;
  /** Destination: the kept copy of the Machine's volume that the copy begins with; null once it was of no use. */
  readonly seed?: { readonly volumeId: string; readonly root: string } | null;
  /** Destination: what the copy of the running Machine did. */
  readonly precopy?: PrecopyNote;
  /** Source: why it is moved, and for whom. */
  readonly order?: MoveReason;
  /** Longest time that a snapshot before the stop took. */
  readonly longestWriteStallMs?: number;
  readonly signalSentAtMs?: number;
  readonly stoppedAtMs?: number;
  readonly copiedAtMs?: number;
  readonly verifiedAtMs?: number;
  readonly startedAtMs?: number;
  readonly healthyAtMs?: number;
  readonly tombstonedAtMs?: number;
  /** An operator accepted that the Machine is down: its network need not wait for it. */
  readonly acceptedDown?: boolean;
  /** Nothing is left to do for a declined copy, or a Machine that moved away. */
  readonly freed?: boolean;
  /** "starting", "healthy", "unhealthy", "stopped", or "" before the start. */
  readonly health?: string;
}

/** A Machine described to a coordinator, for one destination that may pair for it. */
export interface OfferRow {
  readonly machineId: string;
  readonly peer: { readonly hostId: string; readonly address: string };
  readonly lockHolder: string;
  readonly term: number;
  readonly order?: MoveReason;
  /** When it was offered last. */
  readonly sinceMs: number;
}

/** One hand-over: at most one row a migration ID, never removed. */
export type HandoverRow = {
  readonly migrationId: string;
  readonly machineId: string;
  readonly detail: HandoverDetail;
  /** The bytes that a ticket's digest is over. */
  readonly record: Uint8Array | null;
  readonly updatedAtMs: number;
} & (
  | { readonly role: 'source'; readonly state: SourceState }
  | { readonly role: 'destination'; readonly state: DestinationState }
);

/** What an agent must not forget. Everything written is durable when the call returns; `write` makes several one. */
export class Journal {
  readonly #db: Database;
  /** Random ID of this journal's first opening. */
  readonly id: string;
  #counter: number;

  constructor(path: string, newId: () => string) {
    this.#db = new Database(path, schema);
    this.#counter = Number(this.meta('counter') ?? 0);
    const id = this.meta('journal_id');
    this.id = id ?? newId();
    if (id === undefined) this.write(() => this.setMeta('journal_id', this.id));
  }

  /** Rises with each write; a coordinator that remembers a higher one knows that the journal went back. */
  get counter(): number {
    return this.#counter;
  }

  /** All or nothing. */
  write<T>(work: () => T): T {
    const before = this.#counter;
    try {
      return this.#db.transaction(() => {
        this.#counter = before + 1;
        this.setMeta('counter', String(this.#counter));
        return work();
      });
    } catch (error) {
      this.#counter = before;
      throw error;
    }
  }

  close(): void {
    this.#db.close();
  }

  /** A named value, or undefined. */
  meta(key: string): string | undefined {
    const row = this.#db.get('SELECT value FROM meta WHERE key = ?', key);
    return row === undefined ? undefined : String(row.value);
  }

  setMeta(key: string, value: string): void {
    this.#db.run('INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value', key, value);
  }

  /** A number never given before by this journal. */
  nextSlot(): number {
    const slot = Number(this.meta('slot') ?? 0) + 1;
    this.setMeta('slot', String(slot));
    return slot;
  }

  machine(id: string): MachineRow | undefined {
    const row = this.#db.get('SELECT * FROM machines WHERE id = ?', id);
    return row === undefined ? undefined : machineOf(row);
  }

  machines(): MachineRow[] {
    return this.#db.all('SELECT * FROM machines ORDER BY id').map(machineOf);
  }

  putMachine(machine: MachineRow): void {
    this.#db.run(
      'INSERT OR REPLACE INTO machines VALUES (?, ?, ?, ?, ?, ?, ?)',
      machine.id,
      JSON.stringify(machine.placement),
      toBinary(MachineRecordSchema, machine.record),
      JSON.stringify(machine.runtime),
      machine.volumeId,
      machine.slot,
      machine.updatedAtMs,
    );
  }

  /** Oldest first. */
  events(machineId: string): MachineEvent[] {
    return this.#db
      .all('SELECT event FROM events WHERE machine_id = ? ORDER BY sequence', machineId)
      .map((row) => fromBinary(MachineEventSchema, row.event as Uint8Array));
  }

  appendEvents(machineId: string, events: readonly MachineEvent[]): void {
    const last = this.#db.get('SELECT max(sequence) AS last FROM events WHERE machine_id = ?', machineId);
    let sequence = Number(last?.last ?? 0);
    for (const event of events) {
      sequence += 1;
      this.#db.run('INSERT INTO events VALUES (?, ?, ?)', machineId, sequence, toBinary(MachineEventSchema, event));
    }
    this.#db.run('DELETE FROM events WHERE machine_id = ? AND sequence <= ?', machineId, sequence - eventsMax);
  }

  /** Replaces the whole log: the one that travelled with a Machine. */
  replaceEvents(machineId: string, events: readonly MachineEvent[]): void {
    this.#db.run('DELETE FROM events WHERE machine_id = ?', machineId);
    this.appendEvents(machineId, events);
  }

  volume(id: string): VolumeRow | undefined {
    const row = this.#db.get('SELECT row FROM volumes WHERE id = ?', id);
    return row === undefined ? undefined : (JSON.parse(String(row.row)) as VolumeRow);
  }

  volumes(): VolumeRow[] {
    return this.#db.all('SELECT row FROM volumes ORDER BY id').map((row) => JSON.parse(String(row.row)) as VolumeRow);
  }

  putVolume(volume: VolumeRow): void {
    this.#db.run('INSERT OR REPLACE INTO volumes VALUES (?, ?)', volume.id, JSON.stringify(volume));
  }

  removeVolume(id: string): void {
    this.#db.run('DELETE FROM volumes WHERE id = ?', id);
  }

  handover(migrationId: string): HandoverRow | undefined {
    const row = this.#db.get('SELECT * FROM handovers WHERE migration_id = ?', migrationId);
    return row === undefined ? undefined : handoverOf(row);
  }

  /** Newest first. */
  handovers(): HandoverRow[] {
    return this.#db.all('SELECT * FROM handovers ORDER BY migration_id DESC').map(handoverOf);
  }

  /** Those with anything left to do, wait for, or hold. */
  openHandovers(): HandoverRow[] {
    return this.#db.all('SELECT * FROM handovers WHERE is_open = 1').map(handoverOf);
  }

  handoversOf(machineId: string): HandoverRow[] {
    return this.#db
      .all('SELECT * FROM handovers WHERE machine_id = ? ORDER BY migration_id DESC', machineId)
      .map(handoverOf);
  }

  putHandover(handover: HandoverRow): void {
    this.#db.run(
      'INSERT OR REPLACE INTO handovers VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
      handover.migrationId,
      handover.machineId,
      handover.role,
      JSON.stringify(handover.state),
      JSON.stringify(handover.detail),
      handover.record,
      isOpen(handover) ? 1 : 0,
      handover.updatedAtMs,
    );
  }

  offer(migrationId: string): OfferRow | undefined {
    const row = this.#db.get('SELECT row FROM offers WHERE migration_id = ?', migrationId);
    return row === undefined ? undefined : (JSON.parse(String(row.row)) as OfferRow);
  }

  /** Those that nobody has paired for. */
  offers(): (OfferRow & { readonly migrationId: string })[] {
    return this.#db
      .all('SELECT * FROM offers')
      .map((row) => ({ ...(JSON.parse(String(row.row)) as OfferRow), migrationId: String(row.migration_id) }));
  }

  putOffer(migrationId: string, offer: OfferRow): void {
    this.#db.run('INSERT OR REPLACE INTO offers VALUES (?, ?)', migrationId, JSON.stringify(offer));
  }

  removeOffer(migrationId: string): void {
    this.#db.run('DELETE FROM offers WHERE migration_id = ?', migrationId);
  }

  permit(network: string): Permit | null {
    const row = this.#db.get('SELECT * FROM permits WHERE network = ?', network);
    return row === undefined ? null : permitOf(row);
  }

  permits(): Permit[] {
    return this.#db.all('SELECT * FROM permits ORDER BY network').map(permitOf);
  }

  putPermit(permit: Permit): void {
    this.#db.run('INSERT OR REPLACE INTO permits VALUES (?, ?, ?)', permit.network, permit.holder, permit.fence);
  }

  /** Other hosts and their addresses, as the coordinator last told them. */
  roster(): Map<string, string> {
    return new Map(this.#db.all('SELECT * FROM roster').map((row) => [String(row.host_id), String(row.row)]));
  }

  putRoster(hostId: string, address: string): void {
    this.#db.run('INSERT OR REPLACE INTO roster VALUES (?, ?)', hostId, address);
  }

  removeRoster(hostId: string): void {
    this.#db.run('DELETE FROM roster WHERE host_id = ?', hostId);
  }
}

/** Whether anything of a hand-over is left to do, to wait for, or to hold. */
function isOpen({ role, state, detail }: HandoverRow): boolean {
  if (role === 'source' && (state.step === 'aborted' || state.step === 'returned')) return !state.up;
  if (state.step === 'tombstoned' || state.step === 'declined') return detail.freed !== true;
  if (state.step === 'owner') return !state.up || !state.settlementKnown;
  return state.step !== 'parked';
}

function machineOf(row: Row): MachineRow {
  return {
    id: String(row.id),
    placement: JSON.parse(String(row.placement)) as Placement,
    record: fromBinary(MachineRecordSchema, row.record as Uint8Array),
    runtime: JSON.parse(String(row.runtime)) as Life,
    volumeId: String(row.volume_id),
    slot: Number(row.slot),
    updatedAtMs: Number(row.updated_at_ms),
  };
}

function handoverOf(row: Row): HandoverRow {
  return {
    migrationId: String(row.migration_id),
    machineId: String(row.machine_id),
    role: String(row.role) as 'source',
    state: JSON.parse(String(row.state)) as SourceState,
    detail: JSON.parse(String(row.detail)) as HandoverDetail,
    record: row.record as Uint8Array | null,
    updatedAtMs: Number(row.updated_at_ms),
  };
}

function permitOf(row: Row): Permit {
  return {
    network: String(row.network),
    holder: row.holder === null ? null : String(row.holder),
    fence: Number(row.fence),
  };
}
