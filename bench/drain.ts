import { DrainState } from '../proto/gen/ferry/v1/drain_pb.ts';
import { durationFromMs } from '../shared/duration.ts';
import { Drive } from '../test/harness/drive.ts';
import { type Bed, makeBed, runMachine } from './bed.ts';
import { compare, type Report, reportOf } from './report.ts';

const machineMib = 128;

/**
 * A drain of Machines of one network, which stop one after the other, beside the sum of their times from stop to healthy
 * and one parallel copy of all of them.
 */
export async function drainBenchmark(options: {
  runs: number;
  machines: number;
  say: (line: string) => void;
}): Promise<Report> {
  const { runs, machines: count, say } = options;
  // All copies at once, on both sides of the comparison.
  const limit = String(count);
  await using bed = await makeBed(32, { 'drain-per-destination': limit, 'drain-total': limit });
  const ids: string[] = [];
  for (let index = 0; index < count; index += 1) {
    ids.push((await runMachine(bed, { volumeGib: 1, fillMib: machineMib })).id);
  }
  const times = { drain: [] as number[], floor: [] as number[] };
  let from = 'host-a';
  for (let run = 0; run < runs; run += 1) {
    const to = from === 'host-a' ? 'host-b' : 'host-a';
    const copyMs = await copyAll(bed, ids, from, to);
    const { totalMs, downMs } = await drain(bed, from);
    times.drain.push(totalMs);
    times.floor.push(copyMs + downMs);
    say(
      `run ${run + 1} of ${runs}: drain ${Math.round(totalMs)} ms; copies ${Math.round(copyMs)} ms, stops ${Math.round(downMs)} ms`,
    );
    await bed.cluster.hosts.uncordonHost({ hostId: from });
    from = to;
  }
  const peer = { name: 'stops + one parallel copy', ms: times.floor };
  const name = `drain of ${count} Machines of ${machineMib} MiB, one network`;
  return reportOf([compare(name, times.drain, peer, { ratioMax: 1.3 })], { disks: bed.disks, runs });
}

/** One round of the copies of all Machines at once, while they run; thrown away afterwards. */
async function copyAll({ cluster }: Bed, ids: readonly string[], source: string, destination: string): Promise<number> {
  const drives: { drive: Drive; id: string; epoch: bigint }[] = [];
  for (const id of ids) {
    const { network, epoch } = await cluster.machine(id);
    const drive = new Drive(cluster, { id, network }, { source, destination });
    await drive.prepare();
    drives.push({ drive, id, epoch });
  }
  const startedMs = performance.now();
  await Promise.all(
    drives.map(async ({ drive }) => {
      for (;;) {
        const order = { header: drive.header, wait: durationFromMs(20_000), downtimeBudgetMs: 600_000n };
        const { handover } = await drive.to.precopy(order, { timeoutMs: 60_000 });
        if (handover?.precopy?.ended) return;
      }
    }),
  );
  const ms = performance.now() - startedMs;
  for (const { drive, id, epoch } of drives) {
    await drive.from.abort({ header: drive.header, reason: 'measured', machineId: id });
    await drive.decline(epoch + 1n);
  }
  return ms;
}

async function drain({ cluster }: Bed, hostId: string): Promise<{ totalMs: number; downMs: number }> {
  const startedMs = performance.now();
  const ordered = await cluster.drains.drainHost({ hostId, options: { concurrency: 64 } }, { timeoutMs: 30_000 });
  let last = ordered.drain!;
  for await (const { drain: now } of cluster.drains.watchDrain({ drainId: last.id }, { timeoutMs: 600_000 }))
    last = now!;
  const totalMs = performance.now() - startedMs;
  if (last.state !== DrainState.DONE) throw new Error(`the drain was not done: ${last.message}`);
  const downMs = last.machines.reduce((sum, { downtime }) => sum + Number(downtime?.totalMs ?? 0), 0);
  return { totalMs, downMs };
}
