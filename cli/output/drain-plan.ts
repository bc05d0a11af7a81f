import type { Drain, DrainMachine } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { bullets, inOrder, machineLabel, optionPairs } from './drain.ts';
import { orderText } from './migration.ts';
import { keyValues, table } from './table.ts';
import { formatBytes, formatRoughMs, plural } from './units.ts';

/** Whether a drain would not begin, or would leave a Machine behind without having been told that it may. */
export function isBlocked({ blockers, machines, options }: Drain): boolean {
  if (blockers.length > 0) return true;
  return options?.partial !== true && machines.some(({ destination }) => destination === '');
}

/**
 * `host drain --dry-run`: per Machine order, destination, bytes, predicted times and blockers; why the other hosts were
 * refused; and the command that would do it. `verbose`: every refusal of every Machine.
 */
export function renderDrainPlan(drain: Drain, command: string, verbose: boolean): string {
  const machines = inOrder(drain.machines);
  const pairs: [string, string][] = [
    ['Why', orderText(drain.reason, drain.orderedBy) || 'nobody said (--reason)'],
    ['Machines', String(machines.length)],
    ['Bytes', formatBytes(drain.bytesTotal)],
    ...optionPairs(drain),
    ['Time', `about ${formatRoughMs(drain.predictedTotalMs)}, waits for locks included`],
  ];
  const time = (machine: DrainMachine, ms: bigint) => (machine.destination === '' ? '' : formatRoughMs(ms));
  const rows = machines.map((machine) => [
    String(machine.order),
    machine.machineId,
    machine.name,
    machine.network,
    machine.destination || 'NO HOST',
    formatBytes(machine.bytes),
    time(machine, machine.predictedCopyMs),
    time(machine, machine.predictedWaitMs),
    time(machine, machine.predictedDowntimeMs),
    machine.strategyNote,
  ]);
  const headers = ['#', 'Machine', 'Name', 'Network', 'To', 'Bytes', 'Copy', 'Wait', 'Downtime', 'How'];
  const list = rows.length === 0 ? 'No Machines: there is nothing to move.\n' : table(headers, rows);
  const blocked = machines.flatMap((machine) => machine.blockers.map((text) => `${machineLabel(machine)}: ${text}`));
  return (
    `What draining ${drain.hostId} would do\n\n${keyValues(pairs)}\n${list}` +
    bullets('What may stand in the way of single Machines', blocked) +
    bullets('Hosts that were refused', verbose ? everyRefusal(machines) : refusalsInShort(machines)) +
    bullets('What stands in the way of the whole drain', [...drain.blockers, ...homelessText(drain)]) +
    `\nNothing was changed. ${isBlocked(drain) ? 'As it is now it would not go through; once that is solved' : 'To do it'}:\n  ${command}\n`
  );
}

/** What happens to Machines that no host can take. */
function homelessText({ machines, options }: Drain): string[] {
  const count = machines.filter(({ destination }) => destination === '').length;
  if (count === 0) return [];
  const have = `${count} of ${plural(machines.length, 'Machine')} ${count === 1 ? 'has' : 'have'} no place`;
  return [
    options?.partial ? `${have}: parked from the start` : `${have} (with --partial: parked, and the rest is moved)`,
  ];
}

function everyRefusal(machines: readonly DrainMachine[]): string[] {
  return machines.flatMap((machine) =>
    Object.entries(machine.refusedHosts)
      .toSorted()
      .map(([host, why]) => `${host} for ${machineLabel(machine)}: ${why}`),
  );
}

/** For each host the most frequent reason, for how many Machines, and how many other reasons there are. */
function refusalsInShort(machines: readonly DrainMachine[]): string[] {
  const byHost = new Map<string, Map<string, number>>();
  for (const { refusedHosts } of machines) {
    for (const [host, why] of Object.entries(refusedHosts)) {
      const reasons = byHost.get(host) ?? new Map<string, number>();
      reasons.set(why, (reasons.get(why) ?? 0) + 1);
      byHost.set(host, reasons);
    }
  }
  return [...byHost].toSorted().map(([host, reasons]) => {
    const [[why, count] = ['', 0]] = [...reasons].toSorted(([, a], [, b]) => b - a);
    const more = reasons.size > 1 ? `; and ${plural(reasons.size - 1, 'other reason')} (--verbose)` : '';
    return `${host} for ${plural(count, 'Machine')}: ${why}${more}`;
  });
}
