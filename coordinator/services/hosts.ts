import type { ServiceImpl } from '@connectrpc/connect';
import type { HostService } from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import type { HeartbeatRequest } from '../../proto/gen/ferry/v1/host_pb.ts';
import { HostStatus } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { FerryError, invalidArgument } from '../../shared/error.ts';
import { checkAddress, checkId } from '../../shared/ids.ts';
import type { Logger } from '../../shared/log.ts';
import type { Agents } from '../agents.ts';
import type { Rebuild } from '../rebuild/rebuild.ts';
import type { Roster } from '../roster.ts';
import type { Store } from '../store/store.ts';
import { boundedList, boundedText } from './validate.ts';

const placementsMax = 10_000;
const capabilitiesMax = 64;
const notesMax = 64;
const noteMax = 2000;

/** What hosts need. */
export interface HostParts {
  readonly store: Store;
  readonly roster: Roster;
  readonly agents: Agents;
  readonly log: Logger;
  readonly rebuild: Pick<Rebuild, 'heard' | 'forgive' | 'missing'>;
}

/** HostService: heartbeats of agents, and what operators want of hosts. */
export function hostService({ store, roster, agents, log, rebuild }: HostParts): ServiceImpl<typeof HostService> {
  const tellCordon = async (hostId: string, cordoned: boolean) => {
    await agents
      .machines(hostId, (client, options) => client.setCordon({ cordoned }, options), { timeoutMs: 2000 })
      // The agent's copy is for a lost store; its next heartbeat shows the difference and it is told again.
      .catch((error: unknown) => log.info({ host: hostId, err: error }, 'cordon not recorded at the host yet'));
  };

  /** Agents remember hosts for the day on which the store is lost; one that is silent now may have to be told again. */
  const forget = async (hostId: string) => {
    const others = (await roster.hosts()).filter(({ id }) => id !== hostId);
    await Promise.all(
      others.map(({ id }) =>
        agents
          .machines(id, (client, options) => client.forgetHost({ hostId }, options), { timeoutMs: 2000 })
          .catch((error: unknown) => log.info({ host: id, err: error }, `could not be told to forget ${hostId}`)),
      ),
    );
  };

  /** A drain keeps its host cordoned: it would be on again in a moment. */
  const requireNoDrain = async (hostId: string) => {
    const open = (await store.openDrains()).find(({ drain }) => drain.hostId === hostId);
    if (open === undefined) return;
    const { id } = open.drain;
    throw new FerryError('drain_exists', `host ${hostId} stays cordoned while drain ${id} empties it`, {
      field: 'host_id',
      facts: { host: hostId, drain: id },
      nextAction: `To end the drain and the cordon: "ferry drain cancel ${hostId} --uncordon".`,
    });
  };

  const cordon = async (hostId: string, cordoned: boolean) => {
    checkId('name', hostId, 'host_id');
    const { journalWentBack } = await roster.host(hostId);
    // Taking the cordon off is also the operator's word that a newer journal is back: never refused for a drain.
    if (!cordoned && !journalWentBack) await requireNoDrain(hostId);
    await store.setCordon(hostId, cordoned);
    const host = await roster.host(hostId);
    if (!cordoned && host.journalWentBack) {
      throw new FerryError('journal_went_back', `host ${hostId} stays cordoned: its journal is older than is known`, {
        field: 'host_id',
        facts: { host: hostId, journal_counter: String(host.journalCounter) },
      });
    }
    await tellCordon(hostId, host.cordoned);
    return { host: await roster.describe(host) };
  };

  return {
    heartbeat: async (request) => {
      checkHeartbeat(request);
      rebuild.heard(request.storeGeneration);
      const response = await roster.heartbeat(request);
      const { cordoned, journalWentBack } = await roster.host(request.hostId);
      if (journalWentBack) log.warn({ host: request.hostId }, 'the journal of this host went back');
      if (cordoned !== request.cordoned) void tellCordon(request.hostId, cordoned);
      return response;
    },

    listHosts: async () => ({
      hosts: await Promise.all((await roster.hosts()).map((host) => roster.describe(host))),
    }),

    getHostStatus: async ({ hostId }) => {
      const host = await roster.host(checkId('name', hostId, 'host_id'));
      return { host: await roster.describe(host), machines: await roster.machines({ hostId }) };
    },

    cordonHost: ({ hostId }) => cordon(hostId, true),
    uncordonHost: ({ hostId }) => cordon(hostId, false),

    setCopyLimitsOfHost: async ({ hostId, limits }) => {
      const host = await roster.host(checkId('name', hostId, 'host_id'));
      if (limits === undefined)
        throw invalidArgument('limits', 'is missing', 'both limits in bytes a second; 0 = none');
      await agents.machines(hostId, (client, options) => client.setCopyLimits({ limits }, options));
      return { host: await roster.describe({ ...host, copyLimits: limits }) };
    },

    removeHost: async ({ hostId }) => {
      checkId('name', hostId, 'host_id');
      if (rebuild.missing.includes(hostId)) {
        await forget(hostId);
        rebuild.forgive(hostId);
        return {};
      }
      const host = await roster.host(hostId);
      const owned = (await store.placements({ hostId })).length;
      if (owned > 0) {
        throw invalidArgument('host_id', `${hostId} owns ${owned} Machines`, 'a host that owns none: move them first');
      }
      if (roster.status(host) !== HostStatus.UNREACHABLE) {
        throw invalidArgument('host_id', `${hostId} still reports`, 'a host whose agent was stopped for good');
      }
      await store.removeHost(hostId);
      await forget(hostId);
      return {};
    },
  };
}

function checkHeartbeat(request: HeartbeatRequest): void {
  checkId('name', request.hostId, 'host_id');
  checkId('name', request.region, 'region');
  checkAddress(request.address, 'address');
  if (request.journalId === '') throw invalidArgument('journal_id', 'is empty', "the journal's random ID");
  boundedText(request.journalId, 'journal_id', 64);
  boundedText(request.agentVersion, 'agent_version', 64);
  boundedText(request.directoryId, 'directory_id', 64);
  boundedText(request.storeGeneration, 'store_generation', 64);
  boundedText(request.dnsAddress, 'dns_address', 300);
  for (const note of boundedList(request.notes, 'notes', notesMax)) boundedText(note, 'notes', noteMax);
  boundedList(request.capabilities, 'capabilities', capabilitiesMax);
  boundedList(request.placements, 'placements', placementsMax);
  boundedList(request.directory, 'directory', placementsMax);
  for (const [index, { machine }] of request.placements.entries()) {
    checkId('machine', machine?.id ?? '', `placements[${index}].machine.id`);
    checkId('name', machine?.network ?? '', `placements[${index}].machine.network`);
  }
}
