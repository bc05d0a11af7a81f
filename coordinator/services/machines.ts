import { create, type MessageInitShape } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import type { AgentSetMachineRequestSchema } from '../../proto/gen/ferry/v1/agent_pb.ts';
import type { MachineService, RunMachineRequest } from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import {
  HostStatus,
  type Machine,
  type MachineConfig,
  MachineConfigSchema,
  MachineState,
} from '../../proto/gen/ferry/v1/machine_pb.ts';
import { durationFromMs, durationToMs } from '../../shared/duration.ts';
import { FerryError, invalidArgument, toFerryError } from '../../shared/error.ts';
import { checkId, newMachineId } from '../../shared/ids.ts';
import { checkSignal, normalizeConfig } from '../../shared/machine-config.ts';
import type { Random } from '../../shared/random.ts';
import { type Agents, isSilence, named } from '../agents.ts';
import { chooseHost, requireHost } from '../placement/choose.ts';
import { readCluster } from '../placement/cluster.ts';
import { roomOf } from '../placement/room.ts';
import type { Roster } from '../roster.ts';
import type { Store } from '../store/store.ts';
import { boundedMs, optionalName } from './validate.ts';

const defaultNetwork = 'default';
/** Tries of a creation whose answer was lost; the ID makes repeating harmless. */
const createTriesMax = 3;
/** Time that an agent is given besides the stop timeout. */
const waitRoomMs = 5_000;
const startWaitMs = 10_000;
const holderTimeoutMs = 3_000;
const stopTimeoutMsMax = 300_000;
const tailLinesMax = 10_000;

/** What Machines need. */
export interface MachineParts {
  readonly store: Store;
  readonly roster: Roster;
  readonly agents: Agents;
  readonly random: Random;
}

/** MachineService: the agents are the truth; the directory says whom to ask and what was last seen. */
export function machineService(parts: MachineParts): ServiceImpl<typeof MachineService> {
  const set = (machineId: string, order: Order, waitMs: number) => setMachine(parts, machineId, order, waitMs);
  return {
    runMachine: async (request) => ({ machine: await runMachine(parts, request) }),

    listMachines: async ({ app, hostId }) => {
      optionalName(app, 'app');
      if (hostId !== '') await parts.roster.host(checkId('name', hostId, 'host_id'));
      const machines = await parts.roster.machines({
        ...(app === '' ? {} : { app }),
        ...(hostId === '' ? {} : { hostId }),
      });
      return { machines };
    },

    getMachine: async ({ machineId }) => {
      checkId('machine', machineId, 'machine_id');
      const machine = await seeMachine(parts, machineId);
      const volume = await volumeOf(parts, machine);
      return volume === undefined ? { machine } : { machine, volume };
    },

    startMachine: ({ machineId }) => set(machineId, { action: 'start' }, startWaitMs),

    stopMachine: async ({ machineId, signal, timeout }) => {
      if (signal !== '') checkSignal(signal, 'signal');
      boundedMs(timeout, 'timeout', { msMin: 0, msMax: stopTimeoutMsMax, fallbackMs: 0 });
      const waitMs = await stopWaitMs(parts, machineId, durationToMs(timeout));
      return set(machineId, { action: 'stop', signal, ...(timeout === undefined ? {} : { timeout }) }, waitMs);
    },

    restartMachine: async ({ machineId }) =>
      set(machineId, { action: 'restart' }, (await stopWaitMs(parts, machineId, undefined)) + startWaitMs),

    destroyMachine: async ({ machineId, force }) => {
      const waitMs = await stopWaitMs(parts, machineId, undefined);
      const { machine } = await set(machineId, { action: 'destroy', force }, waitMs);
      return machine === undefined ? {} : { machine };
    },

    machineLogs: async function* ({ machineId, tailLines, follow }, context) {
      checkId('machine', machineId, 'machine_id');
      if (tailLines > tailLinesMax) throw invalidArgument('tail_lines', `is ${tailLines}`, `at most ${tailLinesMax}`);
      const { hostId } = await parts.roster.placement(machineId);
      const client = await parts.agents.streams(hostId);
      try {
        // A log that is followed has no deadline; it ends with the caller.
        const options = follow ? { signal: context.signal, timeoutMs: 0 } : { signal: context.signal };
        for await (const { line } of client.agentMachineLogs({ machineId, tailLines, follow }, options)) yield { line };
      } catch (error) {
        throw named(error, hostId);
      }
    },
  };
}

type Order = Omit<
  MessageInitShape<typeof AgentSetMachineRequestSchema>,
  '$typeName' | '$unknown' | 'machineId' | 'wait'
>;

async function runMachine(parts: MachineParts, request: RunMachineRequest): Promise<Machine> {
  const { store, roster, agents, random } = parts;
  const app = checkId('name', request.app, 'app');
  optionalName(request.name, 'name');
  optionalName(request.network, 'network');
  optionalName(request.region, 'region');
  optionalName(request.hostId, 'host_id');
  const config = normalizeConfig(request.config ?? create(MachineConfigSchema), 'config');
  const siblings = await store.placements({ app });
  const network = networkOf(request, siblings[0]?.network);
  const machineId = newMachineId(random);
  const name = request.name === '' ? `${app.slice(0, 48)}-${machineId.slice(0, 8)}` : request.name;
  if (siblings.some((sibling) => sibling.machine.name === name)) {
    throw new FerryError('machine_exists', `app ${app} has a Machine ${name} already`, { field: 'name' });
  }
  const host = await hostFor(parts, request, config);
  const networkNumber = await store.networkNumber(network, 0);
  const { skipLaunch } = request;
  for (let attempt = 1; ; attempt += 1) {
    try {
      const { machine } = await agents.machines(
        host.id,
        (client, options) =>
          client.createMachine({ machineId, name, app, network, networkNumber, config, skipLaunch }, options),
        { timeoutMs: 60_000 },
      );
      if (machine === undefined) throw new FerryError('internal', `host ${host.id} answered without a Machine`);
      await roster.saw(machine, host.id);
      machine.hostStatus = HostStatus.OK;
      return machine;
    } catch (thrown) {
      const error = toFerryError(thrown);
      if (!isSilence(error) || attempt >= createTriesMax) throw error;
    }
  }
}

async function hostFor(parts: MachineParts, request: RunMachineRequest, config: MachineConfig) {
  const { store, roster } = parts;
  const { app, region, hostId } = request;
  const { sites } = await readCluster(store, roster);
  const room = roomOf(config);
  const need = { app, room, mount: false, region, to: new Set<string>(), not: new Map<string, string>() };
  if (hostId === '') {
    const volumeId = config.mounts.find(({ volume }) => volume !== '')?.volume;
    const holder = volumeId === undefined ? undefined : await holderOf(parts, volumeId);
    return chooseHost(sites.values(), holder === undefined ? need : { ...need, to: new Set([holder]) });
  }
  const host = await roster.host(hostId);
  requireHost(sites.get(hostId)!, need, 'host_id');
  return host;
}

/** The host that has a volume, as far as hosts answer: a Machine runs where its volume is. */
async function holderOf({ roster, agents }: MachineParts, volumeId: string): Promise<string | undefined> {
  const reporting = (await roster.hosts()).filter((host) => roster.status(host) === HostStatus.OK);
  const found = await Promise.all(
    reporting.map(async ({ id }) => {
      const call = { timeoutMs: holderTimeoutMs };
      const { volumes } = await agents
        .machines(id, (client, options) => client.agentListVolumes({}, options), call)
        .catch(() => ({ volumes: [] }));
      return volumes.some((volume) => volume.id === volumeId) ? [id] : [];
    }),
  );
  return found.flat()[0];
}

function networkOf({ app, network }: RunMachineRequest, known: string | undefined): string {
  if (known === undefined) return network === '' ? defaultNetwork : network;
  if (network === '' || network === known) return known;
  throw invalidArgument('network', `is ${network}, but app ${app} is in network ${known}`, `${known}, or another app`);
}

/** The Machine from its host, or as last seen when the host is silent. */
async function seeMachine({ roster, agents }: MachineParts, machineId: string): Promise<Machine> {
  const placement = await roster.placement(machineId);
  const { hostId } = placement;
  try {
    const { machine } = await agents.machines(
      hostId,
      (client, options) => client.agentGetMachine({ machineId }, options),
      {
        timeoutMs: 3000,
      },
    );
    if (machine === undefined) throw new FerryError('internal', `host ${hostId} answered without a Machine`);
    machine.hostId = hostId;
    machine.hostStatus = HostStatus.OK;
    return machine;
  } catch (thrown) {
    const error = toFerryError(thrown);
    // On its way between two hosts, or its host is silent: what was last seen is the best answer.
    const known = error.reason === 'unknown_machine' || error.reason === 'not_owner' || error.reason === 'unknown_host';
    if (!known && !isSilence(error)) throw error;
    const { machine } = placement;
    machine.hostStatus = known ? HostStatus.UNKNOWN : HostStatus.UNREACHABLE;
    machine.reason = error.message;
    return machine;
  }
}

async function volumeOf({ agents }: MachineParts, machine: Machine) {
  if (machine.volumeId === '' || machine.hostStatus !== HostStatus.OK) return undefined;
  const { volumes } = await agents.machines(machine.hostId, (client, options) => client.agentListVolumes({}, options));
  return volumes.find((volume) => volume.id === machine.volumeId);
}

async function stopWaitMs({ roster }: MachineParts, machineId: string, timeoutMs: number | undefined): Promise<number> {
  checkId('machine', machineId, 'machine_id');
  const { machine } = await roster.placement(machineId);
  return (timeoutMs ?? durationToMs(machine.config?.stopConfig?.timeout) ?? 5000) + waitRoomMs;
}

async function setMachine({ store, roster, agents }: MachineParts, machineId: string, order: Order, waitMs: number) {
  checkId('machine', machineId, 'machine_id');
  const { hostId } = await roster.placement(machineId);
  const { machine, note } = await agents.machines(
    hostId,
    (client, options) => client.agentSetMachine({ ...order, machineId, wait: durationFromMs(waitMs) }, options),
    { timeoutMs: waitMs + waitRoomMs },
  );
  if (machine === undefined) return { note };
  if (machine.state === MachineState.DESTROYED) await store.removePlacement(machineId);
  else await roster.saw(machine, hostId);
  machine.hostStatus = HostStatus.OK;
  return { machine, note };
}
