import { type Drain, type DrainMachine, DrainMachineState, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { MigrationStep, MigrationStrategy } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { orderText } from './migration.ts';
import { keyValues, table } from './table.ts';
import {
  betweenMs,
  formatBytes,
  formatLeft,
  formatMs,
  formatRate,
  formatRoughMs,
  formatTime,
  plural,
  word,
} from './units.ts';
import { waitText } from './wait.ts';

/** "running", "blocked", ... */
export function drainState(drain: Drain): string {
  return word(DrainState, drain.state);
}

/** The Machines in the order of their moves. */
export function inOrder(machines: readonly DrainMachine[]): DrainMachine[] {
  return machines.toSorted((a, b) => a.order - b.order);
}

/** "ledger d8dd625fed5568". */
export function machineLabel({ name, machineId }: DrainMachine): string {
  return name === '' ? machineId : `${name} ${machineId}`;
}

/** "7 of 12 moved, 1 parked, 2 moving, 2 waiting". */
export function countsText(drain: Drain): string {
  const parts = [`${drain.machinesMoved} of ${drain.machinesTotal} moved`];
  if (drain.machinesParked > 0) parts.push(`${drain.machinesParked} parked`);
  for (const state of [DrainMachineState.MOVING, DrainMachineState.WAITING]) {
    const count = drain.machines.filter((machine) => machine.state === state).length;
    if (count > 0) parts.push(`${count} ${drain.endedAt === undefined ? word(DrainMachineState, state) : 'not moved'}`);
  }
  return parts.join(', ');
}

/** Whole percent of the bytes that are where they shall go. */
export function drainPercent({ bytesTotal, bytesDone }: Pick<Drain, 'bytesTotal' | 'bytesDone'>): number {
  return bytesTotal === 0n ? 100 : Math.min(100, Number((bytesDone * 100n) / bytesTotal));
}

/** "1.2 GiB of 3.0 GiB (40 %), 100.0 MiB/s". */
export function bytesText(drain: Drain): string {
  const rate = drain.bytesPerSecond === 0n ? '' : `, ${formatRate(drain.bytesPerSecond)}`;
  return `${formatBytes(drain.bytesDone)} of ${formatBytes(drain.bytesTotal)} (${drainPercent(drain)} %)${rate}`;
}

/** "0:45 left, predicted 2 min 05 s in all": waits for locks included. */
export function timeLeftText({ remainingMs, predictedTotalMs }: Drain): string {
  const left = remainingMs === undefined ? 'time left not known yet' : `${formatLeft(remainingMs)} left`;
  return predictedTotalMs === 0n ? left : `${left}, predicted ${formatRoughMs(predictedTotalMs)} in all`;
}

/** What a Machine of a drain does, waits for, or ended with, in one line. */
export function machineInfo(machine: DrainMachine): string {
  const { state, wait, reason, attempts } = machine;
  const tried = attempts > 1 ? `try ${attempts}: ` : '';
  switch (state) {
    case DrainMachineState.MOVED:
      return attempts > 1 ? `${attempts} tries` : '';
    case DrainMachineState.PARKED:
    case DrainMachineState.GONE:
      return reason;
    default:
      if (wait !== undefined) return `${tried}waits for ${waitText(wait)}`;
      return reason === '' ? machine.blockers.join('; ') : `${tried}before: ${reason}`;
  }
}

/** What was predicted and what happened: "..." while it may yet, "-" when it will not. */
function pair(predictedMs: bigint, measuredMs: bigint | undefined, { state }: DrainMachine): string {
  const isOpen = state === DrainMachineState.WAITING || state === DrainMachineState.MOVING;
  const unknown = isOpen ? '...' : '-';
  return `${formatRoughMs(predictedMs)} -> ${measuredMs === undefined ? unknown : formatRoughMs(measuredMs)}`;
}

/** State, and the step of a move that runs. */
function stateCell({ state, step }: DrainMachine): string {
  const text = word(DrainMachineState, state);
  const isMoving = state === DrainMachineState.MOVING && step !== MigrationStep.UNSPECIFIED;
  return isMoving ? `${text} (${word(MigrationStep, step)})` : text;
}

function bytesCell({ state, bytes, bytesDone }: DrainMachine): string {
  if (state !== DrainMachineState.MOVING) return formatBytes(bytes);
  return `${formatBytes(bytesDone)} of ${formatBytes(bytes)}`;
}

/** `drain list`. */
export function renderDrainList(drains: readonly Drain[]): string {
  if (drains.length === 0) return 'No drains.\n';
  const rows = drains.map((drain) => [
    drain.id,
    drain.hostId,
    drainState(drain),
    `${drain.machinesMoved}/${drain.machinesTotal}`,
    String(drain.machinesParked),
    `${drainPercent(drain)} %`,
    drain.remainingMs === undefined || drain.endedAt !== undefined ? '' : formatLeft(drain.remainingMs),
    formatTime(drain.createdAt),
    drain.wait?.message || drain.message || orderText(drain.reason, drain.orderedBy),
  ]);
  return table(['ID', 'Host', 'State', 'Moved', 'Parked', 'Bytes', 'Left', 'Ordered', 'Info'], rows);
}

/** `drain status`: what was predicted and what happened, side by side. */
export function renderDrainStatus(drain: Drain): string {
  const pairs: [string, string][] = [
    ['Host', drain.hostId],
    ['Why', orderText(drain.reason, drain.orderedBy) || 'nobody said'],
    ['Ordered', formatTime(drain.createdAt)],
    ['Machines', countsText(drain)],
    ['Bytes', bytesText(drain)],
    ...(drain.endedAt === undefined
      ? [['Time', timeLeftText(drain)] as [string, string]]
      : [['Ended', `${formatTime(drain.endedAt)}, ${tookText(drain)}`] as [string, string]]),
    ['Cordon', drain.cordonedByDrain ? 'put on by this drain' : 'was on before'],
    ...optionPairs(drain),
  ];
  if (drain.wait !== undefined) pairs.push(['Waits for', waitText(drain.wait)]);
  if (drain.blockedNetworks.length > 0) pairs.push(['Blocked networks', drain.blockedNetworks.join(', ')]);
  if (drain.message !== '') pairs.push(['Result', drain.message]);
  if (drain.nextAction !== '') pairs.push(['Next', drain.nextAction]);
  const machines = inOrder(drain.machines);
  const rows = machines.map((machine) => [
    String(machine.order),
    machine.machineId,
    machine.name,
    machine.network,
    stateCell(machine),
    machine.destination,
    bytesCell(machine),
    pair(machine.predictedCopyMs, machine.copyMs, machine),
    pair(machine.predictedWaitMs, machine.waitMs, machine),
    pair(machine.predictedDowntimeMs, machine.downtime?.totalMs, machine),
    machineInfo(machine),
  ]);
  const headers = ['#', 'Machine', 'Name', 'Network', 'State', 'To', 'Bytes', 'Copy', 'Wait', 'Downtime', 'Info'];
  const list = rows.length === 0 ? 'No Machines.\n' : table(headers, rows);
  return (
    `Drain ID: ${drain.id}\nState: ${drainState(drain)}\n\n${keyValues(pairs)}${bullets('Blockers', drain.blockers)}` +
    `\nMachines (copy, wait for the lock, downtime: predicted -> measured)\n${list}${renderParked(machines)}`
  );
}

/** How a drain ended; for people who followed it. */
export function renderDrainOutcome(drain: Drain): string {
  const { hostId, state } = drain;
  const slowest = drain.machines.reduce((most, { downtime }) => {
    const total = downtime?.totalMs ?? 0n;
    return total > most ? total : most;
  }, 0n);
  const longest = slowest === 0n ? '' : `; longest downtime ${formatMs(slowest)}`;
  let text = `Drain of ${hostId} is ${drainState(drain)}: ${countsText(drain)} ${tookText(drain)}${longest}.\n`;
  if (drain.message !== '') text += `  ${state === DrainState.DONE ? 'result:' : 'why: '} ${drain.message}\n`;
  if (drain.blockedNetworks.length > 0) text += `  blocked networks: ${drain.blockedNetworks.join(', ')}\n`;
  if (drain.nextAction !== '') text += `  next: ${drain.nextAction}\n`;
  return text + renderParked(inOrder(drain.machines));
}

/** The parked Machines: where they are, why, and what to do about each. */
function renderParked(machines: readonly DrainMachine[]): string {
  const parked = machines.filter(({ state }) => state === DrainMachineState.PARKED);
  if (parked.length === 0) return '';
  const blocks = parked.map((machine) => {
    const { migrationId, reason, nextAction, networkBlocked, network, host, attempts } = machine;
    const facts = [machineLabel(machine)];
    if (host !== '') facts.push(`on ${host}`);
    if (networkBlocked) facts.push(`network ${network} stays locked`);
    if (attempts > 0) facts.push(attempts === 1 ? '1 try' : `${attempts} tries`);
    let text = `  ${facts.join(', ')}\n    why:  ${reason}\n`;
    if (nextAction !== '') text += `    next: ${nextAction}\n`;
    if (migrationId !== '') text += `    look: ferry migration status ${migrationId}\n`;
    return text;
  });
  return `\nParked\n${blocks.join('')}`;
}

/** "in 2 min 10 s (predicted 2 min 05 s)". */
function tookText({ createdAt, endedAt, predictedTotalMs }: Drain): string {
  const tookMs = betweenMs(createdAt, endedAt);
  const predicted = predictedTotalMs === 0n ? '' : `predicted ${formatRoughMs(predictedTotalMs)}`;
  if (tookMs === undefined) return predicted === '' ? '' : `(${predicted})`;
  return `in ${formatMs(tookMs)}${predicted === '' ? '' : ` (${predicted})`}`;
}

/** How it is drained, as far as the operator said so. */
export function optionPairs({ options }: Drain): [string, string][] {
  if (options === undefined) return [];
  const { to, exclude, concurrency, attemptsMax, downtimeBudgetMs, strategy, partial, priority } = options;
  const pairs: [string, string][] = [];
  if (concurrency > 0) pairs.push(['At once', plural(concurrency, 'Machine')]);
  if (attemptsMax > 0) pairs.push(['Tries each', String(attemptsMax)]);
  if (to.length > 0) pairs.push(['Only to', to.join(', ')]);
  if (exclude.length > 0) pairs.push(['Not to', exclude.join(', ')]);
  if (strategy !== MigrationStrategy.UNSPECIFIED) pairs.push(['Strategy', word(MigrationStrategy, strategy)]);
  if (downtimeBudgetMs > 0n) pairs.push(['Downtime budget', formatMs(downtimeBudgetMs)]);
  if (priority !== 0) pairs.push(['Priority', String(priority)]);
  if (partial) pairs.push(['Partial', 'Machines without a place are parked']);
  return pairs;
}

/** A heading and a line for each; nothing without any. */
export function bullets(heading: string, lines: readonly string[]): string {
  return lines.length === 0 ? '' : `\n${heading}\n${lines.map((line) => `  - ${line}\n`).join('')}`;
}
