import type { ExplainLockResponse, HostPermit } from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import type { LockWaiter, NetworkLock } from '../../proto/gen/ferry/v1/lock_pb.ts';
import { keyValues, table } from './table.ts';
import { formatTime } from './units.ts';

/** `lock list`. */
export function renderLockList(locks: readonly NetworkLock[]): string {
  if (locks.length === 0) return 'No network is locked.\n';
  const rows = locks.map((lock) => [
    lock.network,
    lock.migrationId,
    lock.machineId,
    `${lock.source} -> ${lock.destination}`,
    lock.step,
    formatTime(lock.since),
    waitersOf(lock.waiters),
    lock.waitingFor,
  ]);
  return table(['Network', 'Held by', 'Machine', 'Move', 'Step', 'Since', 'Waiters', 'Info'], rows);
}

/** "2 (next: mig_..., priority 5)". */
function waitersOf(waiters: readonly LockWaiter[]): string {
  const next = waiters[0];
  if (next === undefined) return '0';
  return `${waiters.length} (next: ${next.migrationId}${next.priority === 0 ? '' : `, priority ${next.priority}`})`;
}

/** What a host promised, or why nobody knows. */
function permitRow({ hostId, permit, unreachable, since }: HostPermit): string[] {
  if (unreachable !== '') return [hostId, 'unknown', '', `does not answer since ${formatTime(since)}: ${unreachable}`];
  if (permit === undefined) return [hostId, 'none', '', ''];
  return [hostId, permit.migrationId, String(permit.fence), ''];
}

/** `lock explain`. */
export function renderLockExplanation(network: string, { lock, permits, explanation }: ExplainLockResponse): string {
  let text = `Network: ${network}\nLock: ${lock === undefined ? 'free' : 'held'}\n\n${explanation}\n`;
  if (lock !== undefined) {
    text += `\n${keyValues([
      ['Held by', lock.migrationId],
      ['Machine', lock.machineId],
      ['Move', `${lock.source} -> ${lock.destination}`],
      ['Fence', String(lock.fence)],
      ['Step', lock.step],
      ['Since', formatTime(lock.since)],
      ['Waiting for', lock.waitingFor],
      ['Frees when', lock.freesWhen],
    ])}`;
    if (lock.waiters.length > 0) {
      const rows = lock.waiters.map((waiter, index) => [
        String(index + 1),
        waiter.migrationId,
        waiter.machineId,
        String(waiter.priority),
        formatTime(waiter.since),
      ]);
      text += `\nWaiting in line\n${table(['#', 'Migration', 'Machine', 'Priority', 'Since'], rows)}`;
    }
  }
  if (permits.length > 0) {
    text += `\nPermits\n${table(['Host', 'Given to', 'Fence', 'Info'], permits.map(permitRow))}`;
  }
  return text;
}
