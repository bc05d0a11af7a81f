import { parseArgs } from 'node:util';
import { deltaBenchmark } from './delta.ts';
import { downtimeBenchmark } from './downtime.ts';
import { drainBenchmark } from './drain.ts';
import type { Report } from './report.ts';
import { sparseBenchmark } from './sparse.ts';
import { streamBenchmark } from './stream.ts';

const usage = `usage: npm run bench -- stream|downtime|sparse|delta|drain [--json] [--runs N] [--size BYTES] [--shrink N]

  stream    the volume stream beside nbdcopy and nbdkit: transport alone, TLS, to a synced file; and memory
  downtime  a pre-copied move beside stopping and starting in place; 16 GiB beside 4 GiB
  sparse    a volume of 20 GiB that holds 256 MiB beside one of 1 GiB that holds the same
  delta     64 MiB changed in 8 GiB beside the full copy, and beside rsync
  drain     24 Machines of one network beside the sum of their stops and one parallel copy

  --runs    runs of each side, interleaved; the medians are compared; default 3
  --size    stream: bytes of random data, default 2147483648
  --shrink  downtime, delta, drain: divides data and Machines by this, for a quick look; default 1
  --json    one JSON document instead of the table

Use a quiet machine. downtime, sparse, delta and drain start real agents; as root they get XFS disks of their own.`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'boolean', default: false },
    size: { type: 'string', default: '2147483648' },
    runs: { type: 'string', default: '3' },
    shrink: { type: 'string', default: '1' },
    help: { type: 'boolean', default: false },
  },
});

// An interrupted run still removes its files, in its exit listener.
process.once('SIGINT', () => process.exit(130));
process.once('SIGTERM', () => process.exit(143));

const sizeBytes = Number(values.size);
const runs = Number(values.runs);
const shrink = Number(values.shrink);
const say = (line: string): void => console.error(line);

const benchmarks: Readonly<Record<string, () => Promise<Report>>> = {
  stream: () => streamBenchmark({ sizeBytes, runs, say }),
  downtime: () => downtimeBenchmark({ runs, shrink, say }),
  sparse: () => sparseBenchmark({ runs, say }),
  delta: () => deltaBenchmark({ runs, dataGib: 8 / shrink, say }),
  drain: () => drainBenchmark({ runs, machines: Math.max(1, Math.round(24 / shrink)), say }),
};

const benchmark = benchmarks[positionals[0] ?? ''];
if (values.help || positionals.length !== 1 || benchmark === undefined) {
  console.error(usage);
  process.exitCode = values.help ? 0 : 2;
} else if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 1_048_576 || sizeBytes % 65_536 !== 0) {
  console.error(`--size ${values.size}: expected a multiple of 65536 from 1048576 on`);
  process.exitCode = 2;
} else if (!Number.isSafeInteger(runs) || runs < 1 || runs > 100) {
  console.error(`--runs ${values.runs}: expected 1 to 100`);
  process.exitCode = 2;
} else if (!Number.isSafeInteger(shrink) || shrink < 1 || shrink > 64) {
  console.error(`--shrink ${values.shrink}: expected 1 to 64`);
  process.exitCode = 2;
} else {
  const report = await benchmark();
  console.log(values.json ? JSON.stringify(report.json, null, 2) : report.text);
}
