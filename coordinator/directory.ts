import { create, toBinary } from '@bufbuild/protobuf';
import {
  type DirectoryRow,
  DirectoryRowSchema,
  type DirectoryUpdate,
  DirectoryUpdateSchema,
} from '../proto/gen/ferry/v1/directory_pb.ts';
import type { HeartbeatRequest } from '../proto/gen/ferry/v1/host_pb.ts';
import type { Machine } from '../proto/gen/ferry/v1/machine_pb.ts';
import { directoryRowOf, isNewer, isSound, saysTheSame } from '../shared/directory-row.ts';
import type { Random } from '../shared/random.ts';
import type { Gate } from './locks/gate.ts';
import type { HostRow, Store } from './store/store.ts';

/** What one update holds at most. */
const pageRowsMax = 1000;
const pageBytesMax = 512 * 1024;
/** Destroyed Machines that are remembered, so that agents hear of them; above it all agents get everything anew. */
const goneMax = 10_000;

/** What a directory works with. */
export interface DirectoryOptions {
  readonly store: Pick<Store, 'placements' | 'placement'>;
  readonly random: Random;
  /** While it is shut nobody is told all: what a store that was lost does not know yet would be forgotten by agents. */
  readonly gate: Gate;
}

interface Entry {
  readonly row: DirectoryRow;
  readonly version: bigint;
}

/**
 * Where all Machines are, as this coordinator knows it: what agents report to it, and what other coordinators wrote to the
 * store. In memory; each process counts its own versions under an ID of its own. Agents get what changed since theirs.
 */
export class Directory {
  readonly #store: DirectoryOptions['store'];
  readonly #gate: Gate;
  readonly #random: Random;
  #id: string;
  /** In the order of their versions. */
  readonly #entries = new Map<string, Entry>();
  /** Machines of each host. */
  readonly #hosts = new Map<string, Set<string>>();
  /** The heartbeat of each host that its Machines were read at. */
  readonly #readAtMs = new Map<string, number>();
  /** Reads under way: many agents report while one host is read. */
  readonly #reading = new Map<string, Promise<void>>();
  #gone = 0;
  #version = 0n;

  constructor({ store, random, gate }: DirectoryOptions) {
    this.#store = store;
    this.#gate = gate;
    this.#random = random;
    this.#id = newId(random);
  }

  /**
   * Takes an agent's report, once the store has it, and what `others` reported to other coordinators; answers what the
   * agent lacks; undefined while that cannot be told.
   */
  async exchange(
    request: HeartbeatRequest,
    host: HostRow,
    others: readonly HostRow[],
  ): Promise<DirectoryUpdate | undefined> {
    if (!host.journalWentBack) await this.#heard(request);
    this.#readAtMs.set(host.id, host.lastHeartbeatMs);
    if (this.#readAtMs.size > others.length + 1) this.#forgetHosts(new Set([host.id, ...others.map(({ id }) => id)]));
    for (const other of others) await this.#catchUp(other);
    return this.#since(request.directoryId, request.directoryVersion);
  }

  async #heard({ hostId, directory, placements }: HeartbeatRequest): Promise<void> {
    for (const row of directory) if (row.hostId === hostId && row.gone) this.#put(row);
    const machines = placements.flatMap(({ machine }) => (machine === undefined ? [] : [machine]));
    for (const machine of machines) this.#put(directoryRowOf({ ...machine, hostId }));
    await this.#missing(hostId, machines);
  }

  /** Reads from the store what a host reported to another coordinator since it was read last. */
  async #catchUp({ id, lastHeartbeatMs, journalWentBack }: HostRow): Promise<void> {
    while (this.#readAtMs.get(id) !== lastHeartbeatMs && !journalWentBack) {
      const underWay = this.#reading.get(id);
      const reading = underWay ?? this.#read(id, lastHeartbeatMs).finally(() => this.#reading.delete(id));
      this.#reading.set(id, reading);
      await reading;
    }
  }

  async #read(id: string, lastHeartbeatMs: number): Promise<void> {
    const machines = (await this.#store.placements({ hostId: id })).map(({ machine }) => machine);
    for (const machine of machines) this.#putStored(machine);
    await this.#missing(id, machines);
    // Only now: another agent that reports meanwhile is not told that this is all.
    this.#readAtMs.set(id, lastHeartbeatMs);
  }

  /** What an agent lacks that has `version` of directory `id`; undefined while this directory may lack some itself. */
  #since(id: string, version: bigint): DirectoryUpdate | undefined {
    const complete = id !== this.#id || version > this.#version;
    if (complete && this.#gate.shut() !== undefined) return undefined;
    const update = create(DirectoryUpdateSchema, { directoryId: this.#id, version: this.#version, complete });
    if (!complete && version === this.#version) return update;
    let bytes = 0;
    for (const entry of this.#entries.values()) {
      if (complete ? entry.row.gone : entry.version <= version) continue;
      bytes += toBinary(DirectoryRowSchema, entry.row).byteLength;
      if (update.rows.length > 0 && (update.rows.length >= pageRowsMax || bytes > pageBytesMax)) {
        update.more = true;
        break;
      }
      update.rows.push(entry.row);
      update.version = entry.version;
    }
    if (!update.more) update.version = this.#version;
    return update;
  }

  /** What a host had, but owns no more: destroyed, or elsewhere. */
  async #missing(hostId: string, machines: readonly Machine[]): Promise<void> {
    const missing = new Set(this.#hosts.get(hostId));
    for (const { id } of machines) missing.delete(id);
    for (const machineId of missing) {
      const placement = await this.#store.placement(machineId);
      if (placement === undefined) this.#forget(machineId);
      else this.#putStored(placement.machine);
    }
  }

  /** A row without a revision was not written by its host: its address may be of another one. */
  #putStored(machine: Machine): void {
    if (machine.revision > 0n) this.#put(directoryRowOf(machine));
  }

  /** Hosts that an operator removed. */
  #forgetHosts(known: ReadonlySet<string>): void {
    for (const id of this.#readAtMs.keys()) if (!known.has(id)) this.#readAtMs.delete(id);
    for (const [id, machines] of this.#hosts) if (!known.has(id) && machines.size === 0) this.#hosts.delete(id);
  }

  #forget(machineId: string): void {
    const known = this.#entries.get(machineId)?.row;
    if (known !== undefined) this.#put({ ...known, gone: true, started: false });
  }

  #put(row: DirectoryRow): void {
    const known = this.#entries.get(row.machineId)?.row;
    if (!isSound(row) || !isNewer(row, known) || (known === undefined && row.gone)) return;
    if (saysTheSame(row, known) && row.revision === known?.revision) return;
    this.#version += 1n;
    this.#entries.delete(row.machineId);
    this.#entries.set(row.machineId, { row, version: this.#version });
    if (known !== undefined) this.#hosts.get(known.hostId)?.delete(row.machineId);
    if (known?.gone === true) this.#gone -= 1;
    if (row.gone) this.#gone += 1;
    else {
      const machines = this.#hosts.get(row.hostId) ?? new Set();
      this.#hosts.set(row.hostId, machines.add(row.machineId));
    }
    if (this.#gone > goneMax) this.#beginAnew();
  }

  #beginAnew(): void {
    for (const [machineId, { row }] of this.#entries) if (row.gone) this.#entries.delete(machineId);
    this.#gone = 0;
    this.#id = newId(this.#random);
  }
}

function newId(random: Random): string {
  return Buffer.from(random.bytes(8)).toString('hex');
}
