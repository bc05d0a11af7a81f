// An observer outside Ferry: looks at /proc as often as it can and writes down which Machine is alive for which agent.
// Runs as a process of its own, so that no event loop under test can blind it. Ends, and reports, when its input closes.
import { readdirSync, readFileSync } from 'node:fs';

/** Which Machines were alive from this moment on: "<machine> <agent tag>" each. */
export interface Sighting {
  readonly atMs: number;
  readonly alive: readonly string[];
}

/** What the observer saw. */
export interface Report {
  readonly samples: number;
  /** Longest time between two looks, in milliseconds. */
  readonly longestBlindMs: number;
  /** Changes only. */
  readonly sightings: readonly Sighting[];
}

const tagName = 'FERRY_RUNTIME_TAG=';

/** Tag of a process, or "" for all that are no Machine's; told once for each process. */
const known = new Map<string, string>();

function tagOf(pid: string): string {
  let tag = known.get(pid);
  if (tag !== undefined) return tag;
  try {
    const environment = readFileSync(`/proc/${pid}/environ`, 'latin1');
    const entry = environment.split('\0').find((each) => each.startsWith(tagName));
    tag = entry?.slice(tagName.length) ?? '';
    // A program that wrote its title over its environment (redis-server does) is told by its cgroup.
    if (!environment.includes('=')) tag = cgroupTagOf(pid);
  } catch {
    tag = '';
  }
  return tag;
}

function cgroupTagOf(pid: string): string {
  const match = /\/ferry\/([^/]+)\/([0-9a-f]{14})$/m.exec(readFileSync(`/proc/${pid}/cgroup`, 'latin1'));
  return match === null ? '' : `${match[1]}.${match[2]}`;
}

function look(): string {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  const here = new Set(pids);
  for (const pid of known.keys()) if (!here.has(pid)) known.delete(pid);
  const alive = new Set<string>();
  for (const pid of pids) {
    const tag = tagOf(pid);
    // A process that has not begun its program yet has another environment then: look again next time.
    if (tag !== '') known.set(pid, tag);
    if (tag === '' || isZombie(pid)) continue;
    const [agent, machine] = tag.split('.');
    alive.add(`${machine} ${agent}`);
  }
  return [...alive].sort().join('\n');
}

function isZombie(pid: string): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat.slice(stat.lastIndexOf(')') + 2, stat.lastIndexOf(')') + 3) === 'Z';
  } catch {
    return true;
  }
}

if (process.argv[1]?.endsWith('observer.ts')) {
  const sightings: Sighting[] = [];
  let samples = 0;
  let longestBlindMs = 0;
  let last = '';
  let lastMs = Date.now();
  const tick = () => {
    const now = Date.now();
    longestBlindMs = Math.max(longestBlindMs, now - lastMs);
    lastMs = now;
    samples += 1;
    const seen = look();
    if (seen !== last) sightings.push({ atMs: now, alive: seen === '' ? [] : seen.split('\n') });
    last = seen;
  };
  const timer = setInterval(tick, 4);
  process.stdin.resume();
  process.stdin.on('end', () => {
    clearInterval(timer);
    process.stdout.write(JSON.stringify({ samples, longestBlindMs, sightings } satisfies Report), () =>
      process.exit(0),
    );
  });
}
