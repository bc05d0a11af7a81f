/** A process that pulls one volume and prints its result: what the tests kill. Arguments: port, image, state, size. */
import { NbdClient } from '../../nbd/client.ts';
import { systemClock } from '../../shared/clock.ts';
import { pullVolume } from './pull.ts';

const [port, imagePath, statePath, sizeBytes] = process.argv.slice(2) as [string, string, string, string];

const result = await pullVolume({
  connect: (signal) =>
    NbdClient.connect({
      host: '127.0.0.1',
      port: Number(port),
      exportName: 'vol',
      mode: 'plain',
      contexts: ['base:allocation'],
      timeoutMs: 10_000,
      signal,
    }),
  imagePath,
  statePath,
  sizeBytes: Number(sizeBytes),
  snapshot: 'stopped',
  clock: systemClock,
  signal: new AbortController().signal,
  recordEveryBytes: 1_048_576,
});
process.stdout.write(JSON.stringify(result));
