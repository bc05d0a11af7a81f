import { type ChildProcess, spawn } from 'node:child_process';
import { randomFillSync, randomInt } from 'node:crypto';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, truncateSync, writeSync } from 'node:fs';
import { connect as connectTo, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { NbdClient } from '../../nbd/client.ts';
import type { Export, ExportDirectory } from '../../nbd/export.ts';
import { NbdServer } from '../../nbd/server.ts';
import { systemClock } from '../../shared/clock.ts';
import { CHUNK_BYTES } from './chunks.ts';
import { hostDisk } from './disk.ts';
import { FileExport } from './file-export.ts';
import { type PullOptions, type PullResult, pullVolume } from './pull.ts';
import { sumFile } from './sum-file.ts';
import { SumsFile } from './sums.ts';

const MIB = 1_048_576;
const SIZE_BYTES = 200 * MIB + 4_608;
const CHILD = fileURLToPath(new URL('testing-pull.ts', import.meta.url));

let directory: string;
let source: string;
let image: string;
let state: string;
let server: NbdServer;
let port: number;
/** Bytes of chunks that are not holes, as far as the file system tells. */
let dataBytes: number;
/** Bytes read from the source, and who wants to know when there are more. */
let served: number;
let onServed: () => void;
const children = new Set<ChildProcess>();

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'ferry-pull-'));
  [source, image, state] = ['source.img', 'copy.img', 'copy.sums'].map((name) => join(directory, name)) as [
    string,
    string,
    string,
  ];
  makeVolume(source);
  served = 0;
  const map = await hostDisk.map(source, SIZE_BYTES);
  dataBytes = 0;
  for (let at = 0; at < SIZE_BYTES; at += CHUNK_BYTES) {
    if (!map.isHole(at, CHUNK_BYTES)) dataBytes += Math.min(CHUNK_BYTES, SIZE_BYTES - at);
  }
  onServed = () => {};
  server = new NbdServer({ directory: counting(source) });
  port = (await server.listen({ host: '127.0.0.1', port: 0 })).port;
});

afterEach(async () => {
  for (const child of children) child.kill('SIGKILL');
  children.clear();
  await server.close();
  rmSync(directory, { recursive: true, force: true });
});

/** 60 MiB of noise, a hole, 60 MiB of noise with a page of zeros in it, a hole, and a ragged end. */
function makeVolume(path: string): void {
  const fd = openSync(path, 'w');
  const noise = Buffer.alloc(60 * MIB);
  writeSync(fd, randomFillSync(noise), 0, noise.length, 0);
  randomFillSync(noise).fill(0, 10 * MIB, 10 * MIB + CHUNK_BYTES);
  writeSync(fd, noise, 0, noise.length, 100 * MIB);
  closeSync(fd);
  truncateSync(path, SIZE_BYTES);
  const end = openSync(path, 'r+');
  writeSync(end, Buffer.from('the end'), 0, 7, SIZE_BYTES - 7);
  closeSync(end);
}

function counting(path: string): ExportDirectory {
  return {
    open: async () => {
      const file = await FileExport.open(path);
      const counted: Export = {
        sizeBytes: file.sizeBytes,
        contexts: file.contexts,
        readInto: async (target, offset, length) => {
          await file.readInto(target, offset, length);
          served += length;
          onServed();
        },
        blockStatus: (...args) => file.blockStatus(...args),
        close: () => file.close(),
      };
      return counted;
    },
  };
}

function pull(more: Partial<PullOptions> = {}, at = port): Promise<PullResult> {
  const to = { host: '127.0.0.1', port: at, exportName: 'vol', mode: 'plain', timeoutMs: 10_000 } as const;
  return pullVolume({
    connect: (signal) => NbdClient.connect({ ...to, contexts: ['base:allocation'], signal }),
    imagePath: image,
    statePath: state,
    sizeBytes: SIZE_BYTES,
    snapshot: 'stopped',
    clock: systemClock,
    signal: new AbortController().signal,
    ...more,
  });
}

function servedAtLeast(bytes: number): Promise<void> {
  return new Promise((resolve) => {
    onServed = () => {
      if (served >= bytes) resolve();
    };
    onServed();
  });
}

/** Bytes of data chunks that the state on the disk calls received. */
async function recordedData(): Promise<number> {
  const sums = await SumsFile.open(hostDisk, state);
  if (!sums) return 0;
  let bytes = 0;
  const data = await hostDisk.map(source, SIZE_BYTES);
  for (const [from, to] of sums.received.runs()) {
    for (let chunk = from; chunk < to; chunk += 1) {
      const at = chunk * CHUNK_BYTES;
      if (!data.isHole(at, CHUNK_BYTES)) bytes += Math.min(CHUNK_BYTES, SIZE_BYTES - at);
    }
  }
  await sums.close();
  return bytes;
}

async function expectSame(result: PullResult): Promise<void> {
  expect(readFileSync(image).equals(readFileSync(source))).toBe(true);
  const signal = new AbortController().signal;
  for (const direct of [false, true]) {
    expect((await sumFile({ path: source, signal, direct })).root).toBe(result.root);
    expect((await sumFile({ path: image, signal, direct })).root).toBe(result.root);
  }
}

describe('a copy between processes', () => {
  it('is sparse, equal and read back', async () => {
    const result = await pull();
    await expectSame(result);
    expect(result.connections).toBe(1);
    expect(statSync(image).blocks * 512).toBeLessThan(130 * MIB);
    expect(served).toBe(result.bytesTransferred);
  });

  it('whose puller is killed goes on where it had recorded, as often as it is killed', async () => {
    let recorded = 0;
    for (let kills = 0; kills < 6; kills += 1) {
      const child = spawn(process.execPath, [CHILD, String(port), image, state, String(SIZE_BYTES)], {
        stdio: ['ignore', 'ignore', 'inherit'],
      });
      children.add(child);
      const exited = new Promise((resolve) => child.once('exit', resolve));
      const before = served;
      await Promise.race([servedAtLeast(before + randomInt(1, 40) * MIB), exited]);
      child.kill('SIGKILL');
      await exited;
      await server.disconnect('vol');
      const now = await recordedData();
      expect(now).toBeGreaterThanOrEqual(recorded);
      // What is lost is at most what was under way: two records of 4 MiB, a piece of each lane, and the replies on their way.
      expect(now - recorded).toBeGreaterThanOrEqual(Math.min(served - before, dataBytes - recorded) - 48 * MIB);
      recorded = now;
    }
    const before = served;
    const child = spawn(process.execPath, [CHILD, String(port), image, state, String(SIZE_BYTES)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    children.add(child);
    const result = JSON.parse(await text(child.stdout)) as PullResult;
    expect(served - before).toBe(result.bytesTransferred);
    expect(recorded + result.bytesTransferred).toBe(await recordedData());
    await expectSame(result);
  });

  it('whose source is killed and whose connections are cut, also in mid-reply, sends nothing twice', async () => {
    using cutter = await Cutter.listen(() => port);
    const controller = new AbortController();
    const pulling = pull({ signal: controller.signal }, cutter.port);
    for (let cuts = 0; cuts < 5; cuts += 1) {
      const reached = servedAtLeast(served + randomInt(1, 12) * MIB);
      await Promise.race([reached, pulling]);
      if (cuts === 2) {
        // The whole server goes, and comes back on another port.
        await server.close();
        server = new NbdServer({ directory: counting(source) });
        port = (await server.listen({ host: '127.0.0.1', port: 0 })).port;
      } else {
        cutter.cut();
      }
    }
    const result = await pulling;
    await expectSame(result);
    expect(result.bytesTransferred).toBe(dataBytes);
    expect(result.connections).toBeGreaterThan(1);
    // The server also read what was lost under way: at most the requests in flight, for each break.
    expect(served).toBeLessThanOrEqual(dataBytes + (result.connections - 1) * 32 * MIB);
  });

  it('onto an image that was cut meanwhile starts over', async () => {
    await pull();
    truncateSync(image, 5);
    const result = await pull();
    expect(result).toMatchObject({ bytesResumed: 0, bytesTransferred: dataBytes });
    await expectSame(result);
  });
});

/** A TCP relay whose connections can be cut. */
class Cutter {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(target: () => number) {
    this.#server = createServer((inner) => {
      const outer = connectTo(target(), '127.0.0.1');
      for (const socket of [inner, outer]) {
        this.#sockets.add(socket);
        socket.on('error', () => {});
        socket.on('close', () => {
          this.#sockets.delete(socket);
          inner.destroy();
          outer.destroy();
        });
      }
      inner.pipe(outer).pipe(inner);
    });
  }

  static async listen(target: () => number): Promise<Cutter> {
    const cutter = new Cutter(target);
    await new Promise<void>((resolve) => cutter.#server.listen(0, '127.0.0.1', resolve));
    return cutter;
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port;
  }

  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  [Symbol.dispose](): void {
    this.cut();
    this.#server.close();
  }
}
