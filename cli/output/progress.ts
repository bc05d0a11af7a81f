import {
  type CopyProgress,
  type Migration,
  MigrationState,
  MigrationStep,
} from '../../proto/gen/ferry/v1/migration_pb.ts';
import type { Terminal } from '../context.ts';
import { copyPercent, copyText, renderOutcome, stepLine } from './migration.ts';
import { word } from './units.ts';

const barWidth = 24;
const plainStepPercent = 10;
const clearLine = '\r\x1b[2K';

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
  readonly #terminal: Pick<Terminal, 'out' | 'isTerminal' | 'columns'>;
  #headShown = false;
  #stepsShown = 0;
  #lastWait = '';
  #lastCopy = '';
  #lastState: MigrationState = MigrationState.RUNNING;
  #live = false;

  constructor(terminal: Pick<Terminal, 'out' | 'isTerminal' | 'columns'>) {
    this.#terminal = terminal;
  }

  /** Shows what is new in `migration`. */
  show(migration: Migration): void {
    const { id, machineId, source, destination, state, steps } = migration;
    if (!this.#headShown) this.#line(`Migration ${id}: Machine ${machineId} from ${source} to ${destination}`);
    this.#headShown = true;
    for (const step of steps.slice(this.#stepsShown)) {
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

  #mayStillEnd({ state, settled }: Migration): boolean {
    return state === MigrationState.RUNNING || (state === MigrationState.MOVED && !settled);
  }

  #line(text: string): void {
    this.finish();
    this.#terminal.out(`${text}\n`);
  }

  #running(migration: Migration): void {
    const { step, waitingFor, attempt } = migration;
    const copy = step === MigrationStep.FORK ? migration.progress : undefined;
    if (this.#terminal.isTerminal) {
      const parts = copy === undefined ? [] : [bar(copyPercent(copy)), copyText(copy)];
      if (copy === undefined || attempt > 1) parts.push(waitingFor);
      const number = String(step).padStart(2);
      const text = `[${number}/${MigrationStep.SETTLE}] ${word(MigrationStep, step).padEnd(10)} ${parts.join(' ')}`;
      this.#terminal.out(clearLine + text.slice(0, Math.max(20, this.#terminal.columns() - 1)));
      this.#live = true;
      return;
    }
    if (waitingFor !== '' && waitingFor !== this.#lastWait) this.#line(`        waiting for ${waitingFor}`);
    this.#lastWait = waitingFor;
    if (copy !== undefined) this.#plainCopy(copy);
  }

  #plainCopy(progress: CopyProgress): void {
    const tenth = Math.floor(copyPercent(progress) / plainStepPercent);
    const now = `${progress.phase} ${tenth}`;
    if (now === this.#lastCopy) return;
    this.#lastCopy = now;
    this.#line(`        ${copyText(progress)}`);
  }

  #outcome(migration: Migration): void {
    this.finish();
    this.#terminal.out(renderOutcome(migration));
    if (migration.state !== MigrationState.MOVED || migration.settled) return;
    this.#line(`Settling, without downtime: ${migration.source} reads its kept copy again.`);
  }
}
