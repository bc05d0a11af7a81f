import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

/**
 * Ends what a cluster under `dataDir` could not end in the ordinary way, because a daemon had died: processes of its
 * Machines, mounts and loop devices of its volumes. Finds nothing after an ordinary end.
 */
export async function sweepLeftovers(dataDir: string, machineIds: ReadonlySet<string>): Promise<void> {
  for (const pid of await machineProcesses(dataDir, machineIds)) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It ended meanwhile.
    }
  }
  for (const path of await mountsUnder(dataDir)) await run('umount', [path]).catch(() => undefined);
  for (const device of await loopsUnder(dataDir)) await run('losetup', ['-d', device]).catch(() => undefined);
}

/** Processes that carry a Machine's tag: of one of these Machines, or with a path under `dataDir` in their environment. */
export async function machineProcesses(dataDir: string, machineIds: ReadonlySet<string>): Promise<number[]> {
  const found: number[] = [];
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const environment = await readFile(`/proc/${name}/environ`, 'latin1').catch(() => '');
    const tag = environment.split('\0').find((entry) => entry.startsWith('FERRY_RUNTIME_TAG='));
    if (tag === undefined) continue;
    if (environment.includes(`=${dataDir}/`) || machineIds.has(tag.split('.').at(-2) ?? '')) found.push(Number(name));
  }
  return found;
}

/** Mount points under `dataDir`, the innermost first. */
export async function mountsUnder(dataDir: string): Promise<string[]> {
  const table = await readFile('/proc/self/mountinfo', 'utf8');
  return table
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((path) => path.startsWith(`${dataDir}/`))
    .reverse();
}

/** Loop devices of files under `dataDir`. */
export async function loopsUnder(dataDir: string): Promise<string[]> {
  const devices: string[] = [];
  for (const name of await readdir('/sys/block').catch(() => [])) {
    if (!name.startsWith('loop')) continue;
    const file = await readFile(`/sys/block/${name}/loop/backing_file`, 'utf8').catch(() => '');
    if (file.startsWith(`${dataDir}/`)) devices.push(`/dev/${name}`);
  }
  return devices;
}
