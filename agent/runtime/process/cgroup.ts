import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';

/** Where cgroups are mounted. A host can have v2, v1 hierarchies, or both. */
interface Mounts {
  readonly v2: string | null;
  readonly v1Memory: string | null;
}

/**
 * The cgroups of one agent's Machines: `<mount>/ferry/<agent tag>/<machine>` in the v2 hierarchy and, on hosts where
 * the memory controller is still on v1, in that one too. Top-level, so that whoever ends the agent's own cgroup does
 * not end its Machines.
 */
export class Cgroups {
  /** Parent directories of the Machines' groups; membership is looked for in each. */
  readonly #parents: readonly string[];
  readonly #memory: { readonly parent: string; readonly version: 1 | 2 } | null;

  #turn: Promise<unknown> = Promise.resolve();

  private constructor(parents: readonly string[], memory: { parent: string; version: 1 | 2 } | null) {
    this.#parents = parents;
    this.#memory = memory;
  }

  /** Finds out, by trying, which cgroups work here. Never throws: what does not work is left out. */
  static async detect(agentTag: string): Promise<Cgroups> {
    const mounts = parseMounts(await readFile('/proc/self/mounts', 'latin1').catch(() => ''));
    const parents: string[] = [];
    let memory: { parent: string; version: 1 | 2 } | null = null;
    if (mounts.v2 !== null) {
      const parent = join(mounts.v2, 'ferry', agentTag);
      const probed = await probe(parent);
      if (probed.works) parents.push(parent);
      if (probed.limitsMemory) memory = { parent, version: 2 };
    }
    if (mounts.v1Memory !== null && memory === null) {
      const parent = join(mounts.v1Memory, 'ferry', agentTag);
      if ((await probe(parent)).works) {
        parents.push(parent);
        memory = { parent, version: 1 };
      }
    }
    return new Cgroups(parents, memory);
  }

  get limitsMemory(): boolean {
    return this.#memory !== null;
  }

  /** Makes the Machine's groups and sets its memory limit. Returns the cgroup.procs files that it has to join. */
  prepare(machineId: string, memoryMb: number | null): Promise<string[]> {
    return this.#inTurn(async () => {
      for (const parent of this.#parents) await makeGroup(join(parent, machineId));
      if (this.#memory !== null) await this.#limit(join(this.#memory.parent, machineId), memoryMb);
      return this.#parents.map((parent) => join(parent, machineId, 'cgroup.procs'));
    });
  }

  /** PIDs in the Machine's groups, also in groups that it made below them. */
  async members(machineId: string): Promise<number[]> {
    const pids = new Set<number>();
    for (const parent of this.#parents) await collect(join(parent, machineId), pids);
    return [...pids];
  }

  /** Asks the kernel to kill a whole group at once, where it can (v2). Others are killed one by one. */
  async kill(machineId: string): Promise<void> {
    for (const parent of this.#parents) await writeFile(join(parent, machineId, 'cgroup.kill'), '1').catch(() => {});
  }

  /** How often the kernel killed a process of the Machine for lack of memory, so far; null = unknown. */
  async oomKills(machineId: string): Promise<number | null> {
    if (this.#memory === null) return null;
    const file = this.#memory.version === 2 ? 'memory.events' : 'memory.oom_control';
    const match = /^oom_kill (\d+)$/m.exec(await readText(join(this.#memory.parent, machineId, file)));
    return match === null ? null : Number(match[1]);
  }

  /** Removes the Machine's groups, which must be empty (one that is not stays), and those above that nobody needs now. */
  remove(machineId: string): Promise<void> {
    return this.#inTurn(async () => {
      for (const parent of this.#parents) {
        await removeTree(join(parent, machineId));
        await removeEmpty(parent);
      }
    });
  }

  /** Making one group and removing those above another must not meet. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => {});
    return done;
  }

  async #limit(group: string, memoryMb: number | null): Promise<void> {
    const bytes = memoryMb === null ? null : String(memoryMb * 1024 * 1024);
    if (this.#memory?.version === 2) {
      await writeFile(join(group, 'memory.max'), bytes ?? 'max');
      await writeFile(join(group, 'memory.swap.max'), bytes === null ? 'max' : '0').catch(() => {});
      return;
    }
    // v1 keeps limit <= memory + swap at all times: open that one first, close it last. It is missing without swap accounting.
    const swap = join(group, 'memory.memsw.limit_in_bytes');
    await writeFile(swap, '-1').catch(() => {});
    await writeFile(join(group, 'memory.limit_in_bytes'), bytes ?? '-1');
    if (bytes !== null) await writeFile(swap, bytes).catch(() => {});
  }
}

/** Reads /proc/self/mounts. Mount points with spaces (\040) do not occur for cgroups and are skipped. */
export function parseMounts(text: string): Mounts {
  let v2: string | null = null;
  let v1Memory: string | null = null;
  for (const line of text.split('\n')) {
    const [, path, type, options] = line.split(' ');
    if (path === undefined || path.includes('\\')) continue;
    if (type === 'cgroup2') v2 ??= path;
    if (type === 'cgroup' && options?.split(',').includes('memory')) v1Memory ??= path;
  }
  return { v2, v1Memory };
}

/** Makes a group `<mount>/ferry/<agent tag>/<name>`, with the memory controller where that is on v2. */
async function makeGroup(group: string): Promise<void> {
  const parent = dirname(group);
  const above = [dirname(dirname(parent)), dirname(parent), parent];
  for (let attempt = 0; ; attempt++) {
    try {
      await mkdir(parent, { recursive: true });
      // v1 has no such file, and on v2 the controller may be elsewhere.
      for (const path of above) await writeFile(join(path, 'cgroup.subtree_control'), '+memory').catch(() => {});
      return await mkdir(group).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'EEXIST') throw error;
      });
    } catch (error) {
      // Another agent of this host has just removed the empty group above.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || attempt === 3) throw error;
    }
  }
}

/** Whether a process can be put into a new group here: the only proof is to do it. */
async function probe(parent: string): Promise<{ works: boolean; limitsMemory: boolean }> {
  const group = join(parent, `probe-${process.pid}`);
  try {
    await makeGroup(group);
    const limitsMemory = (await readText(join(group, 'memory.max'))) !== '';
    const child = spawn('/bin/sh', ['-c', 'echo 0 >"$1"', 'probe', join(group, 'cgroup.procs')], { stdio: 'ignore' });
    const [code] = await once(child, 'exit');
    return { works: code === 0, limitsMemory: code === 0 && limitsMemory };
  } catch {
    return { works: false, limitsMemory: false };
  } finally {
    await rmdir(group).catch(() => {});
    await removeEmpty(parent);
  }
}

/** Removes the agent's group and the one of all agents, if they are empty. */
async function removeEmpty(parent: string): Promise<void> {
  await rmdir(parent).catch(() => {});
  await rmdir(dirname(parent)).catch(() => {});
}

async function collect(group: string, pids: Set<number>): Promise<void> {
  for (const line of (await readText(join(group, 'cgroup.procs'))).split('\n')) if (line !== '') pids.add(Number(line));
  for (const child of await childGroups(group)) await collect(child, pids);
}

async function removeTree(group: string): Promise<void> {
  for (const child of await childGroups(group)) await removeTree(child);
  await rmdir(group).catch(() => {});
}

async function childGroups(group: string): Promise<string[]> {
  const entries = await readdir(group, { withFileTypes: true }).catch(() => []);
  return entries.filter((entry) => entry.isDirectory()).map((entry) => join(group, entry.name));
}

function readText(path: string): Promise<string> {
  return readFile(path, 'latin1').catch(() => '');
}
