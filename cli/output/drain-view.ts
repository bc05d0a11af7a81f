import { timestampMs } from '@bufbuild/protobuf/wkt';
import { type Drain, type DrainMachine, DrainMachineState, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { MigrationStep, type Wait } from '../../proto/gen/ferry/v1/migration_pb.ts';
import type { Terminal } from '../context.ts';
import {
  bytesText,
  countsText,
  drainPercent,
  drainState,
  inOrder,
  machineLabel,
  renderDrainOutcome,
  timeLeftText,
} from './drain.ts';
import { LiveBlock } from './live.ts';
import { orderText } from './migration.ts';
import { bar } from './progress.ts';
import { formatBytes, formatLeft, formatMs, formatRoughMs, plural, word } from './units.ts';

const plainStepPercent = 10;
const barColumnsMin = 110;

/** What is remembered of a Machine, so that each change is shown once. */
interface Shown {
  readonly state: DrainMachineState;
  readonly attempts: number;
  readonly wait: string;
}

/**
 * Shows a drain as it goes on. Lasting lines: each Machine that has moved, was parked or is tried again. Below them, on a
 * terminal, a block that is drawn in place: bytes, rate, time left, and what each Machine that moves does or waits for;
 * elsewhere a plain line for each beginning, each wait and each tenth of the bytes.
 */
export class DrainView {
  readonly #terminal: Pick<Terminal, 'out' | 'isTerminal' | 'columns' | 'rows' | 'clock'>;
  readonly #live: LiveBlock;
  readonly #shown = new Map<string, Shown>();
  #headShown = false;
  #state: DrainState = DrainState.RUNNING;
  #wait = '';
  #tenth = 0;

  constructor(terminal: Pick<Terminal, 'out' | 'isTerminal' | 'columns' | 'rows' | 'clock'>) {
    this.#terminal = terminal;
    this.#live = new LiveBlock(terminal);
  }

  /** Shows what is new in `drain`. */
  show(drain: Drain): void {
    const lasting = [...this.#head(drain), ...this.#changes(drain)];
    const isOver = drain.state !== this.#state && endStates.has(drain.state);
    if (drain.state !== this.#state && !isOver) lasting.push(`The drain is ${drainState(drain)} now.`);
    this.#state = drain.state;
    if (isOver || !this.#terminal.isTerminal) {
      this.finish();
      this.#terminal.out([...lasting, ''].join('\n'));
      if (isOver) this.#terminal.out(renderDrainOutcome(drain));
      return;
    }
    this.#live.draw(lasting, this.#block(drain));
  }

  /** Takes the block off the terminal. */
  finish(): void {
    this.#live.finish();
  }

  #head({ id, hostId, machinesTotal, bytesTotal, reason, orderedBy }: Drain): string[] {
    if (this.#headShown) return [];
    this.#headShown = true;
    const order = orderText(reason, orderedBy);
    const why = order === '' ? '' : ` (${order})`;
    return [`Drain ${id}: ${hostId}${why}, ${plural(machinesTotal, 'Machine')}, ${formatBytes(bytesTotal)}`];
  }

  /** Lines for what has changed since the last time. */
  #changes(drain: Drain): string[] {
    const lines = inOrder(drain.machines).flatMap((machine) => this.#changesOf(machine, drain));
    if (this.#terminal.isTerminal) return lines;
    const wait = keyOf(drain.wait);
    if (drain.wait !== undefined && wait !== this.#wait && !isTold(drain))
      lines.push(`  waits for ${drain.wait.message}`);
    this.#wait = wait;
    const tenth = Math.floor(drainPercent(drain) / plainStepPercent);
    if (tenth > this.#tenth && !endStates.has(drain.state))
      lines.push(`  ${bytesText(drain)}, ${timeLeftText(drain)}; ${countsText(drain)}`);
    this.#tenth = tenth;
    return lines;
  }

  #changesOf(machine: DrainMachine, drain: Drain): string[] {
    const { machineId, state, attempts, reason } = machine;
    const before = this.#shown.get(machineId);
    const wait = keyOf(machine.wait);
    this.#shown.set(machineId, { state, attempts, wait });
    const label = `[${String(machine.order).padStart(2)}/${drain.machinesTotal}] ${machineLabel(machine)}`;
    const lines: string[] = [];
    if (attempts > Math.max(1, before?.attempts ?? 1) && reason !== '' && !lasts.has(state)) {
      lines.push(`${label}: try ${attempts}, because the one before failed: ${reason}`);
    }
    if (before?.state !== state && lasts.has(state)) lines.push(`${label}: ${endOf(machine)}`);
    if (this.#terminal.isTerminal) return lines;
    if (before?.state !== state && state === DrainMachineState.MOVING) {
      lines.push(`${label}: moving to ${machine.destination}`);
    }
    if (machine.wait !== undefined && wait !== before?.wait) lines.push(`${label}: waits for ${machine.wait.message}`);
    return lines;
  }

  #block(drain: Drain): string[] {
    const lines = [
      `${bar(drainPercent(drain))} ${bytesText(drain)}`,
      `${timeLeftText(drain)}; ${countsText(drain)}${drain.state === DrainState.RUNNING ? '' : ` (${drainState(drain)})`}`,
    ];
    if (drain.wait !== undefined && !isTold(drain)) lines.push(`waits for ${this.#since(drain.wait)}`);
    if (drain.blockedNetworks.length > 0) lines.push(`blocked networks: ${drain.blockedNetworks.join(', ')}`);
    const machines = inOrder(drain.machines).filter(({ state }) => inBlock.has(state));
    // Those that move come first: they are what there is to see when the window is low.
    machines.sort((a, b) => Number(b.state) - Number(a.state));
    const room = this.#live.heightMax - lines.length;
    const fit = machines.length <= room ? machines.length : Math.max(0, room - 1);
    const width = Math.max(0, ...machines.slice(0, fit).map((machine) => machineLabel(machine).length));
    for (const machine of machines.slice(0, fit)) lines.push(this.#machineLine(machine, width));
    if (fit < machines.length) lines.push(`  and ${machines.length - fit} more: ferry drain status ${drain.id}`);
    return lines;
  }

  #machineLine(machine: DrainMachine, width: number): string {
    const { state, step, bytes, bytesDone, wait, destination } = machine;
    const parts = [`  ${machineLabel(machine).padEnd(width)} -> ${destination || '?'}`];
    if (state === DrainMachineState.MOVING && step !== MigrationStep.UNSPECIFIED) {
      parts.push(word(MigrationStep, step).padEnd(10));
      if (step === MigrationStep.PRECOPY || step === MigrationStep.FORK) {
        const percent = drainPercent({ bytesTotal: bytes, bytesDone });
        // In a narrow window there is no room for a bar before what is waited for.
        if (this.#terminal.columns() >= barColumnsMin) parts.push(bar(percent));
        parts.push(`${percent} % of ${formatBytes(bytes)}`);
      }
    }
    if (wait !== undefined) parts.push(`waits for ${this.#since(wait)}`);
    return parts.join(' ');
  }

  /** What is waited for, and how long already. */
  #since({ message, since }: Wait): string {
    if (since === undefined) return message;
    return `${message} (${formatLeft(Math.max(0, this.#terminal.clock.nowMs() - timestampMs(since)))})`;
  }
}

/** Tells one wait from another; the words may change while it is the same, with the numbers in them. */
function keyOf(wait: Wait | undefined): string {
  return wait === undefined ? '' : `${wait.kind} ${wait.subject}`;
}

/** Whether what the whole drain waits for is told with one of its Machines. */
function isTold({ wait, machines }: Drain): boolean {
  return machines.some((machine) => keyOf(machine.wait) === keyOf(wait));
}

/** States after which a drain does nothing more by itself. */
const endStates: ReadonlySet<DrainState> = new Set([DrainState.DONE, DrainState.BLOCKED, DrainState.CANCELLED]);
/** States of a Machine that are told once and stay on the screen. */
const lasts: ReadonlySet<DrainMachineState> = new Set([
  DrainMachineState.MOVED,
  DrainMachineState.PARKED,
  DrainMachineState.GONE,
]);
/** States of a Machine that are shown while they last. */
const inBlock: ReadonlySet<DrainMachineState> = new Set([DrainMachineState.MOVING, DrainMachineState.WAITING]);

/** "moved to host-2: copied in 1.300 s, waited 12 ms, down 470 ms (450 ms predicted)", "parked: ...; next: ...". */
function endOf(machine: DrainMachine): string {
  const { state, destination, copyMs, waitMs, downtime, predictedDowntimeMs, reason, nextAction } = machine;
  if (state === DrainMachineState.GONE) return `no longer on the host${reason === '' ? '' : `: ${reason}`}`;
  if (state === DrainMachineState.PARKED) {
    const network = machine.networkBlocked ? ` (network ${machine.network} stays locked)` : '';
    return `parked${network}: ${reason}${nextAction === '' ? '' : `; next: ${nextAction}`}`;
  }
  const parts: string[] = [];
  if (copyMs !== undefined) parts.push(`copied in ${formatMs(copyMs)}`);
  if (waitMs !== undefined && waitMs > 0n) parts.push(`waited ${formatMs(waitMs)} for the lock`);
  if (downtime !== undefined) {
    parts.push(`down ${formatMs(downtime.totalMs)} (${formatRoughMs(predictedDowntimeMs)} predicted)`);
  }
  return `moved to ${destination}${parts.length === 0 ? '' : `: ${parts.join(', ')}`}`;
}
