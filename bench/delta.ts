import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { durationFromMs } from '../shared/duration.ts';
import { Drive } from '../test/harness/drive.ts';
import { type Bed, makeBed, runMachine, urlOf } from './bed.ts';
import { hasProgram, run as runProgram } from './processes.ts';
import { compare, type Report, reportOf } from './report.ts';

const changedMib = 64;

/**
 * A round of a running Machine's copy after 64 MiB changed at random places in 8 GiB, beside the first round, which copies
 * all of it, and beside rsync for the same file and the same change.
 */
export async function deltaBenchmark(options: {
  runs: number;
  dataGib: number;
  say: (line: string) => void;
}): Promise<Report> {
  const { runs, dataGib, say } = options;
  await using bed = await makeBed(64);
  const machine = await runMachine(bed, { volumeGib: Math.ceil(dataGib) + 2, fillMib: Math.round(dataGib * 1024) });
  const now = await bed.cluster.machine(machine.id);
  const times = { full: [] as number[], delta: [] as number[], rsync: [] as number[] };
  const bytes: number[] = [];
  for (let run = 0; run < runs; run += 1) {
    const drive = new Drive(bed.cluster, machine);
    await drive.prepare();
    times.full.push((await round(bed, drive)).durationMs);
    const rsync = hasProgram('rsync') ? await rsyncBefore(bed) : null;
    const { host, port } = urlOf(now);
    await fetch(`http://${host.includes(':') ? `[${host}]` : host}:${port}/scribble?mib=${changedMib}`, {
      method: 'POST',
    });
    const delta = await round(bed, drive);
    times.delta.push(delta.durationMs);
    bytes.push(delta.changedBytes);
    if (rsync !== null) times.rsync.push(await rsync());
    await drive.from.abort({ header: drive.header, reason: 'measured', machineId: machine.id });
    await drive.decline(now.epoch + 1n);
    say(
      `run ${run + 1} of ${runs}: full ${times.full.at(-1)} ms, delta ${times.delta.at(-1)} ms, rsync ${Math.round(times.rsync.at(-1) ?? 0)} ms`,
    );
  }
  return reportOf(
    [
      compare(
        `${changedMib} MiB changed in ${dataGib} GiB`,
        times.delta,
        { name: 'full copy', ms: times.full },
        { ratioMax: 0.15 },
      ),
      compare(`${changedMib} MiB changed in ${dataGib} GiB`, times.delta, { name: 'rsync --inplace', ms: times.rsync }),
    ],
    { disks: bed.disks, runs, changedBytes: bytes },
  );
}

/** One round of the copy while the Machine runs; answers it as the destination measured it. */
async function round(bed: Bed, drive: Drive): Promise<{ durationMs: number; changedBytes: number }> {
  const before = (await drive.at(drive.destination))?.precopy?.rounds.length ?? 0;
  for (;;) {
    const { handover } = await drive.to.precopy(
      { header: drive.header, wait: durationFromMs(20_000), downtimeBudgetMs: 600_000n, lastRound: true },
      { timeoutMs: 60_000 },
    );
    const done = handover?.precopy?.rounds ?? [];
    if (done.length > before)
      return { durationMs: Number(done[before]!.durationMs), changedBytes: Number(done[before]!.changedBytes) };
    if (handover?.precopy?.ended) throw new Error(`no round was made: ${handover.precopy.endedReason}`);
    await bed.cluster.until('the next look', () => true);
  }
}

/** Copies the volume's image as it is now; the answer brings that copy up to date with rsync and says how long that took. */
async function rsyncBefore({ cluster }: Bed): Promise<() => Promise<number>> {
  const image = (): string =>
    execFileSync('find', [join(cluster.dataDir('host-a'), 'volumes'), '-name', 'owned-*.img'], {
      encoding: 'utf8',
    }).trim();
  const copy = join(cluster.dataDir('host-b'), 'rsync.img');
  execFileSync('sync');
  execFileSync('cp', ['--sparse=always', '--reflink=never', image(), copy]);
  return async () => {
    execFileSync('sync');
    const { ms } = await runProgram('rsync', ['--inplace', '--no-whole-file', '--fsync', image(), copy]);
    execFileSync('rm', [copy]);
    return ms;
  };
}
