import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { networkInterfaces } from 'node:os';

/** A Machine that may have left something behind. */
export interface KnownMachine {
  readonly id: string;
  /** 6PN address, which stays on the loopback interface while the Machine is not destroyed. */
  readonly privateIp: string;
}

/**
 * Ends what a cluster under `dataDir` could not end in the ordinary way, because a daemon had died or there was no time:
 * processes of its Machines, their 6PN addresses, mounts and loop devices of its volumes. Finds nothing after an ordinary
 * end. Synchronous, so that it also works while the process exits.
 */
export function sweepLeftovers(dataDir: string, machines: readonly KnownMachine[]): void {
  const pids = machineProcesses(dataDir, machines);
  const addresses = addressesLeft([...machines.map(({ privateIp }) => privateIp), ...pids.map(addressOf)]);
  for (const pid of pids) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It ended meanwhile.
    }
  }
  for (const path of mountsUnder(dataDir)) spawnSync('umount', [path]);
  for (const device of loopsUnder(dataDir)) spawnSync('losetup', ['-d', device]);
  for (const address of addresses) spawnSync('ip', ['-6', 'addr', 'del', `${address}/128`, 'dev', 'lo']);
}

/** Processes with a Machine's tag: of one of these Machines, or that write or find their volume under `dataDir`. */
export function machineProcesses(dataDir: string, machines: readonly KnownMachine[]): number[] {
  const found: number[] = [];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const environment = attempt(() => readFileSync(`/proc/${name}/environ`, 'latin1'));
    const tag = environment.split('\0').find((entry) => entry.startsWith('FERRY_RUNTIME_TAG='));
    // A program that writes its title over its environment (redis-server does) is told by its cgroup.
    const cgroup =
      tag === undefined
        ? /\/ferry\/[^/]+\/([0-9a-f]{14})$/m.exec(attempt(() => readFileSync(`/proc/${name}/cgroup`, 'utf8')))
        : null;
    // One that has ended has no environment, and stays in its cgroup until its parent looks.
    if (tag === undefined && (cgroup === null || isZombie(name))) continue;
    const machineId = tag?.split('.').at(-2) ?? cgroup?.[1] ?? '';
    const links = ['fd/1', 'fd/2', 'cwd'].map((link) => attempt(() => readlinkSync(`/proc/${name}/${link}`)));
    const isOurs = environment.includes(`=${dataDir}/`) || links.some((path) => path.startsWith(`${dataDir}/`));
    if (isOurs || machines.some(({ id }) => id === machineId)) found.push(Number(name));
  }
  return found;
}

function isZombie(pid: string): boolean {
  const stat = attempt(() => readFileSync(`/proc/${pid}/stat`, 'latin1'));
  return stat.slice(stat.lastIndexOf(')') + 2).startsWith('Z');
}

/** Mount points under `dataDir`, the innermost first. */
export function mountsUnder(dataDir: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((path) => path.startsWith(`${dataDir}/`))
    .reverse();
}

/** Loop devices of files under `dataDir`. */
export function loopsUnder(dataDir: string): string[] {
  const devices: string[] = [];
  for (const name of readdirSync('/sys/block')) {
    if (!name.startsWith('loop')) continue;
    const file = attempt(() => readFileSync(`/sys/block/${name}/loop/backing_file`, 'utf8'));
    if (file.startsWith(`${dataDir}/`)) devices.push(`/dev/${name}`);
  }
  return devices;
}

/** Those of the addresses that are still on this machine. */
export function addressesLeft(addresses: readonly string[]): string[] {
  const here = new Set((networkInterfaces().lo ?? []).map(({ address }) => address));
  return addresses.filter((address) => here.has(address));
}

function addressOf(pid: number): string {
  return variable(environmentOf(String(pid)), 'FERRY_PRIVATE_IP');
}

function environmentOf(pid: string): string {
  return attempt(() => readFileSync(`/proc/${pid}/environ`, 'latin1'));
}

function variable(environment: string, name: string): string {
  const entry = environment.split('\0').find((each) => each.startsWith(`${name}=`));
  return entry?.slice(name.length + 1) ?? '';
}

/** What `read` answers; "" where there is nothing, or nothing that we may see. */
function attempt(read: () => string): string {
  try {
    return read();
  } catch {
    return '';
  }
}
