import { parseArgs } from 'node:util';
import { streamBenchmark } from './stream.ts';

const USAGE = `usage: npm run bench -- stream [--json] [--size BYTES] [--runs N]

  stream   Ferry's volume stream beside nbdcopy and nbdkit: transport alone, TLS, to a synced file; and memory
  --size   bytes of random data, default 2147483648
  --runs   runs of each side, interleaved; the medians are compared; default 3
  --json   one JSON document instead of the table`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'boolean', default: false },
    size: { type: 'string', default: '2147483648' },
    runs: { type: 'string', default: '3' },
    help: { type: 'boolean', default: false },
  },
});

// An interrupted run still removes its files, in its exit listener.
process.once('SIGINT', () => process.exit(130));
process.once('SIGTERM', () => process.exit(143));

const sizeBytes = Number(values.size);
const runs = Number(values.runs);
if (values.help || positionals.length !== 1 || positionals[0] !== 'stream') {
  console.error(USAGE);
  process.exitCode = values.help ? 0 : 2;
} else if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 1_048_576 || sizeBytes % 65_536 !== 0) {
  console.error(`--size ${values.size}: expected a multiple of 65536 from 1048576 on`);
  process.exitCode = 2;
} else if (!Number.isSafeInteger(runs) || runs < 1 || runs > 100) {
  console.error(`--runs ${values.runs}: expected 1 to 100`);
  process.exitCode = 2;
} else {
  const say = (line: string): void => console.error(line);
  const report = await streamBenchmark({ sizeBytes, runs, say });
  console.log(values.json ? JSON.stringify(report.json, null, 2) : report.text);
}
