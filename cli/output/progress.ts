import { type Timestamp, timestampMs } from '@bufbuild/protobuf/wkt';
import {
  type CopyProgress,
  type Migration,
  MigrationState,
  MigrationStep,
  type PrecopyReport,
} from '../../proto/gen/ferry/v1/migration_pb.ts';
import type { Terminal } from '../context.ts';
import { copyPercent, copyText, renderOutcome, stepLabel, stepLine } from './migration.ts';
import { endingText, roundLine } from './precopy.ts';
import { formatLeft } from './units.ts';

const barWidth = 24;
const plainStepPercent = 10;
const clearLine = '\r\x1b[2K';
/** What belongs to a step stands under its name. */
const indent = ' '.repeat(8);

type ViewTerminal = Pick<Terminal, 'out' | 'isTerminal' | 'columns' | 'clock'>;

/** "[=====>    ]", filled to `percent`. */
export function bar(percent: number): string {
  const filled = Math.min(barWidth, Math.floor((percent / 100) * barWidth));
  const head = filled < barWidth ? '>' : '';
  return `[${('='.repeat(filled) + head).padEnd(barWidth)}]`;
}

/**
 * Shows a migration as it goes on: each step once it has ended, with its time; meanwhile, on a terminal, one line that
 * is written over and over with a bar; elsewhere a plain line for each thing waited for and each tenth of the copy.
 */
export class MigrationView {
  readonly #terminal: ViewTerminal;
  #headShown = false;
  #stepsShown = 0;
  #modeShown = false;
  #roundsShown = 0;
  #endingShown = false;
  #lastWait = '';
  #lastCopy = '';
  #lastState: MigrationState = MigrationState.RUNNING;
  #live = false;

  constructor(terminal: ViewTerminal) {
    this.#terminal = terminal;
  }

  /** Shows what is new in `migration`. */
  show(migration: Migration): void {
    const { id, machineId, source, destination, state, steps } = migration;
    if (!this.#headShown) this.#line(`Migration ${id}: Machine ${machineId} from ${source} to ${destination}`);
    this.#headShown = true;
    for (const step of steps.slice(this.#stepsShown)) {
      if (step.step === MigrationStep.PRECOPY) this.#rounds(migration.precopy);
      // The current step is shown once it has ended; one that never will is shown with those after it.
      if (step.endedAt === undefined && step === steps.at(-1) && this.#mayStillEnd(migration)) break;
      this.#line(stepLine(step));
      this.#stepsShown += 1;
    }
    if (state === MigrationState.RUNNING) this.#running(migration);
    else if (state !== this.#lastState) this.#outcome(migration);
    this.#lastState = state;
  }

  /** Ends the live line. */
  finish(): void {
    if (this.#live) this.#terminal.out(clearLine);
    this.#live = false;
  }

  /** The rounds of the copy that a running Machine is given, each once it has ended. */
  #rounds(report: PrecopyReport | undefined): void {
    if (report === undefined) return;
    if (!this.#modeShown && report.mode !== '') {
      const why = report.modeReason === '' ? '' : `: ${report.modeReason}`;
      this.#line(`${indent}${report.mode}${why}`);
      this.#modeShown = true;
    }
    for (const round of report.rounds.slice(this.#roundsShown)) this.#line(`${indent}${roundLine(round)}`);
    this.#roundsShown = Math.max(this.#roundsShown, report.rounds.length);
    if (report.ended !== '' && !this.#endingShown) this.#line(`${indent}${endingText(report)}`);
    this.#endingShown ||= report.ended !== '';
  }

  #mayStillEnd({ state, settled }: Migration): boolean {
    return state === MigrationState.RUNNING || (state === MigrationState.MOVED && !settled);
  }

  #line(text: string): void {
    this.finish();
    this.#terminal.out(`${text}\n`);
  }

  #running(migration: Migration): void {
    const { step, attempt, wait } = migration;
    const waitingFor = migration.waitingFor || (wait?.message ?? '');
    const copies = step === MigrationStep.FORK || step === MigrationStep.PRECOPY;
    const copy = copies ? migration.progress : undefined;
    if (this.#terminal.isTerminal) {
      const parts = copy === undefined ? [] : [bar(copyPercent(copy)), copyText(copy)];
      const says = copy === undefined || attempt > 1 || wait?.kind === 'rate';
      if (says && waitingFor !== '') parts.push(`waiting for ${waitingFor}`);
      if (copy === undefined && wait?.since !== undefined) parts.push(`(${this.#elapsed(wait.since)})`);
      const text = `${stepLabel(step)} ${parts.join(' ')}`;
      // Overwritten, then the rest cleared: clearing first would flicker.
      this.#terminal.out(`\r${text.slice(0, Math.max(20, this.#terminal.columns() - 1))}\x1b[K`);
      this.#live = true;
      return;
    }
    if (waitingFor !== '' && waitingFor !== this.#lastWait) this.#line(`${indent}waiting for ${waitingFor}`);
    this.#lastWait = waitingFor;
    if (copy !== undefined) this.#plainCopy(copy);
  }

  /** Time that something has lasted, by this machine's clock. */
  #elapsed(since: Timestamp): string {
    return formatLeft(Math.max(0, this.#terminal.clock.nowMs() - timestampMs(since)));
  }

  #plainCopy(progress: CopyProgress): void {
    const tenth = Math.floor(copyPercent(progress) / plainStepPercent);
    const now = `${this.#roundsShown} ${progress.phase} ${tenth}`;
    if (now === this.#lastCopy) return;
    this.#lastCopy = now;
    this.#line(`${indent}${copyText(progress)}`);
  }

  #outcome(migration: Migration): void {
    this.finish();
    this.#terminal.out(renderOutcome(migration));
    if (migration.state !== MigrationState.MOVED || migration.settled) return;
    this.#line(`Settling, without downtime: ${migration.source} reads its kept copy again.`);
  }
}
