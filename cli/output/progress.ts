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
  #stepsShown = 0;
  #lastWait = '';
  #lastCopy = '';
  #outcomeShown = false;
  #live = false;

  constructor(terminal: Pick<Terminal, 'out' | 'isTerminal' | 'columns'>) {
    this.#terminal = terminal;
  }

  /** Whether the outcome was printed. */
  get ended(): boolean {
    return this.#outcomeShown;
  }

  /** Shows what is new in `migration`. */
  show(migration: Migration): void {
    if (!this.#outcomeShown && this.#stepsShown === 0 && this.#lastWait === '') this.#head(migration);
    // Steps end in their order, so those shown are always the first ones.
    for (const step of migration.steps.slice(this.#stepsShown)) {
      if (step.endedAt === undefined) break;
      this.#line(stepLine(step));
      this.#stepsShown += 1;
    }
    if (migration.state === MigrationState.RUNNING) this.#running(migration);
    else this.#outcome(migration);
  }

  #head(migration: Migration): void {
    this.#lastWait = ' ';
    this.#line(
      `Migration ${migration.id}: Machine ${migration.machineId} from ${migration.source} to ${migration.destination}`,
    );
  }

  /** Ends the live line. */
  finish(): void {
    if (this.#live) this.#terminal.out(clearLine);
    this.#live = false;
  }

  #line(text: string): void {
    this.finish();
    this.#terminal.out(`${text}\n`);
  }

  #running(migration: Migration): void {
    const copying = migration.step === MigrationStep.FORK ? migration.progress : undefined;
    const { waitingFor } = migration;
    if (this.#terminal.isTerminal) {
      const what = copying === undefined ? waitingFor : `${bar(copyPercent(copying))} ${copyText(copying)}`;
      const number = String(migration.step).padStart(2);
      const text = `[${number}/${MigrationStep.SETTLE}] ${word(MigrationStep, migration.step).padEnd(10)} ${what}`;
      this.#terminal.out(clearLine + text.slice(0, Math.max(20, this.#terminal.columns() - 1)));
      this.#live = true;
      return;
    }
    if (copying !== undefined) this.#plainCopy(copying);
    else if (waitingFor !== '' && waitingFor !== this.#lastWait) {
      this.#lastWait = waitingFor;
      this.#line(`        waiting: ${waitingFor}`);
    }
  }

  #plainCopy(progress: CopyProgress): void {
    const tenth = Math.floor(copyPercent(progress) / plainStepPercent);
    const now = `${progress.phase} ${tenth}`;
    if (now === this.#lastCopy) return;
    this.#lastCopy = now;
    this.#line(`        ${copyText(progress)}`);
  }

  #outcome(migration: Migration): void {
    const { state, settled } = migration;
    if (!this.#outcomeShown || state === MigrationState.PARKED) {
      this.finish();
      this.#terminal.out(renderOutcome(migration));
    }
    if (!this.#outcomeShown && state === MigrationState.MOVED && !settled) {
      this.#line(
        `Settling, without downtime: ${migration.waitingFor || `${migration.source} reads its kept copy again`}`,
      );
    }
    this.#outcomeShown = true;
  }
}
