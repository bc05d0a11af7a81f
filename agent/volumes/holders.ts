import { type Files, namesIfThere, readIfThere } from './files.ts';
import { deviceName, parseMountinfo } from './mountinfo.ts';

const placesAtOnce = 16;

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
  await search.lookAtAll(pids.map((pid) => ({ pid, folder: `/proc/${pid}` })));
  if (search.found.length > 0) return search.sorted();
  // Seldom, a thread has its own folder, files or namespace, or the main thread has ended before the others.
  for (const pid of pids) {
    const threads = (await namesIfThere(files, `/proc/${pid}/task`)).filter((thread) => thread !== pid);
    await search.lookAtAll(threads.map((thread) => ({ pid, folder: `/proc/${pid}/task/${thread}` })));
  }
  return search.sorted();
}

class HolderSearch {
  readonly found: Holder[] = [];
  readonly #files: Files;
  readonly #thing: HeldThing;
  readonly #agentPid: number;
  #ownNamespace: Promise<string | null> | undefined;
  readonly #mountPointsByNamespace = new Map<string, string | null>();

  constructor(files: Files, thing: HeldThing, agentPid: number) {
    this.#files = files;
    this.#thing = thing;
    this.#agentPid = agentPid;
  }

  sorted(): Holder[] {
    return this.found.sort((a, b) => a.pid - b.pid || a.how.localeCompare(b.how));
  }

  async lookAtAll(places: readonly { readonly pid: string; readonly folder: string }[]): Promise<void> {
    for (let start = 0; start < places.length; start += placesAtOnce) {
      const group = places.slice(start, start + placesAtOnce);
      await Promise.all(group.map(({ pid, folder }) => this.#look(pid, folder)));
    }
  }

  async #look(pid: string, folder: string): Promise<void> {
    // Kernel threads have no program, others' processes show none: there is nothing more to see of either.
    if ((await this.#link(`${folder}/exe`)) === null) return;
    const ways = await Promise.all([
      this.#held(`${folder}/cwd`).then((path) => ({ how: 'cwd' as const, path })),
      this.#held(`${folder}/root`).then((path) => ({ how: 'root' as const, path })),
      this.#heldFile(folder).then((path) => ({ how: 'fd' as const, path })),
      this.#heldMapping(folder).then((path) => ({ how: 'mmap' as const, path })),
      this.#heldMount(folder).then((path) => ({ how: 'mount-namespace' as const, path })),
    ]);
    for (const { how, path } of ways) {
      if (path === null) continue;
      const holder = { ...(await this.#describe(pid)), how, path };
      if (!this.found.some((other) => other.pid === holder.pid && other.how === how)) this.found.push(holder);
    }
  }

  /** The path behind a link in /proc if it leads to the volume. */
  async #held(link: string): Promise<string | null> {
    const path = await this.#link(link);
    // Sockets and pipes ("socket:[1]") are on no disk. Others are asked, even deleted ones.
    if (!path?.startsWith('/')) return null;
    try {
      const stat = await this.#files.stat(link);
      const { dev, ino } = stat;
      // Character devices have numbers of their own: 7:0 is a loop device or a console's screen.
      const device = stat.isBlockDevice() ? deviceName(stat.rdev) : deviceName(dev);
      const isInside = this.#thing.devices.includes(device);
      const isImage = dev === this.#thing.image?.dev && ino === this.#thing.image.ino;
      return isInside || isImage ? path : null;
    } catch {
      return null;
    }
  }

  async #heldFile(folder: string): Promise<string | null> {
    const names = await namesIfThere(this.#files, `${folder}/fd`);
    for (let start = 0; start < names.length; start += placesAtOnce) {
      const group = names.slice(start, start + placesAtOnce);
      const paths = await Promise.all(group.map((name) => this.#held(`${folder}/fd/${name}`)));
      const held = paths.find((path) => path !== null);
      if (held !== undefined) return held;
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
    this.#ownNamespace ??= this.#link('/proc/self/ns/mnt');
    const namespace = await this.#link(`${folder}/ns/mnt`);
    if (namespace === null || namespace === (await this.#ownNamespace)) return null;
    let mountPoint = this.#mountPointsByNamespace.get(namespace);
    if (mountPoint === undefined) {
      const mounts = parseMountinfo((await readIfThere(this.#files, `${folder}/mountinfo`)) ?? '');
      mountPoint = mounts.find((mount) => this.#thing.devices.includes(mount.device))?.mountPoint ?? null;
      this.#mountPointsByNamespace.set(namespace, mountPoint);
    }
    return mountPoint;
  }

  async #link(path: string): Promise<string | null> {
    try {
      return await this.#files.readlink(path);
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
