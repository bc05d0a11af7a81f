import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import {
  type HeartbeatRequest,
  type HeartbeatResponse,
  HeartbeatResponseSchema,
  type Host,
  HostSchema,
} from '../proto/gen/ferry/v1/host_pb.ts';
import { HostStatus, type Machine } from '../proto/gen/ferry/v1/machine_pb.ts';
import type { Clock } from '../shared/clock.ts';
import { FerryError } from '../shared/error.ts';
import type { AddressBook } from './agents.ts';
import type { Directory } from './directory.ts';
import { KnownHosts } from './known-hosts.ts';
import type { HostRow, Placement, PlacementFilter, Store } from './store/store.ts';

/** Heartbeats that may stay away before a host counts as unreachable. */
const missedMax = 3;

/** The numbers of networks are recorded again after this, whatever became of them. */
const numberedMs = 30_000;

/** Intervals after which the next older report is a first one again. */
const suspectIntervalsMax = 10;

/** How the roster is made. */
export interface RosterOptions {
  readonly store: Store;
  readonly clock: Clock;
  readonly directory: Directory;
  readonly heartbeatIntervalMs: number;
  /** Generation of the store; empty = not known yet. */
  readonly generation: () => string;
}

/** Hosts, as heartbeats show them, and the directory of Machines that comes with the heartbeats. */
export class Roster implements AddressBook {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #directory: Directory;
  readonly #known: KnownHosts;
  readonly #intervalMs: number;
  readonly #startedMs: number;
  /** Networks whose numbers were recorded since. */
  readonly #numbered = new Set<string>();
  #numberedSinceMs = Number.NEGATIVE_INFINITY;
  /** Hosts whose last report came with an older journal, and since when. */
  readonly #suspectSinceMs = new Map<string, number>();
  readonly #generation: () => string;

  constructor({ store, clock, directory, heartbeatIntervalMs, generation }: RosterOptions) {
    this.#store = store;
    this.#clock = clock;
    this.#directory = directory;
    this.#known = new KnownHosts(store, clock);
    this.#intervalMs = heartbeatIntervalMs;
    this.#generation = generation;
    this.#startedMs = clock.nowMs();
  }

  /** Records an agent's report. */
  async heartbeat(request: HeartbeatRequest): Promise<HeartbeatResponse> {
    const nowMs = this.#clock.nowMs();
    const hosts = await this.#known.rows();
    this.#refuseDouble(request, hosts);
    const suspect = await this.#suspect(request, nowMs);
    if (suspect !== undefined) return suspect;
    const { host, knownCounter } = await this.#store.recordHeartbeat({
      id: request.hostId,
      region: request.region,
      address: request.address,
      agentVersion: request.agentVersion,
      capacity: request.capacity,
      capabilities: request.capabilities,
      journalId: request.journalId,
      journalCounter: request.journalCounter,
      cordoned: request.cordoned,
      copyLimits: request.copyLimits,
      dnsAddress: request.dnsAddress,
      notes: request.notes,
      rememberedNumber: request.hostNumber,
      atMs: nowMs,
    });
    this.#known.put(host);
    const machines = request.placements.flatMap(({ machine }) => (machine === undefined ? [] : [machine]));
    await this.#number(machines);
    // A host whose journal went back has forgotten Machines that run there: the directory keeps what it said before.
    if (!host.journalWentBack) {
      await this.#store.putPlacements(
        request.hostId,
        machines.map((machine) => placementOf(machine, request.hostId, nowMs)),
        nowMs - this.#silenceMs,
      );
    }
    const others = [...hosts.values()].filter((other) => other.id !== request.hostId);
    const directory = await this.#directory.exchange(request, host, others);
    const { version } = this.#known;
    return create(HeartbeatResponseSchema, {
      hostNumber: host.number,
      knownJournalCounter: knownCounter,
      journalWentBack: host.journalWentBack,
      intervalMs: this.#intervalMs,
      rosterVersion: version,
      roster: request.rosterVersion === version ? [] : others.map((other) => this.#describe(other, 0)),
      storeGeneration: this.#generation(),
      ...(directory === undefined ? {} : { directory }),
    });
  }

  /** The store is another one, or lacks its last writes: what was recorded is recorded again. */
  storeChanged(): void {
    this.#numbered.clear();
  }

  /** Makes the numbers of their networks known, once for all that report Machines of a network. */
  async #number(machines: readonly Machine[]): Promise<void> {
    const nowMs = this.#clock.monotonicMs();
    if (nowMs - this.#numberedSinceMs >= numberedMs) {
      this.#numbered.clear();
      this.#numberedSinceMs = nowMs;
    }
    for (const { network, privateIp } of machines) {
      if (network === '' || this.#numbered.has(network)) continue;
      await this.#store.networkNumber(network, networkOfAddress(privateIp));
      this.#numbered.add(network);
    }
  }

  /**
   * A report with an older journal is answered so at once, but believed only when the next one says it too: it may have waited in
   * the socket of a coordinator that stood still, while the agent went on and reported elsewhere.
   */
  async #suspect(request: HeartbeatRequest, nowMs: number): Promise<HeartbeatResponse | undefined> {
    const { hostId, journalId, journalCounter } = request;
    const known = await this.#store.host(hostId);
    // An agent that has not reported lately has no younger report that this one could have been late for.
    const isOlder =
      known?.journalId === journalId &&
      journalCounter < known.journalCounter &&
      nowMs - known.lastHeartbeatMs <= this.#silenceMs;
    const sinceMs = this.#suspectSinceMs.get(hostId);
    if (known === undefined || known.journalWentBack || !isOlder) {
      this.#suspectSinceMs.delete(hostId);
      return undefined;
    }
    const againMs = sinceMs === undefined ? Number.POSITIVE_INFINITY : nowMs - sinceMs;
    if (againMs >= this.#intervalMs / 2 && againMs <= suspectIntervalsMax * this.#intervalMs) return undefined;
    if (againMs > this.#intervalMs) this.#suspectSinceMs.set(hostId, nowMs);
    return create(HeartbeatResponseSchema, {
      hostNumber: known.number,
      knownJournalCounter: known.journalCounter,
      journalWentBack: true,
      intervalMs: this.#intervalMs,
      storeGeneration: this.#generation(),
    });
  }

  /** Two agents by one name or at one address: believing the second would turn the first one's Machines over to it. */
  #refuseDouble({ hostId, address, journalId }: HeartbeatRequest, hosts: ReadonlyMap<string, HostRow>): void {
    for (const host of hosts.values()) {
      if (this.status(host) !== HostStatus.OK) continue;
      const facts = { host: host.id, address: host.address };
      if (host.id === hostId && host.journalId !== journalId) {
        const text = `another agent reports as ${hostId} from ${host.address}, with another journal`;
        throw new FerryError('host_taken', text, { field: 'host_id', expected: 'a name of its own', facts });
      }
      if (host.id !== hostId && host.address === address) {
        const text = `host ${host.id} reports from ${address} too`;
        throw new FerryError('host_taken', text, { field: 'address', expected: 'an address of its own', facts });
      }
    }
  }

  get #silenceMs(): number {
    return missedMax * this.#intervalMs;
  }

  /** A host's row; throws unknown_host. */
  async host(hostId: string, field = 'host_id'): Promise<HostRow> {
    const row = await this.#store.host(hostId);
    if (row !== undefined) return row;
    throw new FerryError('unknown_host', `there is no host ${hostId}`, { field, facts: { host: hostId } });
  }

  async addressOf(hostId: string): Promise<string> {
    return (await this.host(hostId)).address;
  }

  /** All hosts, sorted by ID. */
  hosts(): Promise<readonly HostRow[]> {
    return this.#store.hosts();
  }

  /** Whether heartbeats arrive. After a start of the coordinator hosts have one silence time to report. */
  status(host: HostRow): HostStatus {
    const nowMs = this.#clock.nowMs();
    if (nowMs - host.lastHeartbeatMs <= this.#silenceMs) return HostStatus.OK;
    return nowMs - this.#startedMs <= this.#silenceMs ? HostStatus.UNKNOWN : HostStatus.UNREACHABLE;
  }

  /** The host as operators see it. */
  async describe(host: HostRow): Promise<Host> {
    const [placed, drain] = await Promise.all([
      this.#store.placements({ hostId: host.id }),
      this.#store.drainOfHost(host.id),
    ]);
    return this.#describe(host, placed.length, drain?.open === true ? drain.drain.id : '');
  }

  #describe(host: HostRow, machineCount: number, drainId = ''): Host {
    return create(HostSchema, {
      id: host.id,
      number: host.number,
      region: host.region,
      address: host.address,
      status: this.status(host),
      cordoned: host.cordoned,
      agentVersion: host.agentVersion,
      capacity: host.capacity,
      machineCount,
      lastHeartbeatAt: timestampFromMs(host.lastHeartbeatMs),
      reason: this.#reasonOf(host),
      capabilities: [...host.capabilities],
      drainId,
      ...(host.copyLimits === undefined ? {} : { copyLimits: host.copyLimits }),
      dnsAddress: host.dnsAddress,
      notes: [...host.notes],
    });
  }

  #reasonOf(host: HostRow): string {
    if (host.journalWentBack) {
      return 'its journal went back to an older copy: it starts nothing; restore the newer journal, then uncordon it';
    }
    if (this.status(host) === HostStatus.UNREACHABLE) {
      return `no heartbeat since ${new Date(host.lastHeartbeatMs).toISOString()}`;
    }
    return '';
  }

  /** Machines as last seen, with the status of their hosts. */
  async machines(filter: PlacementFilter): Promise<Machine[]> {
    const hosts = new Map((await this.#store.hosts()).map((host) => [host.id, host]));
    return (await this.#store.placements(filter)).map((placement) => {
      const host = hosts.get(placement.hostId);
      placement.machine.hostStatus = host === undefined ? HostStatus.UNREACHABLE : this.status(host);
      return placement.machine;
    });
  }

  /** Where a Machine is, as last seen; throws unknown_machine. */
  async placement(machineId: string): Promise<Placement> {
    const placement = await this.#store.placement(machineId);
    if (placement !== undefined) return placement;
    throw new FerryError('unknown_machine', `no host knows Machine ${machineId}`, {
      field: 'machine_id',
      facts: { machine: machineId },
    });
  }

  /** Records a Machine as an agent has just answered it. */
  async saw(machine: Machine, hostId: string): Promise<void> {
    await this.#store.putPlacement(placementOf(machine, hostId, this.#clock.nowMs()));
  }
}

function placementOf(machine: Machine, hostId: string, seenMs: number): Placement {
  const { id, epoch, network, app } = machine;
  machine.hostId = hostId;
  return { machineId: id, hostId, epoch, network, app, machine, seenMs };
}

/** The network number inside a 6PN address (fdaa, then 32 bits of network); 0 when there is none. */
function networkOfAddress(address: string): number {
  const match = /^fdaa:([0-9a-f]{1,4}):([0-9a-f]{1,4}):/.exec(address);
  return match === null ? 0 : Number.parseInt(match[1]!, 16) * 65_536 + Number.parseInt(match[2]!, 16);
}
