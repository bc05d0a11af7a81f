import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';

/** A path that must not be open: a file by its inode, a mount point with everything on it, or a directory's tree. */
type Target = { readonly path: string; readonly dev: bigint; readonly ino: bigint; readonly wholeDevice: boolean };

/**
 * Finds out whether processes keep one of some paths open: as an open file, working directory, root directory or
 * memory map. Names are not enough, as another mount namespace has other names: device and inode are compared too.
 * A process that we may not look into (another user's) counts as not holding.
 */
export class Holders {
  readonly #targets: readonly Target[];

  private constructor(targets: readonly Target[]) {
    this.#targets = targets;
  }

  /** Paths that do not exist are held by nobody. */
  static async of(paths: readonly string[]): Promise<Holders> {
    const targets = await Promise.all(paths.map(resolveTarget));
    return new Holders(targets.filter((target) => target !== undefined));
  }

  get empty(): boolean {
    return this.#targets.length === 0;
  }

  /** Reads at once what /proc has in memory (see readStatNow); a file's disk may take its time to answer. */
  async holds(pid: number): Promise<boolean> {
    if (this.empty) return false;
    const links = [`/proc/${pid}/cwd`, `/proc/${pid}/root`];
    try {
      for (const fd of readdirSync(`/proc/${pid}/fd`)) links.push(`/proc/${pid}/fd/${fd}`);
    } catch {
      return false;
    }
    // Sockets, pipes and anonymous inodes have no path.
    const files = links.map((link) => ({ link, path: pathBehind(link) })).filter(({ path }) => path.startsWith('/'));
    if (files.some(({ path }) => this.#targets.some((target) => isWithin(path, target.path)))) return true;
    const inside = await Promise.all(files.map(({ link }) => this.#isTarget(link)));
    return inside.includes(true) || this.#maps(pid);
  }

  async #isTarget(link: string): Promise<boolean> {
    const found = await stat(link, { bigint: true }).catch(() => undefined);
    if (found === undefined) return false;
    return this.#targets.some((t) => t.dev === found.dev && (t.wholeDevice || t.ino === found.ino));
  }

  #maps(pid: number): boolean {
    let maps: string;
    try {
      maps = readFileSync(`/proc/${pid}/maps`, 'latin1');
    } catch {
      return false;
    }
    // Most name nothing of ours: told without taking them apart.
    if (!this.#targets.some((t) => maps.includes(t.path) || maps.includes(` ${hexDevice(t.dev)} `))) return false;
    for (const line of maps.split('\n')) {
      const [, , , device, inode, path] = line.split(/\s+/, 6);
      if (inode === undefined || inode === '0') continue;
      const held = this.#targets.some((target) => {
        if (path !== undefined && isWithin(path, target.path)) return true;
        return device === hexDevice(target.dev) && (target.wholeDevice || inode === String(target.ino));
      });
      if (held) return true;
    }
    return false;
  }
}

function pathBehind(link: string): string {
  try {
    return readlinkSync(link);
  } catch {
    return '';
  }
}

async function resolveTarget(path: string): Promise<Target | undefined> {
  const found = await stat(path, { bigint: true }).catch(() => undefined);
  if (found === undefined) return undefined;
  const parent = await stat(dirname(path), { bigint: true });
  // A directory on another device than its parent is a mount point: the whole device is the Machine's.
  const wholeDevice = found.isDirectory() && found.dev !== parent.dev;
  return { path, dev: found.dev, ino: found.ino, wholeDevice };
}

function isWithin(path: string, target: string): boolean {
  return path === target || path.startsWith(`${target}/`) || path === `${target} (deleted)`;
}

/** A device number as /proc/PID/maps prints it: major:minor, hexadecimal. */
function hexDevice(dev: bigint): string {
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & ~0xfffn);
  const minor = (dev & 0xffn) | ((dev >> 12n) & ~0xffn);
  return [major, minor].map((part) => part.toString(16).padStart(2, '0')).join(':');
}
