import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';

/** True when the program can be run here. */
export function hasProgram(name: string): boolean {
  return spawnSync(name, ['--version'], { stdio: 'ignore' }).error === undefined;
}

/** Runs a program to its end; resolves with its output and the milliseconds it took, rejects when it fails. */
export async function run(program: string, args: readonly string[]): Promise<{ output: string; ms: number }> {
  const startedAtMs = performance.now();
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  const output = await text(child.stdout);
  const code = await exited;
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${code}`);
  return { output, ms: performance.now() - startedAtMs };
}

/** A process that goes on until its `using` block ends. */
export class Background implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #exited: Promise<unknown>;

  /** `quiet` drops what it says on its standard error. */
  constructor(program: string, args: readonly string[], { quiet }: { quiet: boolean } = { quiet: false }) {
    this.#child = spawn(program, args, { stdio: ['pipe', 'pipe', quiet ? 'ignore' : 'inherit'] });
    this.#exited = new Promise((resolve) => this.#child.once('close', resolve));
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** The first line that it prints. */
  async firstLine(): Promise<string> {
    for await (const line of createInterface({ input: this.#child.stdout! })) return line;
    throw new Error('a process of the benchmark ended without a word');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill();
    await this.#exited;
  }
}
