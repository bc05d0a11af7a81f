import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';

/**
 * Who a process is, for good: PIDs are used again within one boot, and start times begin anew with each boot, but the
 * three together never name two processes.
 */
export interface Identity {
  readonly bootId: string;
  readonly pid: number;
  /** Start time in clock ticks since boot: field 22 of /proc/PID/stat. */
  readonly startTicks: string;
}

/** The ID of this boot of the kernel. */
export async function readBootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'latin1')).trim();
}

/** Parses "BOOT_ID PID START_TICKS"; undefined when it is anything else. */
export function parseIdentity(line: string): Identity | undefined {
  const match = /^([0-9a-f-]{36}) ([1-9][0-9]{0,9}) ([0-9]{1,20})\n$/.exec(line);
  if (match === null) return undefined;
  return { bootId: match[1]!, pid: Number(match[2]), startTicks: match[3]! };
}

/** Whether that very process lives. A zombie does not: it only waits for its parent to read its status. */
export async function isAlive(identity: Identity, bootId: string): Promise<boolean> {
  if (identity.bootId !== bootId) return false;
  const stat = await readStat(identity.pid);
  return stat !== undefined && stat.startTicks === identity.startTicks && !stat.dead;
}

export interface Stat {
  readonly parentPid: number;
  readonly startTicks: string;
  /** Zombie or dead. */
  readonly dead: boolean;
}

/** /proc/PID/stat; undefined when there is no such process. */
export async function readStat(pid: number): Promise<Stat | undefined> {
  return readStatNow(pid);
}

/** The same at once: the kernel answers from memory, so waiting for a thread would take ten times as long as reading. */
export function readStatNow(pid: number): Stat | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return undefined;
  }
  // Field 2, the command in parentheses, may hold spaces and parentheses itself.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const state = fields[0]!;
  return { parentPid: Number(fields[1]), startTicks: fields[19]!, dead: state === 'Z' || state === 'X' };
}
