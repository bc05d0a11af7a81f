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

/** What is known of each process: its tag, or "" for all that are no Machine's, and when to look again. */
const known = new Map<string, { readonly tag: string; readonly bornMs: number; readonly againMs: number }>();
/** Between fork and program a process has another environment: it is read at each look while it is so young. */
const youngMs = 1000;
const againMs = 250;

function tagOf(pid: string, now: number): string {
  const before = known.get(pid);
  if (before !== undefined && (before.tag !== '' || now < before.againMs)) return before.tag;
  const tag = readTag(pid);
  const bornMs = before?.bornMs ?? now;
  known.set(pid, { tag, bornMs, againMs: now - bornMs < youngMs ? now : now + againMs });
  return tag;
}

function readTag(pid: string): string {
  try {
    const environment = readFileSync(`/proc/${pid}/environ`, 'latin1');
    // A program that wrote its title over its environment (redis-server does) is told by its cgroup.
    if (!environment.includes('=')) return cgroupTagOf(pid);
    const entry = environment.split('\0').find((each) => each.startsWith(tagName));
    return entry?.slice(tagName.length) ?? '';
  } catch {
    return '';
  }
}

function cgroupTagOf(pid: string): string {
  const match = /\/ferry\/([^/]+)\/([0-9a-f]{14})$/m.exec(readFileSync(`/proc/${pid}/cgroup`, 'latin1'));
  return match === null ? '' : `${match[1]}.${match[2]}`;
}

function forgetGone(pids: readonly string[]): void {
  const here = new Set(pids);
  for (const pid of known.keys()) if (!here.has(pid)) known.delete(pid);
}

function look(): string {
  const now = performance.now();
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  if (known.size > pids.length) forgetGone(pids);
  const alive = new Set<string>();
  for (const pid of pids) {
    const tag = tagOf(pid, now);
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
