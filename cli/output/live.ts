import type { Terminal } from '../context.ts';

/**
 * A block of lines at the bottom of a terminal that is drawn over and over in place, with lasting lines above it. Each
 * drawing is one write that overwrites what is there instead of clearing it first, so that nothing flickers; lines are
 * cut at the edge, and the block is never higher than the window, so that the way back to its first line is known.
 */
export class LiveBlock {
  readonly #terminal: Pick<Terminal, 'out' | 'columns' | 'rows'>;
  /** Lines of the block as it stands. */
  #height = 0;

  constructor(terminal: Pick<Terminal, 'out' | 'columns' | 'rows'>) {
    this.#terminal = terminal;
  }

  /** Lines that a block may have now. */
  get heightMax(): number {
    return Math.max(3, this.#terminal.rows() - 1);
  }

  /** Puts `lasting` where the block was, and the block below it. */
  draw(lasting: readonly string[], block: readonly string[]): void {
    const width = Math.max(20, this.#terminal.columns() - 1);
    const cut = block.slice(0, this.heightMax).map((line) => line.slice(0, width));
    const lines = [...lasting, ...cut].map((line) => `${line}\x1b[K\n`);
    // What is left of a higher block is cleared last.
    this.#terminal.out(`${this.#toTop()}${lines.join('')}\x1b[J`);
    this.#height = cut.length;
  }

  /** Takes the block away. */
  finish(): void {
    if (this.#height > 0) this.#terminal.out(`${this.#toTop()}\x1b[J`);
    this.#height = 0;
  }

  #toTop(): string {
    return this.#height === 0 ? '' : `\x1b[${this.#height}A\r`;
  }
}
