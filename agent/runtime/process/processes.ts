import { readFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Survivor } from '../runtime.ts';
import type { Cgroups } from './cgroup.ts';
import { Holders } from './holders.ts';
import { readStatNow } from './identity.ts';

/** Variable that marks every process of a Machine; its value is `AGENT_TAG.MACHINE_ID.INSTANCE_ID`. */
export const TAG_VARIABLE = 'FERRY_RUNTIME_TAG';

/** Processes looked at in one go; then others have their turn. */
const SLICE = 16;

const COMMAND_LENGTH_MAX = 200;

/**
 * Walks /proc for the processes of one Machine. A process can leave its process group, its session and its parent, so
 * none of these is looked at: it is in the Machine's cgroup, or has the tag in the environment that it was started
 * with, or keeps the volume open.
 */
export class Processes {
  readonly #agentTag: string;
  readonly #cgroups: Cgroups;

  constructor(agentTag: string, cgroups: Cgroups) {
    this.#agentTag = agentTag;
    this.#cgroups = cgroups;
  }

  /** The value of the tag variable for one start. */
  tag(machineId: string, instanceId: string): string {
    return `${this.#agentTag}.${machineId}.${instanceId}`;
  }

  /**
   * Every living process of the Machine, and every one that keeps one of `openPaths` open, without the agent itself and
   * its shims: those of `shims` and, where the value is true (the program has ended), their children, too.
   */
  async find(
    machineId: string,
    openPaths: readonly string[],
    shims: ReadonlyMap<number, boolean>,
  ): Promise<Survivor[]> {
    const members = new Set(await this.#cgroups.members(machineId));
    const holders = await Holders.of(openPaths);
    const survivors: Survivor[] = [];
    const pids = (await readdir('/proc')).filter((name) => /^[0-9]+$/.test(name)).map(Number);
    const look = async (pid: number): Promise<void> => {
      if (pid === process.pid || shims.has(pid)) return;
      const stat = readStatNow(pid);
      if (stat === undefined || stat.dead || shims.get(stat.parentPid) === true) return;
      const why = await this.#why(pid, stat.parentPid, machineId, members, holders);
      if (why !== undefined) survivors.push({ pid, command: readCommand(pid), why });
    };
    for (let at = 0; at < pids.length; at += SLICE) {
      await Promise.all(pids.slice(at, at + SLICE).map(look));
      await nextTurn();
    }
    return survivors;
  }

  /** Whether any process carries the tag of that very start. */
  async anyOf(machineId: string, instanceId: string): Promise<boolean> {
    const tag = `${TAG_VARIABLE}=${this.tag(machineId, instanceId)}`;
    for (const name of await readdir('/proc')) {
      if (/^[0-9]+$/.test(name) && readEnvironment(Number(name)).includes(tag)) {
        if (readStatNow(Number(name))?.dead === false) return true;
      }
    }
    return false;
  }

  async #why(
    pid: number,
    parentPid: number,
    machineId: string,
    members: ReadonlySet<number>,
    holders: Holders,
  ): Promise<Survivor['why'] | undefined> {
    if (members.has(pid)) return 'cgroup';
    const prefix = `${TAG_VARIABLE}=${this.#agentTag}.${machineId}.`;
    if (readEnvironment(pid).some((entry) => entry.startsWith(prefix))) return 'tag';
    // A direct child of the agent without a tag is one of its tools at work on the volume.
    if (parentPid !== process.pid && (await holders.holds(pid))) return 'open-file';
    return undefined;
  }
}

/** The environment that a process was started with; empty when we may not see it, and for kernel threads. */
function readEnvironment(pid: number): string[] {
  return readNow(`/proc/${pid}/environ`, 'latin1').split('\0');
}

function readCommand(pid: number): string {
  return readNow(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim().slice(0, COMMAND_LENGTH_MAX);
}

/** A file of /proc at once, see readStatNow; empty when it is not there or not for us. */
function readNow(path: string, encoding: 'latin1' | 'utf8'): string {
  try {
    return readFileSync(path, encoding);
  } catch {
    return '';
  }
}
