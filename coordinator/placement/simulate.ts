import { type Load, type MoveLimits, nextToBegin, noLoad, withMove } from './order.ts';

/** One move, as the simulation sees it. */
export interface Job {
  readonly machineId: string;
  readonly network: string;
  readonly destination: string;
  readonly phase: 'waiting' | 'copying' | 'queued' | 'locked';
  /** Bytes to copy before it needs the lock. */
  readonly copyBytes: number;
  /** What its copy takes besides the bytes, in milliseconds. */
  readonly copyMs: number;
  /** Bytes to copy while it holds the lock. */
  readonly lockedBytes: number;
  /** What it does under the lock besides, in milliseconds. */
  readonly lockedMs: number;
}

/** Limits and speeds. */
export interface Speeds extends MoveLimits {
  /** Bytes a second that leave the source, all copies together. */
  readonly sourceBytesPerSecond: number;
  /** Bytes a second that reach a destination, all copies together. */
  readonly destinationBytesPerSecond: (host: string) => number;
}

/** When a move reaches each point, in milliseconds from now. */
export interface Course {
  readonly beginsMs: number;
  readonly copiedMs: number;
  readonly lockedMs: number;
  readonly doneMs: number;
}

interface Run {
  readonly job: Job;
  phase: Job['phase'] | 'done';
  copyBytes: number;
  copyMs: number;
  lockedBytes: number;
  restMs: number;
  course: { beginsMs: number; copiedMs: number; lockedMs: number; doneMs: number };
}

/**
 * What a drain will do, moves in their order: copies share the rates of source and destinations evenly, at most one
 * Machine of a network holds its lock, first come first served.
 */
export function simulate(jobs: readonly Job[], speeds: Speeds): { courses: Map<string, Course>; totalMs: number } {
  const runs = jobs.map((job): Run => {
    const { phase, copyBytes, copyMs, lockedBytes, lockedMs: restMs } = job;
    const course = { beginsMs: 0, copiedMs: 0, lockedMs: 0, doneMs: 0 };
    return { job, phase, copyBytes, copyMs, lockedBytes, restMs, course };
  });
  const line: Run[] = runs.filter(({ phase }) => phase === 'queued');
  let nowMs = 0;
  for (;;) {
    beginMoves(runs, speeds, nowMs);
    passOn(runs, line, nowMs);
    const active = runs.filter((run) => run.phase === 'copying' || run.phase === 'locked');
    if (active.length === 0) break;
    const rates = ratesOf(active, speeds);
    const stepMs = Math.min(...active.map((run) => timeLeftMs(run, rates.get(run)!)));
    nowMs += stepMs;
    for (const run of active) advance(run, stepMs, rates.get(run)!, nowMs);
  }
  return { courses: new Map(runs.map(({ job, course }) => [job.machineId, course])), totalMs: nowMs };
}

function beginMoves(runs: readonly Run[], speeds: Speeds, nowMs: number): void {
  let load: Load = runs
    .filter(({ phase }) => phase !== 'waiting' && phase !== 'done')
    .reduce((sum, { job }) => withMove(sum, job), noLoad);
  for (;;) {
    const waiting = runs.filter(({ phase }) => phase === 'waiting');
    const next = nextToBegin(
      waiting.map((run) => ({ run, network: run.job.network, destination: run.job.destination })),
      load,
      speeds,
    );
    if (next === undefined) return;
    next.run.phase = 'copying';
    next.run.course.beginsMs = nowMs;
    load = withMove(load, next);
  }
}

/** Those that have copied stand in line; the first in line gets a lock that is free. */
function passOn(runs: readonly Run[], line: Run[], nowMs: number): void {
  for (const run of runs) {
    if (run.phase !== 'copying' || run.copyBytes > 0 || run.copyMs > 0) continue;
    run.phase = 'queued';
    run.course.copiedMs = nowMs;
    line.push(run);
  }
  const locked = new Set(runs.filter(({ phase }) => phase === 'locked').map(({ job }) => job.network));
  for (const run of [...line]) {
    if (locked.has(run.job.network)) continue;
    locked.add(run.job.network);
    line.splice(line.indexOf(run), 1);
    run.phase = 'locked';
    run.course.lockedMs = nowMs;
  }
}

/** Bytes a millisecond of each move that copies now. */
function ratesOf(
  active: readonly Run[],
  { sourceBytesPerSecond, destinationBytesPerSecond }: Speeds,
): Map<Run, number> {
  const copying = active.filter((run) => run.copyBytes > 0 || (run.phase === 'locked' && run.lockedBytes > 0));
  const toHost = (host: string) => copying.filter(({ job }) => job.destination === host).length;
  return new Map(
    active.map((run) => {
      const { destination } = run.job;
      const share = Math.min(
        sourceBytesPerSecond / Math.max(1, copying.length),
        destinationBytesPerSecond(destination) / Math.max(1, toHost(destination)),
      );
      return [run, share / 1000];
    }),
  );
}

function timeLeftMs(run: Run, bytesPerMs: number): number {
  if (run.phase === 'copying') return run.copyBytes > 0 ? run.copyBytes / bytesPerMs : run.copyMs;
  return run.lockedBytes > 0 ? run.lockedBytes / bytesPerMs : run.restMs;
}

function advance(run: Run, stepMs: number, bytesPerMs: number, nowMs: number): void {
  if (run.phase === 'copying' && run.copyBytes > 0) run.copyBytes = reduced(run.copyBytes, stepMs * bytesPerMs);
  else if (run.phase === 'copying') run.copyMs = reduced(run.copyMs, stepMs);
  else if (run.lockedBytes > 0) run.lockedBytes = reduced(run.lockedBytes, stepMs * bytesPerMs);
  else run.restMs = reduced(run.restMs, stepMs);
  if (run.phase !== 'locked' || run.lockedBytes > 0 || run.restMs > 0) return;
  run.phase = 'done';
  run.course.doneMs = nowMs;
}

/** Sums of fractions never quite reach zero: less than a thousandth is nothing. */
function reduced(amount: number, by: number): number {
  return amount - by < 0.001 ? 0 : amount - by;
}
