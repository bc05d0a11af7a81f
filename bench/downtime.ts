import { MigrationStrategy } from '../proto/gen/ferry/v1/migration_pb.ts';
import { type Bed, makeBed, move, Probe, runMachine, untilAnswers } from './bed.ts';
import { compare, type Report, reportOf } from './report.ts';

const writeKbPerSecond = 10_000;
const allowMs = 150;

/** Sizes of a Machine's volume and of the data on it. */
interface Size {
  readonly volumeGib: number;
  readonly dataGib: number;
}

/**
 * Downtime of a pre-copied move, last answer at the source to first answer at the destination, of a Machine that writes
 * 10 MB/s: beside stopping and starting the same Machine in place, and a Machine of four times the volume beside it.
 */
export async function downtimeBenchmark(options: {
  runs: number;
  /** Divides all sizes, for a quick look. */
  shrink: number;
  say: (line: string) => void;
}): Promise<Report> {
  const { runs, shrink, say } = options;
  const small = { volumeGib: 4, dataGib: 1 / shrink };
  const large = { volumeGib: 16, dataGib: 8 / shrink };
  await using bed = await makeBed(64);
  const ofSmall = await measure(bed, small, runs, say);
  const ofLarge = await measure(bed, large, runs, say);
  const inPlace = (size: Size) => `in place, ${size.dataGib} GiB`;
  return reportOf(
    [
      compare(
        `move, ${small.dataGib} of ${small.volumeGib} GiB, less ${allowMs} ms`,
        ofSmall.moves,
        { name: inPlace(small), ms: ofSmall.restarts },
        { ratioMax: 1.2, allowMs },
      ),
      compare(
        `move, ${large.dataGib} of ${large.volumeGib} GiB`,
        ofLarge.moves,
        { name: 'the small one', ms: ofSmall.moves },
        { ratioMax: 1.1 },
      ),
      compare(
        `move, ${large.dataGib} of ${large.volumeGib} GiB, less ${allowMs} ms`,
        ofLarge.moves,
        { name: inPlace(large), ms: ofLarge.restarts },
        { ratioMax: 1.2, allowMs },
      ),
    ],
    { disks: bed.disks, runs, writeKbPerSecond, splits: [...ofSmall.splits, ...ofLarge.splits] },
  );
}

async function measure(bed: Bed, size: Size, runs: number, say: (line: string) => void) {
  const { cluster } = bed;
  await using probe = await Probe.start();
  const fillMib = Math.round(size.dataGib * 1024);
  say(`filling ${size.dataGib} GiB of a volume of ${size.volumeGib} GiB`);
  const machine = await runMachine(bed, { volumeGib: size.volumeGib, fillMib, writeKbPerSecond }, probe.port);
  const moves: number[] = [];
  const restarts: number[] = [];
  const splits: unknown[] = [];
  let at = 'host-a';
  for (let run = 0; run < runs; run += 1) {
    restarts.push(
      await probe.silenceOf(async () => {
        await cluster.machines.stopMachine({ machineId: machine.id }, { timeoutMs: 60_000 });
        await cluster.machines.startMachine({ machineId: machine.id }, { timeoutMs: 60_000 });
        await untilAnswers(cluster, machine.id);
      }),
    );
    at = at === 'host-a' ? 'host-b' : 'host-a';
    moves.push(
      await probe.silenceOf(async () => {
        const { downtime, precopy } = await move(bed, machine.id, at, MigrationStrategy.PRECOPY);
        const { $typeName, ...split } = downtime!;
        splits.push({
          ...numbers(split),
          rounds: precopy?.rounds.length,
          finalBytes: Number(precopy?.finalBytes ?? 0),
          ended: precopy?.ended,
        });
      }),
    );
    say(
      `run ${run + 1} of ${runs}: in place ${Math.round(restarts.at(-1)!)} ms, moved ${Math.round(moves.at(-1)!)} ms`,
    );
  }
  await cluster.machines.destroyMachine({ machineId: machine.id, force: true }, { timeoutMs: 60_000 });
  return { moves, restarts, splits };
}

function numbers(values: object): Record<string, number> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, Number(value)]));
}
