// Longer than usual: the whole contract of an agent towards a coordinator, in memory, for the coordinator's own tests.
import { create, type DescService } from '@bufbuild/protobuf';
import {
  type Client,
  type ConnectRouter,
  createClient,
  createRouterTransport,
  type Interceptor,
  type Transport,
} from '@connectrpc/connect';
import { AgentService } from '../../proto/gen/ferry/v1/agent_pb.ts';
import type { DirectoryRow } from '../../proto/gen/ferry/v1/directory_pb.ts';
import {
  type Handover,
  HandoverSchema,
  HandoverService,
  type OrderHeader,
  SignedStatementSchema,
} from '../../proto/gen/ferry/v1/handover_pb.ts';
import { type CopyLimits, HeartbeatRequestSchema } from '../../proto/gen/ferry/v1/host_pb.ts';
import type { Permit } from '../../proto/gen/ferry/v1/lock_pb.ts';
import {
  DesiredState,
  DowntimeSchema,
  type Machine,
  MachineSchema,
  MachineState,
} from '../../proto/gen/ferry/v1/machine_pb.ts';
import { PrecopyReportSchema } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { directoryRowOf } from '../../shared/directory-row.ts';
import { FerryError, toConnectError } from '../../shared/error.ts';
import type { Clients } from '../agents.ts';

/** What a test does at a call: throw to refuse it, return to let it through. */
export type Script = (when: 'before' | 'after') => void | Promise<void>;

/** All fake hosts of a test, and clients that reach them. */
export class FakeWorld implements Clients {
  readonly agents = new Map<string, FakeAgent>();
  /** Orders in the order in which agents obeyed them, as "host.method". */
  readonly log: string[] = [];
  /** Machines of one network that were stopped by migrations at the same time: must stay at 1. */
  downMax = 0;
  readonly #transports = new Map<string, Transport>();

  add(host: string, options: { region?: string } = {}): FakeAgent {
    const agent = new FakeAgent(this, host, options.region ?? 'test');
    this.agents.set(host, agent);
    this.#transports.set(
      agent.address,
      createRouterTransport((router) => agent.routes(router), { router: { interceptors: [scripted(agent)] } }),
    );
    return agent;
  }

  client<S extends DescService>(service: S, address: string): Client<S> {
    return createClient(service, this.#transports.get(address)!);
  }

  /** The hosts on which the Machine's process runs. */
  runningOn(machineId: string): string[] {
    return [...this.agents.values()].filter((agent) => agent.runs(machineId)).map((agent) => agent.host);
  }

  networkOf(machineId: string): string {
    const known = [...this.agents.values()].map((agent) => agent.machines.get(machineId)?.network);
    return known.find((network) => network !== undefined) ?? '';
  }

  countDown(): void {
    const down = [...this.agents.values()].flatMap((agent) => agent.downNetworks());
    for (const network of down) this.downMax = Math.max(this.downMax, down.filter((other) => other === network).length);
  }
}

function scripted(agent: FakeAgent): Interceptor {
  return (next) => async (request) => {
    try {
      if (agent.silent) throw new FerryError('unreachable', 'nobody is there');
      const script = agent.scripts.get(request.method.localName);
      await script?.('before');
      const response = await next(request);
      await script?.('after');
      if (agent.silent) throw new FerryError('unreachable', 'nobody is there');
      agent.world.log.push(`${agent.host}.${request.method.localName}`);
      agent.world.countDown();
      return response;
    } catch (error) {
      throw toConnectError(error);
    }
  };
}

interface Row {
  handover: Handover;
  peer: string;
  epoch: bigint;
  held: boolean;
}

/** One fake agent: obeys orders as the hand-over protocol says, without processes or bytes. */
export class FakeAgent {
  readonly world: FakeWorld;
  readonly host: string;
  readonly region: string;
  readonly machines = new Map<string, Machine>();
  readonly rows = new Map<string, Row>();
  readonly permits = new Map<string, { holder: string; fence: bigint }>();
  /** Directory rows that came with released permits. */
  readonly told: DirectoryRow[] = [];
  /** Highest driver term seen, by migration. */
  readonly terms = new Map<string, bigint>();
  /** By method name. */
  readonly scripts = new Map<string, Script>();
  /** Answers nothing, not even heartbeats. */
  silent = false;
  /** Copies go on here without ever bringing a byte. */
  copiesNothing = false;
  /** Machines that arrive here do not become healthy. */
  sick = false;
  /** Only these Machines do not become healthy here. */
  readonly sickMachines = new Set<string>();
  /** What a sick host says about a Machine. */
  sickAs: 'starting' | 'unhealthy' = 'starting';
  cordoned = false;
  copyLimits: CopyLimits | undefined;
  journalCounter = 1n;
  hostNumber = 0;
  /** Generation of the store that it last reported to. */
  storeGeneration = '';
  /** Hosts that it remembers. */
  readonly remembered = new Map<string, string>();
  /** How a copy of the running Machine goes; empty = this agent makes none. */
  precopyEnds: string[] = ['fits'];
  precopyMode = 'snapshots';
  /** Copies of running Machines bring nothing here. */
  precopyStuck = false;
  drain: { drainId: string; drain: Uint8Array } = { drainId: '', drain: new Uint8Array() };

  constructor(world: FakeWorld, host: string, region: string) {
    this.world = world;
    this.host = host;
    this.region = region;
  }

  get address(): string {
    return `${this.host}:1`;
  }

  /** Puts a Machine here that runs. */
  give(id: string, network = 'alpha', app = 'shop'): Machine {
    const machine = create(MachineSchema, {
      id,
      name: `m-${id.slice(0, 4)}`,
      app,
      network,
      state: MachineState.STARTED,
      desiredState: DesiredState.STARTED,
      hostId: this.host,
      epoch: 1n,
      config: { image: '/bin/true' },
    });
    this.machines.set(id, machine);
    return machine;
  }

  runs(id: string): boolean {
    return this.machines.get(id)?.state === MachineState.STARTED;
  }

  /** Networks of Machines that a migration keeps down here. */
  downNetworks(): string[] {
    const down = (row: Row) => ['stopping', 'stopped', 'relinquished'].includes(row.handover.step);
    return [...this.rows.values()]
      .filter((row) => row.handover.role === 'source' && down(row) && this.#stillDown(row))
      .map((row) => row.handover.network);
  }

  #stillDown(row: Row): boolean {
    if (row.handover.step !== 'relinquished') return true;
    const there = this.world.agents.get(row.peer)?.rows.get(row.handover.migrationId);
    return there?.handover.step !== 'owner';
  }

  heartbeat() {
    this.journalCounter += 1n;
    return create(HeartbeatRequestSchema, {
      hostId: this.host,
      region: this.region,
      address: this.address,
      agentVersion: '0.1.0',
      journalCounter: this.journalCounter,
      journalId: `journal-${this.host}`,
      hostNumber: this.hostNumber,
      cordoned: this.cordoned,
      ...(this.copyLimits === undefined ? {} : { copyLimits: this.copyLimits }),
      storeGeneration: this.storeGeneration,
      capacity: { cpus: 4, memoryMb: 8192n, volumeFreeBytes: 1n << 40n },
      placements: [...this.machines.values()]
        .filter((machine) => machine.state !== MachineState.MIGRATED)
        .map((machine) => ({ machine })),
    });
  }

  routes(router: ConnectRouter): void {
    router.service(AgentService, {
      createMachine: (request) => {
        const known = this.machines.get(request.machineId);
        if (known !== undefined) return { machine: known };
        const machine = this.give(request.machineId, request.network, request.app);
        machine.name = request.name;
        if (request.config) machine.config = request.config;
        return { machine };
      },
      agentGetMachine: ({ machineId }) => ({ machine: this.#machine(machineId) }),
      agentListMachines: () => ({ machines: [...this.machines.values()] }),
      agentSetMachine: ({ machineId, action }) => {
        const machine = this.#machine(machineId);
        if (action === 'stop') machine.state = MachineState.STOPPED;
        if (action === 'start' || action === 'restart') machine.state = MachineState.STARTED;
        if (action === 'destroy') machine.state = MachineState.DESTROYED;
        return { machine };
      },
      agentListVolumes: () => ({ volumes: [] }),
      setCordon: ({ cordoned }) => {
        this.cordoned = cordoned;
        return {};
      },
      setCopyLimits: ({ limits }) => {
        this.copyLimits = limits;
        return {};
      },
      getHost: () => ({ rememberedHosts: [...this.remembered].map(([id, address]) => ({ id, address })) }),
      forgetHost: ({ hostId }) => {
        this.remembered.delete(hostId);
        return {};
      },
      setDrain: ({ drainId, drain }) => {
        this.drain = { drainId, drain };
        return {};
      },
      getDrainRecord: () => this.drain,
    });
    router.service(HandoverService, {
      offer: (request) => this.#offer(request.header!, request.machineId, request.destination!.hostId),
      prepare: (request) =>
        this.#prepare(request.header!, request.record!.machineId, request.source!.hostId, request.epoch),
      grantPermit: ({ permit }) => this.#grant(permit!),
      releasePermit: ({ permit, directory }) => {
        if (directory !== undefined) this.told.push(directory);
        return this.#release(permit!);
      },
      listPermits: () => ({
        permits: [...this.permits].flatMap(([network, { holder: migrationId, fence }]) =>
          migrationId === '' ? [] : [{ network, migrationId, fence }],
        ),
      }),
      stopForMigration: ({ header }) => this.#stop(header!),
      precopy: ({ header, lastRound }) => this.#precopy(header!, lastRound),
      copy: ({ header }) => this.#copy(header!),
      relinquish: ({ header, destinationRoot }) => this.#relinquish(header!, destinationRoot),
      accept: ({ header }) => this.#accept(header!),
      settle: ({ header }) => this.#settle(header!),
      abort: ({ header, machineId }) => this.#abort(header!, machineId),
      decline: ({ header, machineId, source }) => this.#decline(header!, machineId, source),
      takeBack: ({ header }) => this.#takeBack(header!),
      acceptMachineDown: ({ header }) => ({ handover: this.#show(header!.migrationId) }),
      getHandover: ({ migrationId }) => ({ handover: this.#show(migrationId) }),
      listHandovers: ({ openOnly }) => {
        const shown = [...this.rows.keys()].map((id) => this.#show(id));
        return { handovers: shown.filter(({ standing }) => !openOnly || standing === 'active') };
      },
    });
  }

  #machine(id: string): Machine {
    const machine = this.machines.get(id);
    if (machine === undefined) throw new FerryError('unknown_machine', `no Machine ${id} here`);
    return machine;
  }

  /** Drivers are told apart for each migration. */
  #heed({ migrationId, term }: OrderHeader): void {
    const seen = this.terms.get(migrationId) ?? 0n;
    if (term < seen) {
      throw new FerryError('stale_term', `term ${term} is below ${seen}`, { facts: { seen: String(seen) } });
    }
    this.terms.set(migrationId, term);
    const row = this.rows.get(migrationId);
    if (row !== undefined) row.handover.term = term;
  }

  #row(header: OrderHeader, role: string): Row {
    this.#heed(header);
    const row = this.rows.get(header.migrationId);
    if (row === undefined || row.handover.role !== role) {
      throw new FerryError('unknown_migration', `no hand-over ${header.migrationId} here`);
    }
    if (['aborted', 'returned', 'declined'].includes(row.handover.step)) {
      throw new FerryError('burnt', `the hand-over is ${row.handover.step} here`);
    }
    return row;
  }

  #show(migrationId: string): Handover {
    const row = this.rows.get(migrationId);
    if (row === undefined) return create(HandoverSchema, { migrationId, role: 'unknown' });
    const { handover } = row;
    const machine = this.machines.get(handover.machineId);
    const up = machine?.state === MachineState.STARTED;
    switch (handover.step) {
      case 'aborted':
      case 'returned':
        handover.standing = 'over';
        break;
      case 'relinquished':
      case 'tombstoned':
        handover.standing = 'handed-over';
        break;
      case 'owner':
        handover.health = up ? (this.sick || this.sickMachines.has(handover.machineId) ? this.sickAs : 'healthy') : '';
        handover.standing = handover.health === 'healthy' ? 'up-here' : 'active';
        if (machine !== undefined) handover.directory = directoryRowOf({ ...machine, hostId: this.host });
        break;
      default:
        handover.standing = 'active';
    }
    return handover;
  }

  #begin(header: OrderHeader, role: string, machineId: string, step: string, peer: string, epoch: bigint): Row {
    const known = this.rows.get(header.migrationId);
    if (known !== undefined) return known;
    const { migrationId } = header;
    const row: Row = {
      handover: create(HandoverSchema, {
        migrationId,
        machineId,
        role,
        step,
        epoch,
        peer,
        term: header.term,
        network: this.machines.get(machineId)?.network ?? this.world.networkOf(machineId),
        lockHolder: header.lockHolder,
      }),
      peer,
      epoch,
      held: false,
    };
    this.rows.set(migrationId, row);
    return row;
  }

  #offer(header: OrderHeader, machineId: string, destination: string) {
    this.#heed(header);
    const machine = this.#machine(machineId);
    if (machine.state === MachineState.MIGRATED) throw new FerryError('not_owner', `${machineId} was given away`);
    const row = this.#begin(header, 'source', machineId, 'offered', destination, machine.epoch);
    if (row.handover.step === 'aborted') throw new FerryError('burnt', 'aborted here');
    row.handover.network = machine.network;
    const { name, app, network, config } = machine;
    return {
      handover: this.#show(header.migrationId),
      network,
      record: { machineId, name, app, network, ...(config && { config }) },
    };
  }

  #prepare(header: OrderHeader, machineId: string, source: string, epoch: bigint) {
    this.#heed(header);
    const row = this.#begin(header, 'destination', machineId, 'prepared', source, epoch);
    if (row.handover.step === 'declined') throw new FerryError('burnt', 'declined here');
    row.handover.volumeId = 'vol_0000000000000000';
    return { handover: this.#show(header.migrationId) };
  }

  #grant({ network, migrationId, fence }: Permit) {
    const held = this.permits.get(network);
    if (held !== undefined && held.holder !== '' && held.holder !== migrationId) {
      throw new FerryError('permit_refused', `held by ${held.holder}`, { facts: { holder: held.holder } });
    }
    const seen = held?.fence ?? 0n;
    if (held?.holder === migrationId ? fence < seen : fence <= seen) {
      throw new FerryError('stale_fence', `fence ${fence} is not above ${seen}`, { facts: { seen: String(seen) } });
    }
    this.permits.set(network, { holder: migrationId, fence });
    return { permit: { network, migrationId, fence } };
  }

  #release({ network, migrationId, fence }: Permit) {
    const held = this.permits.get(network);
    if (held?.holder !== migrationId || held.fence !== fence) return { released: false };
    this.permits.set(network, { holder: '', fence });
    return { released: true };
  }

  #stop(header: OrderHeader) {
    const row = this.#row(header, 'source');
    if (!['offered', 'stopped'].includes(row.handover.step))
      throw new FerryError('too_late', 'the Machine is given away');
    if (row.handover.step === 'offered') {
      const permit = this.permits.get(row.handover.network);
      if (permit?.holder !== header.lockHolder) throw new FerryError('no_permit', 'no permit here');
      row.held = true;
      row.handover.step = 'stopped';
      row.handover.root = `root-${row.handover.machineId}`;
      this.#machine(row.handover.machineId).state = MachineState.MIGRATING;
    }
    return { handover: this.#show(header.migrationId) };
  }

  #precopy(header: OrderHeader, lastRound: boolean) {
    const { handover } = this.#row(header, 'destination');
    if (this.precopyEnds.length === 0) throw new FerryError('unsupported', 'this agent copies stopped volumes only');
    const before = handover.precopy;
    const number = (before?.rounds.length ?? 0) + 1;
    const isDecided = before !== undefined && before.ended !== '';
    if ((this.precopyStuck && !lastRound) || (isDecided && !lastRound))
      return { handover: this.#show(header.migrationId) };
    const ended = isDecided ? before.ended : (this.precopyEnds[number - 1] ?? this.precopyEnds.at(-1)!);
    handover.precopy = create(PrecopyReportSchema, {
      mode: this.precopyMode,
      rounds: [...(before?.rounds ?? []), { number, changedBytes: 1000n }],
      ended,
      predictedFinalMs: 900n,
    });
    return { handover: this.#show(header.migrationId) };
  }

  #copy(header: OrderHeader) {
    const row = this.#row(header, 'destination');
    if (row.handover.step === 'prepared' && !this.copiesNothing) {
      row.handover.step = 'verified';
      row.handover.root = `root-${row.handover.machineId}`;
    }
    return { handover: this.#show(header.migrationId) };
  }

  #relinquish(header: OrderHeader, destinationRoot: string) {
    const row = this.#row(header, 'source');
    if (row.handover.step === 'stopped') {
      if (destinationRoot !== row.handover.root) throw new FerryError('root_mismatch', 'roots differ');
      row.handover.step = 'relinquished';
      row.handover.statement = create(SignedStatementSchema, { kind: 'Ticket' });
      this.#machine(row.handover.machineId).state = MachineState.MIGRATED;
    }
    return { handover: this.#show(header.migrationId) };
  }

  #accept(header: OrderHeader) {
    const row = this.#row(header, 'destination');
    const { machineId } = row.handover;
    if (row.handover.step !== 'owner') {
      row.handover.step = 'owner';
      row.handover.statement = create(SignedStatementSchema, { kind: 'Settlement' });
      row.handover.downtime = create(DowntimeSchema, { totalMs: 42n });
      const record = this.world.agents.get(row.peer)!.machines.get(machineId)!;
      const machine = this.give(machineId, record.network, record.app);
      machine.epoch = row.epoch;
    }
    return { handover: this.#show(header.migrationId) };
  }

  #settle(header: OrderHeader) {
    const row = this.#row(header, 'source');
    if (row.handover.step === 'relinquished') row.handover.step = 'tombstoned';
    return { handover: this.#show(header.migrationId) };
  }

  #abort(header: OrderHeader, machineId: string) {
    this.#heed(header);
    const row = this.#begin(header, 'source', machineId, 'aborted', '', 0n);
    if (row.handover.step === 'relinquished' || row.handover.step === 'tombstoned') {
      throw new FerryError('too_late', 'the Machine is given away');
    }
    if (row.handover.step !== 'aborted' && row.handover.step !== 'returned') {
      row.handover.step = 'aborted';
      this.#backUp(row);
    }
    return { handover: this.#show(header.migrationId) };
  }

  #backUp(row: Row): void {
    if (!row.held) return;
    const machine = this.#machine(row.handover.machineId);
    machine.state = MachineState.STARTED;
    machine.epoch = row.epoch + 2n;
  }

  #decline(header: OrderHeader, machineId: string, source: string) {
    this.#heed(header);
    const row = this.#begin(header, 'destination', machineId, 'declined', source, 0n);
    if (row.handover.step === 'owner') throw new FerryError('too_late', 'the Machine is owned here');
    row.handover.step = 'declined';
    row.handover.statement = create(SignedStatementSchema, { kind: 'Decline' });
    return { handover: this.#show(header.migrationId) };
  }

  #takeBack(header: OrderHeader) {
    const row = this.rows.get(header.migrationId)!;
    if (row.handover.step === 'relinquished') {
      row.handover.step = 'returned';
      this.#backUp(row);
    }
    return { handover: this.#show(header.migrationId) };
  }
}
