// Past 300 lines because it is the one place where an agent's parts are put together.
import * as files from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { AgentService } from '../proto/gen/ferry/v1/agent_pb.ts';
import { HandoverService, PeerService } from '../proto/gen/ferry/v1/handover_pb.ts';
import { type Host, HostCapacitySchema, HostSchema } from '../proto/gen/ferry/v1/host_pb.ts';
import { HostStatus } from '../proto/gen/ferry/v1/machine_pb.ts';
import { systemClock } from '../shared/clock.ts';
import { ulid } from '../shared/ids.ts';
import { createLog } from '../shared/log.ts';
import { systemRandom } from '../shared/random.ts';
import { ClientPool } from '../shared/rpc/client.ts';
import { RpcServer } from '../shared/rpc/server.ts';
import { version } from '../shared/version.ts';
import { type AgentConfig, resolverIp } from './config.ts';
import { HostCopyLimits } from './copy-limits.ts';
import { Directory } from './directory.ts';
import { DnsServer } from './dns/server.ts';
import { Exports } from './exports.ts';
import { VolumeCopies } from './handover/copies.ts';
import { CopySources } from './handover/copy-sources.ts';
import { keptAfter } from './handover/differing-copy.ts';
import { HandoverEffects } from './handover/effects.ts';
import { Handovers, type SourceRow } from './handover/handovers.ts';
import { Orders } from './handover/orders.ts';
import { PeerRoutes } from './handover/peer-service.ts';
import { Peers } from './handover/peers.ts';
import { Seals } from './handover/seals.ts';
import { Heartbeat } from './heartbeat.ts';
import { keepHouse } from './housekeeping.ts';
import { ImportFolder } from './import-folder.ts';
import { Journal } from './journal.ts';
import { openKey } from './key.ts';
import { Addresses } from './machines/addresses.ts';
import { Admission } from './machines/admission.ts';
import { Machines } from './machines/machines.ts';
import { Movable } from './machines/movable.ts';
import { MachineRows } from './machines/rows.ts';
import { Supervised } from './machines/supervised.ts';
import { ProcessRuntime } from './runtime/process/runtime.ts';
import { AgentRoutes } from './service.ts';
import { CopySource } from './transfer/copy-source.ts';
import { FileExport } from './transfer/file-export.ts';
import { keptSumsName } from './transfer/kept-sums.ts';
import { seedCopy } from './transfer/seed-copy.ts';
import { VolumeStream } from './volume-stream.ts';
import { probeCapabilities, type VolumeCapabilities } from './volumes/capabilities.ts';
import { commandRunner } from './volumes/command.ts';
import { ferryErrorOf } from './volumes/ferry-error.ts';
import type { MountTools } from './volumes/mount.ts';
import { VolumeStore } from './volumes/store.ts';

const commandMs = 60_000;
const clock = systemClock;
const random = systemRandom;

/** Runs the agent of one host until the signal aborts; its Machines run on. Throws FerryErrors for what is wrong. */
export async function runAgent(config: AgentConfig, signal: AbortSignal): Promise<void> {
  const log = createLog('agent', config.logLevel).child({ host: config.hostId });
  const { dataDir, hostId: host } = config;
  await files.mkdir(dataDir, { recursive: true, mode: 0o700 });
  const journal = new Journal(join(dataDir, 'journal.db'), () => ulid(clock.nowMs(), random));
  const stopping = new AbortController();
  const over = AbortSignal.any([signal, stopping.signal]);
  try {
    const parts = await build(config, journal, log, over);
    const { handovers, machines, supervised, stream, exports, sources, server, heartbeat, volumes } = parts;
    await stream.listen(config.streamListen, config.nbdListen);
    await handovers.recover();
    await sources
      .recover(journal.openHandovers().filter((row) => row.role === 'source') as SourceRow[])
      .catch((error) => log.error({ err: error }, 'snapshots that were left'));
    await parts.listenDns();
    const address = await server.listen();
    parts.address.value = address;
    // The coordinator may know that this journal went back; without a coordinator the markers alone decide.
    await heartbeat.beat();
    await supervised.boot(handovers.starting());
    parts.ready();
    const work = [
      heartbeat.run(over),
      parts.directory.watch(clock, () => heartbeat.soon(), over),
      keepHouse(
        {
          journal,
          handovers,
          volumes,
          machines,
          sources,
          isRead: (migrationId) => exports.isRead(migrationId),
          clock,
          log,
          ...config,
        },
        over,
      ),
    ];
    log.info(
      {
        address,
        stream: stream.streamPort,
        nbd: stream.toolsPort,
        dns: parts.dnsAddresses,
        capabilities: parts.capabilities,
      },
      'ready',
    );
    process.stdout.write(`agent ${host} ready on ${address}\n`);
    await new Promise<void>((resolve) => over.addEventListener('abort', () => resolve(), { once: true }));
    log.info('going down; the Machines run on');
    await server.close();
    await Promise.allSettled(work);
    await handovers.stopped();
    await supervised.close();
    exports.close();
    await parts.closeDns();
    parts.directory.close();
    await stream.close();
  } finally {
    stopping.abort();
    journal.close();
  }
}

async function build(config: AgentConfig, journal: Journal, log: ReturnType<typeof createLog>, signal: AbortSignal) {
  const { dataDir, hostId: host, region } = config;
  const isRoot = process.getuid?.() === 0;
  const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
  const run = commandRunner({ searchPath: process.env.PATH ?? '' });
  const tools = { files, run, sleep: (ms: number) => clock.sleep(ms), agentPid: process.pid, timeoutMs: commandMs };
  const capabilities = await capabilitiesOf(dataDir, tools, journal);
  for (const [name, reason] of Object.entries(capabilities.reasons))
    log.info({ capability: name }, `not here: ${reason}`);
  const volumes = new VolumeStore({ dir: dataDir, ...tools, capabilities, owner });
  await volumes.open();
  const seals = new Seals(join(dataDir, 'seals'));
  const key = openKey(join(dataDir, 'key.pem'));
  const runtime = await ProcessRuntime.open({
    directory: join(dataDir, 'machines'),
    clock,
    path: process.env.PATH ?? '',
  });
  const addresses = await Addresses.probe(run, isRoot);
  const directory = new Directory({
    path: join(dataDir, 'directory.db'),
    host,
    region,
    journal,
    bindIp: (address) => addresses.bindIp(address),
    journalWentBack: () => handovers.journalWentBack,
    log,
  });
  const names = () => ({ apps: directory.apps(), serial: directory.serial, region, random });
  const dns = new DnsServer({ names, clock, log });
  const dnsAddresses: string[] = [];
  const listenDns = async () => {
    for (const at of config.dnsListen) {
      if (at.host === resolverIp) await addresses.addResolver(resolverIp);
      dnsAddresses.push(await dns.listen(at));
    }
  };
  const closeDns = async () => {
    await dns.close();
    if (config.dnsListen.some((at) => at.host === resolverIp)) await addresses.remove(resolverIp);
  };
  const pool = new ClientPool();
  const openVolume = async (volumeId: string) => {
    const image = await volumes.inspect(volumeId);
    if (image === null) throw new Error(`volume ${volumeId} is not here any more`);
    return FileExport.open(image.path);
  };
  const copyLimits = new HostCopyLimits({ journal, clock });
  const exports = new Exports({ clock, random, limiter: copyLimits.send });
  const imports = new ImportFolder(config.importDir);
  await imports.open();
  const stream = new VolumeStream({ exports, clock, tls: config.tls, copyLimits });
  const handovers = new Handovers({ host, journal, seals, clock, log, signal });
  const heldBy = (machineId: string) => handovers.heldBy(machineId);
  const rows = new MachineRows({ host, region, journal, addresses });
  const supervised = new Supervised({
    dataDir,
    journal,
    rows,
    seals,
    volumes,
    runtime,
    addresses,
    clock,
    random,
    log,
    heldBy,
    journalWentBack: () => handovers.journalWentBack,
    endExports: (volumeId) => stream.disconnect(exports.end(volumeId)),
  });
  const reservedBytes = () => handovers.reservedBytes();
  const admission = new Admission({ host, region, volumes, runtime, reservedBytes });
  const onHost = { rows, supervised, admission, runtime, journal, clock };
  const machines = new Machines({ ...onHost, host, seals, volumes, random, heldBy });
  const peers = new Peers({ host, pool, key, random, journal });
  const copies = new VolumeCopies({
    handovers,
    volumes,
    peers,
    transfer: stream,
    seeder: {
      seed: async (from, { image, onProgress, ...to }) => {
        const kept = await volumes.inspect(from.volumeId);
        if (kept?.state !== 'relinquished') return false;
        // The Machine comes back before its move has settled: the sums of what left are with that move's source still.
        const volume = journal.volume(from.volumeId);
        const left = volume === undefined ? null : keptAfter(journal, volume);
        if (left?.state.step === 'relinquished') await sources.end(left);
        const sumsPath = volumes.statePath(from.volumeId, keptSumsName);
        const seeded = await seedCopy({
          kept: { imagePath: kept.path, sumsPath },
          root: from.root,
          imagePath: image.path,
          clock,
          onProgress: ({ bytesDone }) => onProgress(bytesDone),
          ...to,
        });
        return seeded !== null;
      },
    },
    clock,
    log,
    signal,
  });
  const sources = new CopySources({
    handovers,
    open: ({ migrationId, detail }) =>
      CopySource.open({ migrationId, volumeId: detail.sourceVolumeId, volumes, clock, log }),
    volumes,
    log,
  });
  const hands = {
    handovers,
    journal,
    seals,
    volumes,
    machines: new Movable(onHost),
    exports,
    disconnect: (tokens: readonly string[]) => stream.disconnect(tokens),
    peers,
    directory,
    transfer: stream,
    copies,
    sources,
    key,
    clock,
    log,
    signal,
    startDeadlineMs: config.startDeadlineMs,
  };
  const effects = new HandoverEffects(hands);
  handovers.connect(effects);
  const orders = new Orders({ ...hands, host, effects, random });
  const peerRoutes = new PeerRoutes({ ...hands, host, effects, random, orders, stream, copyLimits });
  const address = { value: '' };
  const freeBytes = async () => Math.max(0, (await volumes.freeBytes()) - handovers.reservedBytes());
  const notes = notesOf(capabilities);
  for (const note of notes) log.warn(note);
  const notesNow = () => (directory.note === null ? notes : [...notes, directory.note]);
  const describeHost = async (): Promise<Host> =>
    create(HostSchema, {
      id: host,
      number: Number(journal.meta('host_number') ?? 0),
      region,
      address: address.value,
      dnsAddress: dnsAddresses[0] ?? '',
      status: HostStatus.OK,
      cordoned: journal.meta('cordoned') === '1',
      agentVersion: version,
      capacity: create(HostCapacitySchema, {
        cpus: cpus().length,
        memoryMb: BigInt(Math.floor(totalmem() / 1024 ** 2)),
        memoryUsedMb: BigInt(machines.memoryUsedMb()),
        cpusUsed: machines.cpusUsed(),
        volumeFreeBytes: BigInt(await freeBytes()),
        volumeTotalBytes: BigInt(await totalBytes(dataDir)),
      }),
      copyLimits: copyLimits.limits,
      notes: notesNow(),
      machineCount: machines.list().length,
      reason: handovers.journalWentBack
        ? 'the journal went back to an older copy: nothing is started here; restore the newest journal'
        : '',
      capabilities: (['mount', 'reflink', 'fiemap', 'mkfs', 'punch'] as const).filter((name) => capabilities[name]),
    });
  const heartbeat = new Heartbeat({
    coordinators: config.coordinators,
    pool,
    journal,
    directory,
    clock,
    log,
    report: async () => {
      const { capacity, capabilities: can, cordoned, agentVersion, notes } = await describeHost();
      const revision = (machineId: string) => directory.own(machineId)?.revision ?? 0n;
      const placements = machines
        .list()
        .map((machine) => ({ machine: { ...machine, revision: revision(machine.id) } }));
      return {
        hostId: host,
        region,
        address: address.value,
        agentVersion,
        capabilities: can,
        cordoned,
        placements,
        dnsAddress: dnsAddresses[0] ?? '',
        notes,
        copyLimits: copyLimits.limits,
        ...(capacity === undefined ? {} : { capacity }),
      };
    },
    onJournal: (wentBack) => {
      if (wentBack === handovers.isBehindCoordinator) return;
      handovers.isBehindCoordinator = wentBack;
      if (wentBack) log.error('the coordinator remembers a newer journal: nothing is started or signed here');
      else void supervised.boot().catch((error) => log.error({ err: error }, 'taking up the Machines again'));
    },
  });
  const routes = new AgentRoutes({
    host,
    nbdHost: config.nbdListen.host,
    journal,
    machines,
    handovers,
    volumes,
    files,
    exports,
    openVolume,
    stream,
    copyLimits,
    imports,
    clock,
    log,
    freeBytes,
    retentionMs: config.retentionMs,
    describeHost,
    changed: () => heartbeat.soon(),
  });
  // Orders wait until the agent knows what it has: a promise given before could be one that it gave to another.
  const booted = Promise.withResolvers<void>();
  const server = new RpcServer({
    ready: booted.promise,
    host: config.listen.host,
    port: config.listen.port,
    log,
    routes: (router) => {
      router.service(AgentService, routes);
      router.service(HandoverService, orders);
      router.service(PeerService, peerRoutes);
    },
  });
  return {
    volumes,
    handovers,
    machines,
    supervised,
    stream,
    exports,
    sources,
    heartbeat,
    server,
    address,
    capabilities,
    directory,
    listenDns,
    closeDns,
    dnsAddresses,
    ready: booted.resolve,
  };
}

async function totalBytes(dataDir: string): Promise<number> {
  const { blocks, bsize } = await files.statfs(dataDir);
  return blocks * bsize;
}

/** What an operator should know before moving Machines from here. */
function notesOf({ reflink, fiemap, reasons }: VolumeCapabilities): string[] {
  if (reflink && fiemap) return [];
  const why = reflink ? reasons.fiemap : reasons.reflink;
  return [`a move from here is down for one read of the allocated bytes of its volume: ${why ?? 'no snapshots here'}`];
}

/** Tries what this host can do. On a full disk nothing can be tried: what was found last counts. */
async function capabilitiesOf(dataDir: string, tools: MountTools, journal: Journal): Promise<VolumeCapabilities> {
  try {
    const found = await probeCapabilities(dataDir, tools);
    journal.write(() => journal.setMeta('capabilities', JSON.stringify(found)));
    return found;
  } catch (error) {
    const known = ferryErrorOf(error);
    const last = journal.meta('capabilities');
    if (known.reason !== 'no_space' || last === undefined) throw known;
    return JSON.parse(last) as VolumeCapabilities;
  }
}
