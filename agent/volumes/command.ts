import { type ChildProcess, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';

/** How a program ended. Exactly one of `exitCode` and `signal` is set. Texts are UTF-8. */
export interface CommandResult {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program without a shell and returns how it ended, whatever its exit code. Throws CommandError. */
export type Run = (
  program: string,
  args: readonly string[],
  options: { readonly timeoutMs: number },
) => Promise<CommandResult>;

/**
 * Thrown when a program could not be run to its end: `missing` (not installed, or not for this user), `not_started` (the system refused),
 * `timeout` (killed at its deadline; what it had done by then is unknown), `output_too_large` (killed).
 */
export class CommandError extends Error {
  override readonly name = 'CommandError';
  readonly reason: 'missing' | 'not_started' | 'timeout' | 'output_too_large';
  readonly program: string;

  constructor(reason: CommandError['reason'], program: string, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.reason = reason;
    this.program = program;
  }
}

/**
 * Makes a Run on real processes.
 *
 * @param options.searchPath PATH for the programs; the sbin folders, which ordinary users lack, are added
 * @param options.outputLimitBytes the most that a program may print to either stream (1 MiB by default); then it is killed
 */
export function commandRunner(options: {
  readonly searchPath: string | undefined;
  readonly outputLimitBytes?: number;
}): Run {
  const limitBytes = options.outputLimitBytes ?? 1024 * 1024;
  const path = [options.searchPath, '/usr/sbin', '/usr/bin', '/sbin', '/bin'].filter(Boolean).join(':');

  return (program, args, { timeoutMs }) =>
    new Promise((resolve, reject) => {
      const refused = (error: NodeJS.ErrnoException) => {
        // EACCES is also what a search ends with that found nothing but met a folder closed to this user.
        const isMissing = error.code === 'ENOENT' || error.code === 'EACCES';
        const text = isMissing
          ? `${program} is not installed for this user (searched ${path})`
          : `${program}: ${error.message}`;
        return new CommandError(isMissing ? 'missing' : 'not_started', program, text, error);
      };
      let child: ChildProcess;
      try {
        child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { PATH: path, LC_ALL: 'C' } });
      } catch (error) {
        reject(refused(error as NodeJS.ErrnoException));
        return;
      }
      const fail = (error: CommandError) => {
        clearTimeout(deadline);
        child.kill('SIGKILL');
        // A program stuck in the kernel does not die of SIGKILL: nobody waits for it here.
        child.stdout?.destroy();
        child.stderr?.destroy();
        child.unref();
        reject(error);
      };
      const deadline = setTimeout(
        () => fail(new CommandError('timeout', program, `${program} did not end within ${timeoutMs} ms`)),
        timeoutMs,
      );
      const tooLarge = () =>
        fail(new CommandError('output_too_large', program, `${program} printed more than ${limitBytes} bytes`));
      // Without file descriptors left there are no streams, only the error event.
      const stdout = collect(child.stdout, limitBytes, tooLarge);
      const stderr = collect(child.stderr, limitBytes, tooLarge);
      child.on('error', (error) => fail(refused(error)));
      child.on('close', (exitCode, signal) => {
        clearTimeout(deadline);
        resolve({ exitCode, signal, stdout: stdout(), stderr: stderr() });
      });
    });
}

function collect(stream: Readable | null, limitBytes: number, tooLarge: () => void): () => string {
  const chunks: Buffer[] = [];
  let sizeBytes = 0;
  stream?.on('data', (chunk: Buffer) => {
    sizeBytes += chunk.length;
    if (sizeBytes <= limitBytes) chunks.push(chunk);
    else tooLarge();
  });
  return () => Buffer.concat(chunks).toString();
}

/** One line that says how a program failed: its exit and the end of what it printed. */
export function describeFailure(program: string, result: CommandResult): string {
  const end = result.signal ? `was killed by ${result.signal}` : `ended with exit code ${result.exitCode}`;
  const said = (result.stderr.trim() || result.stdout.trim()).replaceAll(/\s+/g, ' ').slice(-400);
  return said ? `${program} ${end}: ${said}` : `${program} ${end}`;
}
