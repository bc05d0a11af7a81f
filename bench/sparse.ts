import { MigrationStep, MigrationStrategy } from '../proto/gen/ferry/v1/migration_pb.ts';
import { type Bed, makeBed, move, runMachine } from './bed.ts';
import { compare, type Report, reportOf } from './report.ts';

/** The copy of a stopped volume of 20 GiB that holds 256 MiB, beside one of 1 GiB that holds the same. */
export async function sparseBenchmark(options: { runs: number; say: (line: string) => void }): Promise<Report> {
  const { runs, say } = options;
  await using bed = await makeBed(32);
  const volumes = [
    { name: 'small', id: await stopped(bed, 1), ms: [] as number[] },
    { name: 'large', id: await stopped(bed, 20), ms: [] as number[] },
  ] as const;
  for (let run = 0; run < runs; run += 1) {
    const to = run % 2 === 0 ? 'host-b' : 'host-a';
    for (const volume of run % 2 === 0 ? volumes : [...volumes].reverse()) {
      const { steps } = await move(bed, volume.id, to, MigrationStrategy.COLD);
      const { startedAt, endedAt } = steps.find(({ step }) => step === MigrationStep.FORK)!;
      const ms = (at: typeof startedAt) => Number(at!.seconds) * 1000 + at!.nanos / 1e6;
      volume.ms.push(ms(endedAt) - ms(startedAt));
    }
    say(
      `run ${run + 1} of ${runs}: ${volumes.map(({ name, ms }) => `${name} ${Math.round(ms.at(-1)!)} ms`).join(', ')}`,
    );
  }
  const [small, large] = volumes;
  const peer = { name: '256 MiB in 1 GiB', ms: small.ms };
  return reportOf([compare('256 MiB in 20 GiB', large.ms, peer, { ratioMax: 1.25 })], { disks: bed.disks, runs });
}

/** A Machine at rest: its move is the copy and little else. */
async function stopped(bed: Bed, volumeGib: number): Promise<string> {
  const { id } = await runMachine(bed, { volumeGib, fillMib: 256 });
  await bed.cluster.machines.stopMachine({ machineId: id }, { timeoutMs: 60_000 });
  return id;
}
