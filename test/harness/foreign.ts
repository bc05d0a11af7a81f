import { type ChildProcess, spawn } from 'node:child_process';

/** A process that has nothing to do with Ferry, and ends with the test. */
export interface Foreign extends AsyncDisposable {
  readonly pid: number;
  readonly child: ChildProcess;
}

/** Starts one; resolves once it runs. */
export async function foreign(command: string, args: readonly string[], cwd = '/'): Promise<Foreign> {
  const child = spawn(command, args, { cwd, stdio: ['ignore', 'pipe', 'inherit'] });
  await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.stdout.once('data', resolve);
  });
  return {
    pid: child.pid!,
    child,
    [Symbol.asyncDispose]: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const gone = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGKILL');
      await gone;
    },
  };
}
