import { type Files, namesIfThere, readIfThere } from './files.ts';
import { deviceName, parseMountinfo } from './mountinfo.ts';

/** A process that keeps a volume in use. */
export interface Holder {
  readonly pid: number;
  /** Start of the process in clock ticks since boot: with the PID it names one process for good. */
  readonly startTimeTicks: number;
  /** Its command line, at most 200 characters. */
  readonly command: string;
  readonly how: 'cwd' | 'root' | 'fd' | 'mmap' | 'mount-namespace';
  /** The file or the mount point that it holds. */
  readonly path: string;
  /** True for the agent's own process: close the file instead of killing it. */
  readonly isAgent: boolean;
}

/** What is searched for: the image file itself, unless null, and the devices (`major:minor`) it is attached to. */
export interface HeldThing {
  readonly image: { readonly path: string; readonly dev: number; readonly ino: number } | null;
  readonly devices: readonly string[];
}

/**
 * Finds the processes that hold an image or the file system in it, through `/proc`. One process can be named several
 * times, once for each way of holding. Not to be seen: other users' processes unless the agent is root, processes of other
 * PID namespaces, and a mount namespace kept alive by a file only.
 */
export async function findHolders(files: Files, thing: HeldThing, agentPid: number): Promise<Holder[]> {
  const pids = (await namesIfThere(files, '/proc')).filter((name) => /^\d+$/.test(name));
  const search = new HolderSearch(files, thing, agentPid);
  for (const pid of pids) await search.look(pid, `/proc/${pid}`);
  if (search.found.length > 0) return search.found;
  // Seldom, a thread has its own folder, files or namespace, or the main thread has ended before the others.
  for (const pid of pids) {
    const threads = await namesIfThere(files, `/proc/${pid}/task`);
    for (const thread of threads) if (thread !== pid) await search.look(pid, `/proc/${pid}/task/${thread}`);
  }
  return search.found;
}

class HolderSearch {
  readonly found: Holder[] = [];
  readonly #files: Files;
  readonly #thing: HeldThing;
  readonly #agentPid: number;
  readonly #mountPointsByNamespace = new Map<string, string | null>();

  constructor(files: Files, thing: HeldThing, agentPid: number) {
    this.#files = files;
    this.#thing = thing;
    this.#agentPid = agentPid;
  }

  async look(pid: string, folder: string): Promise<void> {
    const ways: [Holder['how'], string | null][] = [
      ['cwd', await this.#held(`${folder}/cwd`)],
      ['root', await this.#held(`${folder}/root`)],
      ['fd', await this.#heldFile(folder)],
      ['mmap', await this.#heldMapping(folder)],
      ['mount-namespace', await this.#heldMount(folder)],
    ];
    for (const [how, path] of ways) {
      if (path === null || this.found.some((holder) => holder.pid === Number(pid) && holder.how === how)) continue;
      this.found.push({ ...(await this.#describe(pid)), how, path });
    }
  }

  /** The path behind a link in /proc if it leads to the volume. */
  async #held(link: string): Promise<string | null> {
    try {
      const path = await this.#files.readlink(link);
      // Sockets and pipes ("socket:[1]") are on no disk. Others are asked, even deleted ones.
      if (!path.startsWith('/')) return null;
      const { dev, rdev, ino } = await this.#files.stat(link);
      const isInside = this.#thing.devices.some((device) => device === deviceName(dev) || device === deviceName(rdev));
      const isImage = dev === this.#thing.image?.dev && ino === this.#thing.image.ino;
      return isInside || isImage ? path : null;
    } catch {
      return null;
    }
  }

  async #heldFile(folder: string): Promise<string | null> {
    for (const name of await namesIfThere(this.#files, `${folder}/fd`)) {
      const path = await this.#held(`${folder}/fd/${name}`);
      if (path !== null) return path;
    }
    return null;
  }

  async #heldMapping(folder: string): Promise<string | null> {
    const maps = (await readIfThere(this.#files, `${folder}/maps`)) ?? '';
    const { image, devices } = this.#thing;
    for (const line of maps.split('\n')) {
      // address perms offset major:minor(hex) inode path
      const match = /^\S+ \S+ \S+ ([0-9a-f]+):([0-9a-f]+) (\d+)\s+(.*)$/.exec(line);
      if (!match || match[3] === '0') continue;
      const device = `${Number.parseInt(match[1]!, 16)}:${Number.parseInt(match[2]!, 16)}`;
      if (devices.includes(device)) return match[4]!;
      if (!image || match[3] !== String(image.ino)) continue;
      // btrfs shows another device number here than in stat(), so the name counts as well.
      if (device === deviceName(image.dev) || match[4] === image.path) return match[4]!;
    }
    return null;
  }

  /** The volume's mount point in the process's mount namespace, if that is not the agent's own namespace. */
  async #heldMount(folder: string): Promise<string | null> {
    const namespace = await this.#namespace(folder);
    if (namespace === null || namespace === (await this.#namespace('/proc/self'))) return null;
    let mountPoint = this.#mountPointsByNamespace.get(namespace);
    if (mountPoint === undefined) {
      const mounts = parseMountinfo((await readIfThere(this.#files, `${folder}/mountinfo`)) ?? '');
      mountPoint = mounts.find((mount) => this.#thing.devices.includes(mount.device))?.mountPoint ?? null;
      this.#mountPointsByNamespace.set(namespace, mountPoint);
    }
    return mountPoint;
  }

  async #namespace(folder: string): Promise<string | null> {
    try {
      return await this.#files.readlink(`${folder}/ns/mnt`);
    } catch {
      return null;
    }
  }

  async #describe(pid: string): Promise<Pick<Holder, 'pid' | 'startTimeTicks' | 'command' | 'isAgent'>> {
    const stat = (await readIfThere(this.#files, `/proc/${pid}/stat`)) ?? '';
    const commandLine = (await readIfThere(this.#files, `/proc/${pid}/cmdline`)) ?? '';
    // proc(5): "pid (name) state …", the name may hold anything; the start time is field 22.
    const name = stat.slice(stat.indexOf('(') + 1, stat.lastIndexOf(')'));
    const startTimeTicks = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? 0);
    const command = (commandLine.replaceAll('\0', ' ').trim() || name).slice(0, 200);
    return { pid: Number(pid), startTimeTicks, command, isAgent: Number(pid) === this.#agentPid };
  }
}
