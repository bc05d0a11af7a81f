import { randomFillSync } from 'node:crypto';
import { closeSync, fsyncSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { makePki } from '../nbd/testing.ts';
import { residentBytes } from './memory.ts';
import { Background, hasProgram, run } from './processes.ts';

const GIB = 1_073_741_824;
const MEMORY_STREAM_BYTES = 10 * GIB;
const MEMORY_BOUND_BYTES = 200 * 1_048_576;
const PEERS = ['nbdcopy', 'nbdkit', 'cmp'];

/** One comparison; rates in bytes per second, medians. */
interface Row {
  readonly name: string;
  readonly peer: string;
  readonly oursMs: readonly number[];
  readonly peerMs: readonly number[];
  readonly oursBytesPerSecond: number;
  readonly peerBytesPerSecond: number | null;
  /** Ours over the peer's; at least 1.0 is asked for. Null without the peer. */
  readonly ratio: number | null;
}

/** Resident memory of one side while 10 GiB travel, in bytes. */
interface MemoryRow {
  readonly side: 'source' | 'destination';
  /** Null for the source: only the destination knows when it is halfway. */
  readonly halfwayBytes: number | null;
  readonly endBytes: number;
  readonly peakBytes: number;
  readonly boundBytes: number;
}

export interface StreamReport {
  readonly json: {
    readonly sizeBytes: number;
    readonly runs: number;
    readonly missing: readonly string[];
    readonly rows: readonly Row[];
    readonly memory: readonly MemoryRow[];
  };
  readonly text: string;
}

interface Bench {
  readonly directory: string;
  readonly image: string;
  readonly sizeBytes: number;
  readonly ours: { plain: number; tls: number };
  readonly peer: { plain: number; tls: number } | null;
}

/** What is measured: the mode of the connection and whether the data goes to a file. Names as the table shows them. */
const SUBJECTS = [
  { name: 'plain, to nothing', mode: 'plain', file: false, peer: 'nbdcopy null:' },
  { name: 'TLS 1.3, to nothing', mode: 'tls', file: false, peer: 'nbdcopy null:' },
  { name: 'plain, to a synced file, checked', mode: 'plain', file: true, peer: 'nbdcopy --flush + cmp' },
  { name: 'TLS 1.3, to a synced file, checked', mode: 'tls', file: true, peer: 'nbdcopy --flush + cmp' },
] as const;

/** Runs ours and the peer in turns, one connection each, every side a process of its own. */
export async function streamBenchmark(options: {
  sizeBytes: number;
  runs: number;
  say: (line: string) => void;
}): Promise<StreamReport> {
  const { sizeBytes, runs, say } = options;
  const missing = PEERS.filter((name) => !hasProgram(name));
  if (!hasProgram('openssl')) throw new Error('the benchmark makes its certificates with openssl, which is missing');
  if (missing.length > 0) {
    say(`missing: ${missing.join(', ')} (Debian: nbdkit, libnbd-bin, diffutils); only our own side is measured`);
  }
  const directory = mkdtempSync(join(tmpdir(), 'ferry-bench-'));
  const clean = (): void => rmSync(directory, { recursive: true, force: true });
  process.once('exit', clean);
  try {
    makePki(directory);
    const image = join(directory, 'volume.img');
    say(`writing ${gib(sizeBytes)} of random data to ${directory}`);
    writeRandom(image, sizeBytes);
    const rows: Row[] = [];
    {
      await using source = new Background(process.execPath, [
        script('stream-source'),
        image,
        String(sizeBytes),
        directory,
      ]);
      const ours = JSON.parse(await source.firstLine()) as Bench['ours'];
      await using kits = new AsyncDisposableStack();
      const peer = missing.length > 0 ? null : await startPeers(kits, image, directory);
      const bench = { directory, image, sizeBytes, ours, peer };
      const times = SUBJECTS.map(() => ({ ours: [] as number[], peer: [] as number[] }));
      for (let round = 0; round < runs; round += 1) {
        for (const [index, subject] of SUBJECTS.entries()) {
          const sides = [
            async () => times[index]!.ours.push(await runOurs(bench, subject)),
            async () => bench.peer && times[index]!.peer.push(await runPeer(bench, bench.peer, subject)),
          ];
          // Who goes first changes each round: the second one may find the disk busy or the caches warm.
          for (const side of round % 2 === 0 ? sides : sides.reverse()) await side();
          say(`run ${round + 1} of ${runs}: ${subject.name}`);
        }
      }
      for (const [index, subject] of SUBJECTS.entries()) rows.push(toRow(subject, times[index]!, sizeBytes));
    }
    say(`${gib(MEMORY_STREAM_BYTES)} over TLS into a file, for the memory`);
    const memory = await measureMemory({ directory, image });
    return {
      json: { sizeBytes, runs, missing, rows, memory },
      text: toText(rows, memory, { sizeBytes, runs, missing }),
    };
  } finally {
    process.off('exit', clean);
    clean();
  }
}

type Subject = (typeof SUBJECTS)[number];

async function runOurs(bench: Bench, { mode, file }: Subject): Promise<number> {
  const target = await freshTarget(bench, file);
  const args = [mode, String(bench.ours[mode]), String(bench.sizeBytes), bench.directory, file ? target : '-'];
  const { output } = await run(process.execPath, [script('stream-sink'), ...args]);
  return (JSON.parse(output) as { ms: number }).ms;
}

async function runPeer(bench: Bench, peer: NonNullable<Bench['peer']>, { mode, file }: Subject): Promise<number> {
  const target = await freshTarget(bench, file);
  const uri =
    mode === 'plain'
      ? `nbd://127.0.0.1:${peer.plain}`
      : `nbds://localhost:${peer.tls}?tls-certificates=${bench.directory}`;
  if (!file) return (await run('nbdcopy', ['--connections=1', uri, 'null:'])).ms;
  const copied = await run('nbdcopy', ['--connections=1', '--flush', uri, target]);
  const compared = await run('cmp', [bench.image, target]);
  return copied.ms + compared.ms;
}

/** Removes what the last run wrote and waits until the disk is quiet. */
async function freshTarget(bench: Bench, file: boolean): Promise<string> {
  const target = join(bench.directory, 'copy.img');
  rmSync(target, { force: true });
  rmSync(`${target}.sums`, { force: true });
  if (file) await run('sync', []);
  return target;
}

async function startPeers(stack: AsyncDisposableStack, image: string, pki: string): Promise<Bench['peer']> {
  const [plain, tls] = [await freePort(), await freePort()];
  const common = ['--foreground', '--exit-with-parent', '--read-only', '--ipaddr', '127.0.0.1'];
  const secured = ['--tls=require', `--tls-certificates=${pki}`, '--tls-verify-peer'];
  stack.use(new Background('nbdkit', [...common, '--port', String(plain), 'file', image], { quiet: true }));
  stack.use(new Background('nbdkit', [...common, ...secured, '--port', String(tls), 'file', image], { quiet: true }));
  for (const port of [plain, tls]) await reachable(port);
  return { plain, tls };
}

async function measureMemory({ directory, image }: { directory: string; image: string }): Promise<MemoryRow[]> {
  const size = String(MEMORY_STREAM_BYTES);
  await using source = new Background(process.execPath, [script('stream-source'), image, size, directory]);
  const { tls } = JSON.parse(await source.firstLine()) as Bench['ours'];
  const target = join(directory, 'copy.img');
  rmSync(target, { force: true });
  rmSync(`${target}.sums`, { force: true });
  const { output } = await run(process.execPath, [script('stream-sink'), 'tls', String(tls), size, directory, target]);
  const sink = JSON.parse(output) as { halfwayBytes: number; endBytes: number; peakBytes: number };
  const { now, peak } = residentBytes(source.pid);
  const boundBytes = MEMORY_BOUND_BYTES;
  return [
    { side: 'source', halfwayBytes: null, endBytes: now, peakBytes: peak, boundBytes },
    { side: 'destination', ...pick(sink), boundBytes },
  ];
}

function pick(sink: { halfwayBytes: number; endBytes: number; peakBytes: number }) {
  const { halfwayBytes, endBytes, peakBytes } = sink;
  return { halfwayBytes, endBytes, peakBytes };
}

function toRow(subject: Subject, times: { ours: number[]; peer: number[] }, sizeBytes: number): Row {
  const ours = (sizeBytes / median(times.ours)) * 1000;
  const peer = times.peer.length > 0 ? (sizeBytes / median(times.peer)) * 1000 : null;
  return {
    name: subject.name,
    peer: subject.peer,
    oursMs: times.ours.map(Math.round),
    peerMs: times.peer.map(Math.round),
    oursBytesPerSecond: Math.round(ours),
    peerBytesPerSecond: peer === null ? null : Math.round(peer),
    ratio: peer === null ? null : Number((ours / peer).toFixed(2)),
  };
}

function toText(
  rows: readonly Row[],
  memory: readonly MemoryRow[],
  about: { sizeBytes: number; runs: number; missing: readonly string[] },
): string {
  const rate = (bytes: number | null): string => (bytes === null ? '-' : `${(bytes / 1e9).toFixed(2)} GB/s`);
  const mib = (bytes: number | null): string => (bytes === null ? '-' : `${Math.round(bytes / 1_048_576)} MiB`);
  const streams = rows.map((row) => [
    row.name,
    rate(row.oursBytesPerSecond),
    rate(row.peerBytesPerSecond),
    row.ratio === null ? '-' : row.ratio.toFixed(2),
    row.ratio === null ? '-' : row.ratio >= 1 ? 'reached' : 'missed',
    row.peer,
  ]);
  const residents = memory.map((row) => [
    row.side,
    mib(row.halfwayBytes),
    mib(row.endBytes),
    mib(row.peakBytes),
    row.peakBytes <= row.boundBytes ? 'reached' : 'missed',
  ]);
  return [
    `${gib(about.sizeBytes)} random data in the page cache, one connection, medians of ${about.runs} runs`,
    ...(about.missing.length > 0 ? [`no comparison: ${about.missing.join(', ')} missing`] : []),
    '',
    table([['stream', 'ferry', 'peer', 'ratio', '>= 1.00', 'peer is'], ...streams]),
    '',
    `resident memory while ${gib(MEMORY_STREAM_BYTES)} travel over TLS into a file`,
    '',
    table([['side', 'halfway', 'at the end', 'peak', '<= 200 MiB'], ...residents]),
    '',
    'Ferry is timed from connecting to the end, without the start of Node (agents run already); the peer as whole processes.',
    'Its file rows hold checksums, sync and a re-read from the disk; the peer’s hold sync and cmp, which reads the page cache.',
  ].join('\n');
}

function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

function gib(bytes: number): string {
  return `${Number((bytes / GIB).toFixed(2))} GiB`;
}

/** Writes noise that no compression could shrink, syncs it and reads it once, so that it is in the page cache. */
function writeRandom(path: string, sizeBytes: number): void {
  const file = openSync(path, 'w+');
  const block = Buffer.alloc(16 * 1_048_576);
  for (let at = 0; at < sizeBytes; at += block.length) {
    writeSync(file, randomFillSync(block), 0, Math.min(block.length, sizeBytes - at), at);
  }
  fsyncSync(file);
  for (let at = 0; at < sizeBytes; at += block.length) readSync(file, block, 0, block.length, at);
  closeSync(file);
}

function script(name: string): string {
  return fileURLToPath(new URL(`${name}.ts`, import.meta.url));
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Resolves when somebody listens; nbdkit says nothing when it is ready. */
async function reachable(port: number): Promise<void> {
  for (let tries = 0; tries < 250; tries += 1) {
    const connected = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1');
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
      socket.once('connect', () => socket.destroy());
    });
    if (connected) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`nbdkit does not listen on port ${port}`);
}
