// Longer than usual: what a whole drain will do, as one proposal, from facts to words.
import { create } from '@bufbuild/protobuf';
import {
  type Drain,
  type DrainMachine,
  DrainMachineSchema,
  DrainMachineState,
  type DrainOptions,
  DrainSchema,
  DrainState,
} from '../../proto/gen/ferry/v1/drain_pb.ts';
import { DesiredState, type Machine } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationState, type MoveReason } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { assign } from '../placement/assign.ts';
import type { Cluster } from '../placement/cluster.ts';
import { copyBytesPerSecondDefault, type History, type Prediction, predict } from '../placement/estimate.ts';
import { needOfMove } from '../placement/need.ts';
import { type MoveLimits, moveOrder } from '../placement/order.ts';
import type { Refusal } from '../placement/refusal.ts';
import { roomOf } from '../placement/room.ts';
import type { Need, Site } from '../placement/site.ts';
import type { VolumeFacts } from '../placement/volumes.ts';
import type { Blocker } from './facts.ts';
import { foresee } from './progress.ts';
import { blockerOf } from './waits.ts';

/** Reasons of other hosts that a drain keeps, all Machines together; each Machine keeps at least one. */
const refusalsKept = 4096;

/** Everything that a plan is made from. */
export interface PlanFacts {
  readonly cluster: Cluster;
  readonly source: Site;
  /** Machines of the host. */
  readonly machines: readonly Machine[];
  /** Its volumes; undefined when it is silent. */
  readonly volumes: ReadonlyMap<string, VolumeFacts> | undefined;
  readonly history: History;
  /** Longest last copy where the drain names none. */
  readonly downtimeBudgetMs: number;
  /** Networks that a parked migration keeps locked, with that migration. */
  readonly blocked: ReadonlyMap<string, Blocker>;
  readonly limits: MoveLimits;
}

/** What is asked for. */
export interface DrainWish {
  readonly hostId: string;
  readonly options: DrainOptions;
  readonly reason: MoveReason;
  readonly orderedBy: string;
}

/** The whole drain as it would go: destinations, order, times, blockers. Nothing is promised twice. */
export function planDrain(wish: DrainWish, facts: PlanFacts): Drain {
  const { hostId, options, reason, orderedBy } = wish;
  const { machines, limits } = facts;
  const seekers = machines.map((machine) => ({ machineId: machine.id, need: needIn(wish.options, machine, facts) }));
  const places = assign(seekers, othersThan(facts.source, facts.cluster));
  const rate = rateOf(facts);
  const planned = machines.map((machine) => {
    const place = places.get(machine.id)!;
    const kept = Math.max(1, Math.floor(refusalsKept / machines.length));
    const told = describe(machine, facts, options, rate);
    told.destination = place.site ?? '';
    told.refusedHosts = wordsOf(place.refused, kept);
    told.blockers = [
      ...(place.site === undefined ? [`no host can take it: ${listOf(wordsOf(place.refused, 8))}`] : []),
      ...blockersOf(machine, facts),
    ];
    return { network: machine.network, bytes: Number(told.bytes), machineId: machine.id, told };
  });
  const drain = create(DrainSchema, {
    hostId,
    state: DrainState.RUNNING,
    reason,
    orderedBy,
    options,
    machines: moveOrder(planned).map(({ told }, index) => ({ ...told, order: index + 1 })),
    machinesTotal: machines.length,
    bytesTotal: planned.reduce((sum, { told }) => sum + told.bytes, 0n),
    blockers: blockersOfAll(facts, [...places.values()].filter(({ site }) => site === undefined).length),
  });
  const { courses, totalMs } = foresee(drain, new Map(), limits, rate);
  for (const machine of drain.machines) {
    const course = courses.get(machine.machineId);
    if (course !== undefined) machine.predictedWaitMs = milliseconds(course.lockedMs - course.copiedMs);
  }
  drain.predictedTotalMs = milliseconds(totalMs);
  if (machines.length > 0) drain.remainingMs = drain.predictedTotalMs;
  return drain;
}

type PredictionFacts = Pick<PlanFacts, 'volumes' | 'source' | 'history' | 'downtimeBudgetMs'>;

/** A Machine that turned up on the host while it is drained. */
export function describe(machine: Machine, facts: PredictionFacts, options: DrainOptions, rate: number): DrainMachine {
  const { copyMs, fixedMs, downtimeMs, note } = prediction(machine, facts, options, rate);
  return create(DrainMachineSchema, {
    machineId: machine.id,
    name: machine.name,
    app: machine.app,
    network: machine.network,
    state: DrainMachineState.WAITING,
    bytes: BigInt(bytesOf(machine, facts.volumes)),
    predictedCopyMs: milliseconds(copyMs),
    predictedFixedMs: milliseconds(fixedMs),
    predictedLockMs: milliseconds(facts.history.lockMs),
    predictedDowntimeMs: milliseconds(downtimeMs),
    strategyNote: note,
    host: facts.source.id,
  });
}

function prediction(
  machine: Machine,
  { volumes, source, history, downtimeBudgetMs }: PredictionFacts,
  options: DrainOptions,
  bytesPerSecond: number,
): Prediction {
  const known = volumes?.get(machine.volumeId);
  const bytes = bytesOf(machine, volumes);
  const volume = machine.volumeId === '' ? undefined : (known ?? { allocatedBytes: bytes, sizeBytes: bytes });
  const runs = machine.desiredState !== DesiredState.STOPPED;
  const { strategy } = options;
  const budgetMs = Number(options.downtimeBudgetMs) || downtimeBudgetMs;
  const sourceReflinks = source.capabilities.has('reflink');
  return predict({ machine, runs, volume, strategy, budgetMs, sourceReflinks, bytesPerSecond }, history);
}

/** What the Machine wants of another host, by the options of its drain; `not`: hosts with the reason. */
export function needIn(
  { to, exclude }: DrainOptions,
  machine: Machine,
  { source, volumes }: Pick<PlanFacts, 'source' | 'volumes'>,
  not: ReadonlyMap<string, string> = new Map(),
): Need {
  const excluded = exclude.map((host) => [host, 'it was excluded'] as const);
  return needOfMove(machine, source, volumes?.get(machine.volumeId), { to, not: new Map([...not, ...excluded]) });
}

/** All hosts but the one that is emptied. */
export function othersThan({ id }: Site, { sites }: Pick<Cluster, 'sites'>): ReadonlyMap<string, Site> {
  return new Map([...sites].filter(([host]) => host !== id));
}

/** Bytes a second that the copies of a drain will share: measured before, else the default; at most the limit of the host. */
export function rateOf({ cluster, source, history }: Pick<PlanFacts, 'cluster' | 'source' | 'history'>): number {
  const limit = Number(cluster.hosts.find(({ id }) => id === source.id)?.copyLimits?.sendBytesPerSecond ?? 0n);
  const rate = history.copyBytesPerSecond ?? copyBytesPerSecondDefault;
  return limit > 0 ? Math.min(limit, rate) : rate;
}

function bytesOf(machine: Machine, volumes: ReadonlyMap<string, VolumeFacts> | undefined): number {
  if (machine.volumeId === '') return 0;
  return volumes?.get(machine.volumeId)?.allocatedBytes ?? roomOf(machine.config).diskBytes;
}

function blockersOf({ id, network }: Machine, { cluster, blocked }: PlanFacts): string[] {
  const moving = cluster.migrations.find(
    ({ migration }) => migration.machineId === id && migration.state === MigrationState.RUNNING,
  )?.migration;
  const holder = blockerOf({ machineId: id, network }, { blocked });
  const silent = new Set(
    cluster.placements
      .filter((place) => place.network === network && cluster.sites.get(place.hostId)?.standing === 'unreachable')
      .map((place) => place.hostId),
  );
  return [
    ...(moving === undefined ? [] : [`migration ${moving.id} moves it already; the drain waits for its end`]),
    ...(holder === undefined ? [] : [`network ${network} is locked by ${holder.id}, which is parked`]),
    ...[...silent].map(
      (host) => `host ${host} has a Machine of network ${network} and does not answer: its permit is waited for`,
    ),
  ];
}

function blockersOfAll({ source, blocked, machines }: PlanFacts, homeless: number): string[] {
  const holders = new Set(machines.map(({ id, network }) => blockerOf({ machineId: id, network }, { blocked })));
  return [
    ...(source.draining === '' ? [] : [`drain ${source.draining} empties host ${source.id} already`]),
    ...(homeless > 0 ? [`${homeless} of ${machines.length} Machines of host ${source.id} have no place`] : []),
    ...(source.standing === 'unreachable' ? [`host ${source.id} does not answer: nothing can be copied from it`] : []),
    ...(source.journalWentBack ? [`the journal of host ${source.id} went back: it gives no Machine away`] : []),
    ...[...blocked]
      .filter(([, holder]) => holders.has(holder))
      .map(([network, { id }]) => `network ${network} stays locked by ${id}, which is parked`),
  ];
}

/** Refusals in words, at most `max` of them. */
export function wordsOf(refused: ReadonlyMap<string, Refusal>, max: number): Record<string, string> {
  return Object.fromEntries([...refused].slice(0, max).map(([host, { text }]) => [host, text]));
}

/** "h2: it is cordoned; h3: it does not answer", or that there is no other host. */
export function listOf(refused: Readonly<Record<string, string>>): string {
  const told = Object.entries(refused).map(([host, text]) => `${host}: ${text}`);
  return told.length === 0 ? 'there are no other hosts' : told.join('; ');
}

function milliseconds(ms: number): bigint {
  return BigInt(Math.max(0, Math.round(ms)));
}
