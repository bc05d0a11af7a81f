import { spawn } from 'node:child_process';
import { join } from 'node:path';
import type { Report } from './observer.ts';

/** An observer under way. */
export interface Observation {
  /** Ends it; answers what it saw. */
  report(): Promise<Report>;
}

/** Starts the observer of test/harness/observer.ts. */
export function observe(): Observation {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'observer.ts')], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout.on('data', (chunk) => {
    text += String(chunk);
  });
  const closed = new Promise<void>((resolve) => child.once('close', () => resolve()));
  return {
    report: async () => {
      child.stdin.end();
      await closed;
      return JSON.parse(text) as Report;
    },
  };
}

/** Moments at which one Machine was alive for two agents: a break of I1. */
export function doubles(report: Report): string[] {
  return report.sightings.flatMap(({ atMs, alive }) => {
    const machines = alive.map((each) => each.split(' ')[0]);
    return machines
      .filter((machine, index) => machines.indexOf(machine) !== index)
      .map((machine) => `${machine} at ${atMs}`);
  });
}

/** Moments at which none of these Machines was alive, after all had been seen: with two of one network, a break of I6. */
export function allDown(report: Report, machineIds: readonly string[]): number[] {
  let begun = false;
  const moments: number[] = [];
  for (const { atMs, alive } of report.sightings) {
    const up = machineIds.filter((id) => alive.some((each) => each.startsWith(id)));
    begun ||= up.length === machineIds.length;
    if (begun && up.length === 0) moments.push(atMs);
  }
  return moments;
}

/** Moments at which two Machines of one network were not alive, after all of it had been seen: breaks of I6. */
export function twoDown(report: Report, networks: Readonly<Record<string, readonly string[]>>): string[] {
  return Object.entries(networks).flatMap(([network, machineIds]) => {
    let begun = false;
    return report.sightings.flatMap(({ atMs, alive }) => {
      const down = machineIds.filter((id) => !alive.some((each) => each.startsWith(id)));
      begun ||= down.length === 0;
      return begun && down.length > 1 ? [`${network} at ${atMs}: ${down.join(', ')}`] : [];
    });
  });
}

/** Most networks that had a Machine down at one moment, after all of each had been seen. */
export function networksDownAtOnce(report: Report, networks: Readonly<Record<string, readonly string[]>>): number {
  const begun = new Set<string>();
  let most = 0;
  for (const { alive } of report.sightings) {
    const down = Object.entries(networks).filter(([network, machineIds]) => {
      const isWhole = machineIds.every((id) => alive.some((each) => each.startsWith(id)));
      if (isWhole) begun.add(network);
      return !isWhole && begun.has(network);
    });
    most = Math.max(most, down.length);
  }
  return most;
}
