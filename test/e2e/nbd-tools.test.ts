import { randomBytes, randomInt } from 'node:crypto';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { NbdError } from '../../nbd/error.ts';
import * as nbd from '../../nbd/protocol.ts';
import { hasTool } from '../../nbd/testing.ts';
import { type Machine, MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import type { VolumeExport } from '../../proto/gen/ferry/v1/volume_pb.ts';
import { durationFromMs } from '../../shared/duration.ts';
import { FerryError, toFerryError } from '../../shared/error.ts';
import { TestCluster } from '../harness/cluster.ts';
import {
  holdBeforeCopy,
  imagePath,
  nbdPorts,
  negotiation,
  RawNbd,
  runWriter,
  stopMachine,
  throwAt,
  tool,
  writtenBytes,
} from '../harness/nbd.ts';

const hasTools = ['nbdinfo', 'nbdcopy', 'qemu-img'].every(hasTool);
const cli = join(import.meta.dirname, '../../cli/main.ts');

const long = process.env.FERRY_TEST_LONG === '1';

let cluster: TestCluster;
let machine: Machine;
let image: string;
let agentPid: number;
/** What an export of the running Machine's volume came to. */
let whileRunning: VolumeExport | FerryError;

beforeAll(async () => {
  cluster = await TestCluster.start();
  machine = await runWriter(cluster, 'host-a');
  image = imagePath(cluster, 'host-a', machine.volumeId);
  agentPid = cluster.pid('host-a');
  whileRunning = await exportVolume().catch(toFerryError);
  await stopMachine(cluster, machine.id);
});
afterAll(async () => cluster?.[Symbol.asyncDispose]());

async function exportVolume(ttlMs = 60_000): Promise<VolumeExport> {
  const request = { volumeId: machine.volumeId, ttl: durationFromMs(ttlMs) };
  return (await cluster.volumes.exportVolume(request, { timeoutMs: 20_000 })).export!;
}

/** The reason for which a server refuses an export. */
async function refusal(attempt: Promise<RawNbd>): Promise<string> {
  const raw = await attempt.catch((error: unknown) => error);
  if (raw instanceof RawNbd) raw.close();
  expect(raw).toBeInstanceOf(NbdError);
  return (raw as NbdError).reason;
}

async function stillServes(): Promise<void> {
  const fresh = await exportVolume();
  const raw = await RawNbd.open(fresh.port, fresh.token);
  expect(await raw.first(4096)).toEqual(await firstOf(image, 4096));
  raw.close();
  expect(cluster.pid('host-a')).toBe(agentPid);
  expect((await cluster.agent('host-a').getHost({})).host?.id).toBe('host-a');
}

async function firstOf(path: string, length: number, offset = 0): Promise<Buffer> {
  await using file = await open(path);
  return (await file.read(Buffer.alloc(length), 0, length, offset)).buffer;
}

describe('standard NBD tools read an exported volume', () => {
  test('the volume of a running Machine is refused', () => {
    expect(whileRunning).toBeInstanceOf(FerryError);
    expect(whileRunning).toMatchObject({ reason: 'volume_in_use', field: 'volume_id' });
    expect((whileRunning as FerryError).nextAction).toContain('Stop the Machine');
  });

  test.skipIf(!hasTools)('nbdinfo --map shows the holes (needs libnbd-bin)', async () => {
    const { uri, tls } = await exportVolume();
    expect(tls).toBe(false);
    expect(await tool('nbdinfo', '--size', uri)).toBe(`${1024 ** 3}\n`);
    await tool('nbdinfo', '--is', 'read-only', uri);
    const map = JSON.parse(await tool('nbdinfo', '--map', '--json', uri)) as {
      offset: number;
      length: number;
      type: number;
    }[];
    const bytesOf = (type: number) =>
      map.filter((each) => each.type === type).reduce((sum, { length }) => sum + length, 0);
    const holes = map.filter(({ type }) => type === 3);
    expect(bytesOf(0) + bytesOf(3)).toBe(1024 ** 3);
    expect(bytesOf(0)).toBeGreaterThanOrEqual(writtenBytes);
    expect(bytesOf(3)).toBeGreaterThan(700 * 1024 ** 2);
    for (const { offset, length } of holes) {
      const ends = [offset, offset + length - Math.min(length, 4096)];
      for (const at of ends)
        expect((await firstOf(image, Math.min(length, 4096), at)).every((byte) => byte === 0)).toBe(true);
    }
  });

  test.skipIf(!hasTools)(
    'nbdcopy and qemu-img find it identical to the image (needs libnbd-bin, qemu-utils)',
    async () => {
      const { uri } = await exportVolume();
      const copy = join(cluster.dir, 'copy.img');
      await tool('nbdcopy', uri, copy);
      await tool('cmp', copy, image);
      expect(await tool('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', uri, image)).toContain('Images are identical');
      expect(await tool('qemu-img', 'info', '--output=json', '-f', 'raw', uri)).toContain(
        `"virtual-size": ${1024 ** 3}`,
      );
    },
  );

  test.skipIf(!hasTools)('also the one of "ferry volume export" (needs libnbd-bin, qemu-utils)', async () => {
    const args = [cli, 'volume', 'export', machine.volumeId, '--ttl', '1m', '--coordinator', cluster.coordinator];
    const [uri] = (await tool(process.execPath, ...args)).split('\n');
    expect(uri).toMatch(/^nbd:\/\/127\.0\.0\.1:\d+\/[\w-]{43}$/);
    const copy = join(cluster.dir, 'cli.img');
    await tool('nbdcopy', uri!, copy);
    expect(await tool('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', copy, image)).toContain('Images are identical');
    const json = JSON.parse(await tool(process.execPath, ...args, '--json')) as { export: { uri: string } };
    expect(await tool('nbdinfo', '--size', json.export.uri)).toBe(`${1024 ** 3}\n`);
  });
});

describe('whoever has no right to a volume does not get it', () => {
  test('a wrong token', async () => {
    const { port, token } = await exportVolume();
    const other = `${token[0] === 'A' ? 'B' : 'A'}${token.slice(1)}`;
    for (const wrong of [other, token.slice(1), '', machine.volumeId, '../journal.db'])
      expect(await refusal(RawNbd.open(port, wrong))).toBe('unknown_export');
    await stillServes();
  });

  test('a token whose time is over', async () => {
    const { port, token, expiresAt } = await exportVolume(1000);
    const early = await RawNbd.open(port, token);
    const endMs = Number(expiresAt!.seconds) * 1000 + expiresAt!.nanos / 1e6;
    await cluster.until('the token has expired', () => Date.now() > endMs);
    expect(['refused', 'unknown_export']).toContain(await refusal(RawNbd.open(port, token)));
    early.close();
    await stillServes();
  });

  test("another client's token: the first to use it is the one", async () => {
    const { port, token } = await exportVolume();
    const first = await RawNbd.open(port, token, '127.0.0.1');
    expect(await refusal(RawNbd.open(port, token, '127.0.0.2'))).toBe('refused');
    expect(await first.first(512)).toHaveLength(512);
    const again = await RawNbd.open(port, token, '127.0.0.1');
    first.close();
    again.close();
    const second = await exportVolume();
    const from2 = await RawNbd.open(second.port, second.token, '127.0.0.2');
    expect(await refusal(RawNbd.open(second.port, second.token, '127.0.0.1'))).toBe('refused');
    from2.close();
  });

  test('a token of the tools at the port of the streams', async () => {
    const { token } = await exportVolume();
    expect(await refusal(RawNbd.open(nbdPorts(cluster, 'host-a').stream, token))).toBe('unknown_export');
  });

  test('a token that a start of the Machine has ended, and whoever was reading is cut off', async () => {
    const { port, token } = await exportVolume();
    const reader = await RawNbd.open(port, token);
    await cluster.machines.startMachine({ machineId: machine.id }, { timeoutMs: 20_000 });
    await reader.closed;
    expect(await refusal(RawNbd.open(port, token))).toBe('unknown_export');
    await cluster.until('it runs', async () => (await cluster.machine(machine.id)).state === MachineState.STARTED);
    await stopMachine(cluster, machine.id);
    await stillServes();
  });
});

describe('nonsense ends no more than its own connection', () => {
  const eachPort = async (attack: (port: number) => Promise<void>) => {
    const { stream, tools } = nbdPorts(cluster, 'host-a');
    for (const port of [stream, tools]) await attack(port);
    await stillServes();
  };

  test('negotiations cut off at any byte', async () => {
    const whole = negotiation('nobody-knows-this-token');
    await eachPort(async (port) => {
      for (let length = 0; length < whole.length; length += 3) {
        const { received, ended } = await throwAt(port, whole.subarray(0, length));
        expect(ended).toBe(true);
        expect(received.toString('latin1', 0, 16)).toBe('NBDMAGICIHAVEOPT');
      }
      const { received } = await throwAt(port, whole);
      expect(
        received.readUInt32BE(received.lastIndexOf(nbd.encodeOptionReply(nbd.OPT_GO, 0).subarray(0, 12)) + 12),
      ).toBe(nbd.REP_ERR_UNKNOWN);
    });
  });

  test('random bytes, before and behind a good greeting', async () => {
    await eachPort(async (port) => {
      const noise = Array.from({ length: 40 }, (_, index) =>
        Buffer.concat([Buffer.from(index % 2 === 0 ? [0, 0, 0, 3] : []), randomBytes(20 + randomInt(20_000))]),
      );
      // The server ends these by itself: no magic number is in them.
      const answers = await Promise.all(noise.map((bytes) => throwAt(port, bytes, { halfOpen: true })));
      for (const { received, ended } of answers) {
        expect(ended).toBe(true);
        expect(received.length).toBeLessThanOrEqual(18);
      }
    });
  });

  test('other protocols, endless options and options without end', async () => {
    const greeting = Buffer.from([0, 0, 0, 3]);
    const huge = nbd.encodeOption(nbd.OPT_GO);
    huge.writeUInt32BE(0xffff_ffff, 12);
    const attacks = [
      Buffer.from('GET / HTTP/1.1\r\nHost: ferry\r\n\r\n'),
      Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
      Buffer.concat([Buffer.from([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]), randomBytes(500)]),
      Buffer.concat([greeting, huge]),
      Buffer.concat([greeting, ...Array.from({ length: 100 }, () => nbd.encodeOption(nbd.OPT_LIST))]),
      Buffer.concat([greeting, nbd.encodeOption(nbd.OPT_EXPORT_NAME, Buffer.from('x'.repeat(5000)))]),
    ];
    await eachPort(async (port) => {
      for (const bytes of attacks) expect((await throwAt(port, bytes, { halfOpen: true })).ended).toBe(true);
    });
  });

  test('requests that do not fit, on an open export', async () => {
    const { port, token } = await exportVolume();
    for (const bytes of [randomBytes(64), Buffer.alloc(64)]) {
      const raw = await RawNbd.open(port, token);
      raw.socket.write(bytes);
      await raw.closed;
    }
    await stillServes();
  });
});

describe("a migration's token", () => {
  test('is no good at the port of the tools, nor for anyone else, nor when the copy is over', async () => {
    await using other = await TestCluster.start();
    const gate = join(other.dir, 'gate');
    const { id } = await runWriter(other, 'host-a', gate);
    const held = await holdBeforeCopy(other, id, { source: 'host-a', destination: 'host-b', gate });
    const { token, port, tls } = await held.openExport();
    try {
      expect(tls).toBe(false);
      expect(port).toBe(nbdPorts(other, 'host-a').stream);
      expect(await refusal(RawNbd.open(nbdPorts(other, 'host-a').tools, token))).toBe('unknown_export');
      const own = await RawNbd.open(port, token, '127.0.0.1');
      expect(await refusal(RawNbd.open(port, token, '127.0.0.2'))).toBe('refused');
      own.close();
    } finally {
      held.release();
    }
    const migration = await other.ended(held.id);
    expect(migration).toMatchObject({ state: MigrationState.MOVED, settled: true });
    expect(migration.destinationRoot).toBe(migration.sourceRoot);
    expect(await refusal(RawNbd.open(port, token))).toBe('unknown_export');
    const error = await held.openExport().catch(toFerryError);
    expect(error).toMatchObject({ reason: 'not_yet' });
  });
});

if (long) {
  test('a stream that cannot be reached: the Machine comes back when patience is over', async () => {
    // The destination looks for the stream at the address of the source's RPC port.
    await using other = await TestCluster.start({ agentFlags: { 'stream-listen': '127.0.0.3:0' } });
    const { id } = await runWriter(other, 'host-a');
    const migration = await other.ended(await other.migrate(id, 'host-b'));
    expect(migration).toMatchObject({ state: MigrationState.MOVED_BACK, failure: 'copy_broken' });
    expect(migration.nextAction).toContain('stream port');
    expect(await other.machine(id)).toMatchObject({ hostId: 'host-a', state: MachineState.STARTED });
  });
}
