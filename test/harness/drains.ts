import type { MessageInitShape } from '@bufbuild/protobuf';
import type { DrainHostRequestSchema } from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import { type Drain, DrainMachineState, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import type { Machine } from '../../proto/gen/ferry/v1/machine_pb.ts';
import type { TestCluster } from './cluster.ts';
import { untilRuns } from './drive.ts';
import { fussyConfig } from './ledger.ts';

/** Runs `perNetwork` small ledgers in each of these networks on one host until all answer; gives the IDs by network. */
export async function populate(
  cluster: TestCluster,
  host: string,
  networks: readonly string[],
  perNetwork: number,
  stopMs = 300,
): Promise<Record<string, Machine[]>> {
  const wanted = networks.flatMap((network) => Array.from({ length: perNetwork }, () => network));
  const machines = await cluster.runAll(
    wanted.map((network, index) => {
      const options = { host, network, app: `app-${network}`, name: `${network}-${index}` };
      return [fussyConfig(cluster, { stopMs }), options];
    }),
  );
  // One that is only spawned may still look at its files, and end because of one that a test writes next.
  await Promise.all(machines.map(({ id }) => untilRuns(cluster, host, id)));
  return Object.groupBy(machines, ({ network }) => network) as Record<string, Machine[]>;
}

/** IDs of the Machines of each network. */
export function idsOf(networks: Readonly<Record<string, readonly Machine[]>>): Record<string, string[]> {
  return Object.fromEntries(Object.entries(networks).map(([name, machines]) => [name, machines.map(({ id }) => id)]));
}

/** Orders a drain. */
export async function drainHost(
  cluster: TestCluster,
  hostId: string,
  request: Omit<MessageInitShape<typeof DrainHostRequestSchema>, 'hostId' | '$typeName' | '$unknown'> = {},
): Promise<Drain> {
  const { drain } = await cluster.drains.drainHost({ hostId, ...request }, { timeoutMs: 20_000 });
  return drain!;
}

const ends: readonly DrainState[] = [DrainState.DONE, DrainState.BLOCKED, DrainState.CANCELLED];

/** Waits until a drain is done, blocked or cancelled; answers it. */
export async function drainEnded(cluster: TestCluster, drainId: string, deadlineMs = 90_000): Promise<Drain> {
  let drain: Drain | undefined;
  const ended = cluster.until(
    `drain ${drainId} ends`,
    async () => {
      drain = (await cluster.drains.getDrain({ drainId }, { timeoutMs: 5000 })).drain!;
      return ends.includes(drain.state);
    },
    deadlineMs,
  );
  await ended.catch((error: Error) => {
    throw new Error(`${drain === undefined ? 'no answer' : told(drain)}\n${error.message}`);
  });
  return drain!;
}

/** A drain in a few lines: what was predicted and what happened, side by side. */
export function told(drain: Drain): string {
  const lines = drain.machines.map((each) => {
    const predicted = `predicted copy ${each.predictedCopyMs} ms, down ${each.predictedDowntimeMs} ms, wait ${each.predictedWaitMs} ms`;
    const happened = `was ${each.copyMs ?? '?'}, ${each.downtime?.totalMs ?? '?'}, ${each.waitMs ?? '?'}`;
    const wait = each.wait === undefined ? '' : ` waits for ${each.wait.kind}: ${each.wait.message}`;
    const why = [each.reason, ...each.blockers].filter((text) => text !== '').join('; ');
    return `  ${each.order} ${each.network} ${each.machineId} ${nameOf(DrainMachineState, each.state)} to ${each.destination}: ${predicted}; ${happened}${wait} ${why}`;
  });
  const head = `${drain.hostId} ${nameOf(DrainState, drain.state)} ${drain.message} ${drain.blockers.join('; ')}`;
  return [head, ...lines].join('\n');
}

function nameOf(names: Readonly<Record<string, unknown>>, value: number): string {
  return Object.keys(names).find((name) => names[name] === value) ?? String(value);
}
