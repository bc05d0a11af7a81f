/**
 * The destination's side of the stream benchmark, as a process of its own; prints a JSON line with its time (from the
 * connecting to the end) and its memory. Arguments: plain|tls, port, size, directory with certificates, and the file to
 * write with its checksums and re-read, or `-` to drop the data.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pullVolume } from '../agent/transfer/pull.ts';
import { NbdClient } from '../nbd/client.ts';
import { systemClock } from '../shared/clock.ts';
import { residentBytes } from './memory.ts';

const [mode, port, size, pki, file] = process.argv.slice(2) as ['plain' | 'tls', string, string, string, string];
const sizeBytes = Number(size);
/** As the volume copy has them. */
const REQUEST_BYTES = 1_048_576;
const REQUESTS = 16;

const pem = (name: string): Buffer => readFileSync(join(pki, name));
const tls = {
  ca: pem('ca-cert.pem'),
  cert: pem('client-cert.pem'),
  key: pem('client-key.pem'),
  servername: 'localhost',
};
const at = { host: '127.0.0.1', port: Number(port), exportName: 'volume', mode, tls, timeoutMs: 30_000 } as const;
const contexts = ['base:allocation'];

const startedAtMs = performance.now();
let halfwayBytes = 0;
const root = file === '-' ? await drop() : await copy();
const ms = performance.now() - startedAtMs;
const resident = residentBytes(process.pid);
console.log(JSON.stringify({ ms, root, halfwayBytes, endBytes: resident.now, peakBytes: resident.peak }));

async function drop(): Promise<null> {
  const client = await NbdClient.connect({ ...at, contexts });
  let next = 0;
  const lane = async (): Promise<void> => {
    const buffer = Buffer.allocUnsafeSlow(REQUEST_BYTES);
    while (next < sizeBytes) {
      const offset = next;
      next += REQUEST_BYTES;
      await client.read(buffer, offset, Math.min(REQUEST_BYTES, sizeBytes - offset));
    }
  };
  await Promise.all(Array.from({ length: REQUESTS }, lane));
  await client.close();
  return null;
}

async function copy(): Promise<string> {
  const result = await pullVolume({
    connect: (signal) => NbdClient.connect({ ...at, contexts, signal }),
    imagePath: file,
    statePath: `${file}.sums`,
    sizeBytes,
    snapshot: 'benchmark',
    clock: systemClock,
    signal: new AbortController().signal,
    onProgress: ({ bytesDone }) => {
      if (halfwayBytes === 0 && bytesDone > sizeBytes / 2) halfwayBytes = residentBytes(process.pid).now;
    },
  });
  if (!result.rereadDirect)
    console.error('this file system has no O_DIRECT: the copy was read back from the page cache');
  return result.root;
}
