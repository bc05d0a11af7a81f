// Past 300 lines because it is one noun: what a coordinator asks of one host's Machines and volumes, one method each.
import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { ServiceImpl } from '@connectrpc/connect';
import type { Export } from '../nbd/export.ts';
import type { AgentService } from '../proto/gen/ferry/v1/agent_pb.ts';
import type { Host } from '../proto/gen/ferry/v1/host_pb.ts';
import { MachineEventSchema } from '../proto/gen/ferry/v1/machine_pb.ts';
import { type Volume, VolumeSchema, VolumeState } from '../proto/gen/ferry/v1/volume_pb.ts';
import type { Clock } from '../shared/clock.ts';
import { durationToMs } from '../shared/duration.ts';
import { FerryError, invalidArgument } from '../shared/error.ts';
import { checkId } from '../shared/ids.ts';
import type { Logger } from '../shared/log.ts';
import type { HostCopyLimits } from './copy-limits.ts';
import type { Exports } from './exports.ts';
import {
  type DifferingCopy,
  differenceOf,
  isDiffering,
  keptAfter,
  refuseDiffering,
} from './handover/differing-copy.ts';
import type { Handovers } from './handover/handovers.ts';
import type { ImportFolder } from './import-folder.ts';
import type { Journal, VolumeRow } from './journal.ts';
import { readStopSignal, readStopTimeoutMs } from './machines/config.ts';
import type { Machines } from './machines/machines.ts';
import type { VolumeStream } from './volume-stream.ts';
import { ferryErrorOf } from './volumes/ferry-error.ts';
import type { Files } from './volumes/files.ts';
import { readFilesystem } from './volumes/filesystem.ts';
import type { VolumeInfo } from './volumes/info.ts';
import type { VolumeStore } from './volumes/store.ts';
import { validSize } from './volumes/validate.ts';

const waitMaxMs = 330_000;
const logLinesMax = 10_000;
const exportMs = 10 * 60_000;
const exportMsMax = 24 * 3_600_000;
const exportConnectionsMax = 64;
const drainBytesMax = 1_048_576;
const eventCharsMax = 2000;
const orderedByMax = 200;

/** What the service works with. */
export interface AgentServiceOptions {
  readonly host: string;
  readonly nbdHost: string;
  readonly journal: Journal;
  readonly machines: Machines;
  readonly handovers: Pick<Handovers, 'source'>;
  readonly volumes: VolumeStore;
  readonly files: Files;
  readonly exports: Exports;
  readonly openVolume: (volumeId: string) => Promise<Export>;
  readonly stream: VolumeStream;
  readonly copyLimits: HostCopyLimits;
  readonly imports: ImportFolder;
  readonly clock: Clock;
  readonly log: Logger;
  readonly retentionMs: number;
  /** Bytes for volumes that nobody was promised. */
  readonly freeBytes: () => Promise<number>;
  readonly describeHost: () => Promise<Host>;
  /** Something changed that the coordinator should hear of. */
  readonly changed: () => void;
}

const actions = ['start', 'stop', 'restart', 'destroy'] as const;

/** Machines and volumes of this host, for a coordinator. */
export class AgentRoutes implements ServiceImpl<typeof AgentService> {
  readonly #options: AgentServiceOptions;

  constructor(options: AgentServiceOptions) {
    this.#options = options;
  }

  createMachine: ServiceImpl<typeof AgentService>['createMachine'] = async (request) => {
    const { machines, changed } = this.#options;
    const { name, app, network, networkNumber, config } = request;
    if (config === undefined) throw invalidArgument('config', 'is missing', 'a Machine config');
    if (networkNumber === 0) throw invalidArgument('network_number', 'is 0', 'the number of the network');
    const machine = await machines
      .create({
        machineId: checkId('machine', request.machineId, 'machine_id'),
        name: checkId('name', name, 'name'),
        app: checkId('name', app, 'app'),
        network: checkId('name', network, 'network'),
        networkNumber,
        config,
        start: !request.skipLaunch,
      })
      .catch((error) => Promise.reject(ferryErrorOf(error)));
    changed();
    return { machine };
  };

  agentGetMachine: ServiceImpl<typeof AgentService>['agentGetMachine'] = (request) => ({
    machine: this.#options.machines.get(checkId('machine', request.machineId, 'machine_id')),
  });

  agentListMachines: ServiceImpl<typeof AgentService>['agentListMachines'] = () => ({
    machines: this.#options.machines.list(),
  });

  agentSetMachine: ServiceImpl<typeof AgentService>['agentSetMachine'] = async (request, context) => {
    const { machines, changed } = this.#options;
    const machineId = checkId('machine', request.machineId, 'machine_id');
    const action = actions.find((known) => known === request.action);
    if (action === undefined) {
      throw invalidArgument('action', `is ${JSON.stringify(request.action)}`, `one of ${actions.join(', ')}`);
    }
    const timeoutMs = durationToMs(request.timeout);
    const note = await machines.order(machineId, action, {
      force: request.force,
      ...(request.signal === '' ? {} : { signal: readStopSignal(request.signal, 'signal') }),
      ...(timeoutMs === undefined ? {} : { timeoutMs: readStopTimeoutMs(timeoutMs, 'timeout') }),
    });
    const waitMs = Math.min(waitMaxMs, durationToMs(request.wait) ?? 0);
    if (waitMs > 0) await machines.settled(machineId, AbortSignal.any([AbortSignal.timeout(waitMs), context.signal]));
    changed();
    return { machine: machines.get(machineId), note };
  };

  async *agentMachineLogs(
    ...[request, context]: Parameters<ServiceImpl<typeof AgentService>['agentMachineLogs']>
  ): AsyncIterable<{ line: string }> {
    const machineId = checkId('machine', request.machineId, 'machine_id');
    const { tailLines, follow } = request;
    if (tailLines > logLinesMax) throw invalidArgument('tail_lines', `is ${tailLines}`, `at most ${logLinesMax}`);
    const options = { tailLines: tailLines || 100, follow, signal: context.signal };
    for await (const line of this.#options.machines.logs(machineId, options)) yield { line };
  }

  agentCreateVolume: ServiceImpl<typeof AgentService>['agentCreateVolume'] = async (request) => {
    const { volumes, journal, clock, imports, freeBytes } = this.#options;
    const volumeId = checkId('volume', request.volumeId, 'volume_id');
    const name = checkId('name', request.name, 'name');
    const file = request.fromPath === '' ? null : await imports.find(request.fromPath);
    const sizeBytes = file !== null && request.sizeBytes === 0n ? file.sizeBytes : readSize(request.sizeBytes);
    if (file !== null && file.sizeBytes > sizeBytes)
      throw invalidArgument('size_bytes', `is ${sizeBytes}`, `0, or at least the ${file.sizeBytes} bytes of the file`);
    const there = await volumes.inspect(volumeId).catch((error) => Promise.reject(ferryErrorOf(error)));
    if (there !== null && there.sizeBytes !== sizeBytes) {
      throw new FerryError('volume_exists', `volume ${volumeId} is here with ${there.sizeBytes} bytes`, {
        field: 'volume_id',
      });
    }
    if (there === null && file !== null) {
      const free = await freeBytes();
      if (free < file.allocatedBytes) {
        throw new FerryError('no_space', `${file.path} takes ${file.allocatedBytes} bytes, free are ${free}`, {
          facts: { host: this.#options.host, free: String(free), needed: String(file.allocatedBytes) },
        });
      }
    }
    await volumes
      .create({ volumeId, sizeBytes, epoch: 1, ...(file === null ? {} : { from: file.path }) })
      .catch((error) => Promise.reject(ferryErrorOf(error)));
    const known = journal.volume(volumeId);
    if (known === undefined) {
      const row = {
        id: volumeId,
        name,
        machineId: '',
        sizeBytes,
        createdAtMs: clock.nowMs(),
        kept: null,
      };
      journal.write(() => journal.putVolume(row));
    }
    return { volume: await this.#volume(volumeId) };
  };

  agentListVolumes: ServiceImpl<typeof AgentService>['agentListVolumes'] = async () => {
    const { volumes, journal } = this.#options;
    const { volumes: found } = await volumes.list();
    return { volumes: await Promise.all(found.map((info) => this.#describe(info, journal.volume(info.volumeId)))) };
  };

  agentDestroyVolume: ServiceImpl<typeof AgentService>['agentDestroyVolume'] = async (request) => {
    const { volumes, journal } = this.#options;
    const volumeId = checkId('volume', request.volumeId, 'volume_id');
    const row = this.#row(volumeId);
    const after = keptAfter(journal, row);
    if (isDiffering(after)) {
      if (!request.force) refuseDiffering(after);
      await this.#acceptDifference(row, after, request.orderedBy);
      return { volume: await this.#volume(volumeId) };
    }
    if (row.kept === null && after !== null) {
      throw new FerryError(
        'volume_in_use',
        `volume ${volumeId} is kept: ${after.migrationId} gave its Machine up, and is ${after.state.step}, not settled`,
        { field: 'volume_id', nextAction: `See "ferry migration status ${after.migrationId}".` },
      );
    }
    if (row.machineId !== '' && row.kept === null) {
      throw new FerryError('volume_in_use', `volume ${volumeId} belongs to Machine ${row.machineId}`, {
        field: 'volume_id',
      });
    }
    if (row.kept !== null) {
      throw new FerryError(
        'volume_in_use',
        `volume ${volumeId} is kept after ${row.kept.migrationId} until its time is over`,
        {
          field: 'volume_id',
          nextAction: 'Wait: it is deleted by itself when its retention time is over.',
        },
      );
    }
    await volumes.destroy(volumeId).catch((error) => Promise.reject(ferryErrorOf(error)));
    journal.write(() => journal.removeVolume(volumeId));
    return {};
  };

  /** In one transaction the hand-over says who let the copy go, and its retention time begins. */
  async #acceptDifference(volume: VolumeRow, row: DifferingCopy, orderedBy: string): Promise<void> {
    const { journal, handovers, clock, log } = this.#options;
    const { migrationId, machineId, state } = row;
    const sinceMs = clock.nowMs();
    await handovers.source(
      migrationId,
      { type: 'difference-accepted', orderedBy: orderedBy.slice(0, orderedByMax) },
      {
        detail: { tombstonedAtMs: sinceMs },
        also: () => journal.putVolume({ ...volume, kept: { migrationId, root: state.retainedRoot, sinceMs } }),
      },
    );
    log.warn(
      { migration: migrationId, machine: machineId, volume: volume.id, orderedBy },
      `an operator lets a differing copy go after its retention time: ${differenceOf(row)}`,
    );
  }

  agentNoteEvent: ServiceImpl<typeof AgentService>['agentNoteEvent'] = ({ machineId, event }) => {
    const { machines, journal, clock, changed } = this.#options;
    const { id, events } = machines.get(checkId('machine', machineId, 'machine_id'));
    if (event?.type !== 'accept') throw invalidArgument('event.type', `is ${JSON.stringify(event?.type)}`, '"accept"');
    const migrationId = checkId('migration', event.migration?.migrationId ?? '', 'event.migration.migration_id');
    if (events.some(({ type, migration }) => type === event.type && migration?.migrationId === migrationId)) return {};
    const message = event.message.slice(0, eventCharsMax);
    const status = journal.machine(id)!.runtime.status.state;
    const noted = create(MachineEventSchema, { ...event, status, message, timestamp: timestampFromMs(clock.nowMs()) });
    journal.write(() => journal.appendEvents(id, [noted]));
    changed();
    return {};
  };

  agentExportVolume: ServiceImpl<typeof AgentService>['agentExportVolume'] = async (request) => {
    const { volumes, exports, openVolume, stream, clock, nbdHost, machines } = this.#options;
    const volumeId = checkId('volume', request.volumeId, 'volume_id');
    const { machineId } = this.#row(volumeId);
    const ttlMs = durationToMs(request.ttl) ?? exportMs;
    if (ttlMs < 1000 || ttlMs > exportMsMax) throw invalidArgument('ttl', `is ${ttlMs / 1000}s`, 'between 1s and 24h');
    const holders = await volumes.holders(volumeId).catch((error) => Promise.reject(ferryErrorOf(error)));
    // Asked last: a Machine that starts after this ends the token.
    const busy = machineId !== '' && machines.uses(volumeId);
    const others = holders.filter((holder) => !holder.isAgent);
    if (busy || others.length > 0) {
      const who = busy ? `Machine ${machineId}` : others.map(({ pid, command }) => `${pid} (${command})`).join(', ');
      throw new FerryError(
        'volume_in_use',
        `volume ${volumeId} is in use by ${who}: its bytes would change while they are read`,
        {
          field: 'volume_id',
          nextAction: 'Stop the Machine first.',
        },
      );
    }
    const expiresAtMs = clock.nowMs() + ttlMs;
    const token = exports.grant({
      purpose: volumeId,
      round: volumeId,
      open: () => openVolume(volumeId),
      isLimited: true,
      audience: 'tools',
      fingerprint: null,
      connectionsMax: exportConnectionsMax,
      expiresAtMs,
    });
    const { toolsPort: port, tls } = stream;
    const uri = `${tls ? 'nbds' : 'nbd'}://${nbdHost}:${port}/${token}`;
    return { export: { token, address: nbdHost, port, uri, tls, expiresAt: timestampFromMs(expiresAtMs) } };
  };

  setCordon: ServiceImpl<typeof AgentService>['setCordon'] = (request) => {
    const { journal, changed } = this.#options;
    journal.write(() => journal.setMeta('cordoned', request.cordoned ? '1' : '0'));
    changed();
    return {};
  };

  setCopyLimits: ServiceImpl<typeof AgentService>['setCopyLimits'] = ({ limits }) => {
    const { copyLimits, changed } = this.#options;
    if (limits === undefined) throw invalidArgument('limits', 'is missing', 'both limits; 0 = none');
    copyLimits.set(limits);
    changed();
    return {};
  };

  setDrain: ServiceImpl<typeof AgentService>['setDrain'] = ({ drainId, drain }) => {
    const { journal } = this.#options;
    if (drain.length > drainBytesMax) throw invalidArgument('drain', `has ${drain.length} bytes`, 'at most 1 MiB');
    if (drain.length > 0) checkId('drain', drainId, 'drain_id');
    journal.write(() => {
      journal.setMeta('drain_id', drain.length > 0 ? drainId : '');
      journal.setMeta('drain', Buffer.from(drain).toString('base64'));
    });
    return {};
  };

  getDrainRecord: ServiceImpl<typeof AgentService>['getDrainRecord'] = () => {
    const { journal } = this.#options;
    return { drainId: journal.meta('drain_id') ?? '', drain: Buffer.from(journal.meta('drain') ?? '', 'base64') };
  };

  getHost: ServiceImpl<typeof AgentService>['getHost'] = async () => ({
    host: await this.#options.describeHost(),
    rememberedHosts: [...this.#options.journal.roster()].map(([id, address]) => ({ id, address })),
  });

  forgetHost: ServiceImpl<typeof AgentService>['forgetHost'] = ({ hostId }) => {
    const { journal } = this.#options;
    checkId('name', hostId, 'host_id');
    journal.write(() => journal.removeRoster(hostId));
    return {};
  };

  #row(volumeId: string): VolumeRow {
    const row = this.#options.journal.volume(volumeId);
    if (row === undefined)
      throw new FerryError('unknown_volume', `no volume ${volumeId} on host ${this.#options.host}`, {
        field: 'volume_id',
      });
    return row;
  }

  async #volume(volumeId: string): Promise<Volume> {
    const info = await this.#options.volumes.inspect(volumeId);
    if (info === null) throw new FerryError('unknown_volume', `no volume ${volumeId} on host ${this.#options.host}`);
    return this.#describe(info, this.#options.journal.volume(volumeId));
  }

  async #describe(info: VolumeInfo, row: VolumeRow | undefined): Promise<Volume> {
    const { host, files, journal, retentionMs } = this.#options;
    const kept = row?.kept ?? null;
    const after = row === undefined ? null : keptAfter(journal, row);
    const filesystem = await readFilesystem(files, info.path).catch(() => ({ kind: 'raw' as const }));
    return create(VolumeSchema, {
      id: info.volumeId,
      name: row?.name ?? '',
      hostId: host,
      state: kept !== null ? VolumeState.PENDING_DESTROY : states[info.state],
      sizeBytes: BigInt(info.sizeBytes),
      allocatedBytes: BigInt(info.allocatedBytes),
      machineId: row?.machineId ?? '',
      filesystem: filesystem.kind,
      epoch: BigInt('epoch' in info ? info.epoch : 0),
      root: kept?.root ?? '',
      migrationId: after?.migrationId ?? '',
      differs: isDiffering(after) ? differenceOf(after) : '',
      ...(kept === null ? {} : { destroyAt: timestampFromMs(kept.sinceMs + retentionMs) }),
      ...(row === undefined ? {} : { createdAt: timestampFromMs(row.createdAtMs) }),
    });
  }
}

function readSize(sizeBytes: bigint): number {
  try {
    return validSize(Number(sizeBytes));
  } catch {
    throw invalidArgument('size_bytes', `is ${sizeBytes}`, 'a multiple of 4096 from 1 MiB to 16 TiB');
  }
}

const states = {
  receiving: VolumeState.RECEIVING,
  owned: VolumeState.READY,
  relinquished: VolumeState.RELINQUISHED,
} as const;
