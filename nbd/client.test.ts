import { X509Certificate } from 'node:crypto';
import { createServer, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { NbdClient, type NbdConnectOptions } from './client.ts';
import { NbdError } from './error.ts';
import { BASE_ALLOCATION, type Peer } from './export.ts';
import { type ConnectionEnd, NbdServer } from './server.ts';
import { directoryOf, hasTool, MemoryExport, makePki, patternedBytes, temporaryDirectory } from './testing.ts';

let memory: MemoryExport;
let server: NbdServer;
let ends: ConnectionEnd[];
let ended: PromiseWithResolvers<ConnectionEnd>;

beforeEach(() => {
  memory = new MemoryExport(patternedBytes());
  ends = [];
  ended = Promise.withResolvers();
  server = new NbdServer({
    directory: directoryOf({ vol: memory }),
    onConnectionEnd: (end) => {
      ends.push(end);
      ended.resolve(end);
    },
  });
});
afterEach(() => server.close());

async function connect(options: Partial<NbdConnectOptions> = {}): Promise<NbdClient> {
  const port = options.port ?? (await server.listen({ host: '127.0.0.1', port: 0 })).port;
  return NbdClient.connect({
    ...{ host: '127.0.0.1', exportName: 'vol', mode: 'plain', timeoutMs: 10_000, contexts: [BASE_ALLOCATION] },
    ...options,
    port,
  });
}

describe('reading', () => {
  it('reads every byte with many requests in flight and any sizes', async () => {
    const client = await connect();
    expect(client.sizeBytes).toBe(memory.sizeBytes);
    const copy = Buffer.alloc(memory.sizeBytes);
    const reads: Promise<void>[] = [];
    for (let at = 0, size = 1; at < copy.length; at += size, size = (size * 7 + 13) % 70_000) {
      if (size === 0) size = 1;
      const length = Math.min(size, copy.length - at);
      reads.push(client.read(copy.subarray(at, at + length), at, length));
    }
    await Promise.all(reads);
    expect(copy.equals(memory.bytes)).toBe(true);
    expect(client.bytesReceived).toBe(copy.length);
    await client.close();
    expect((await ended.promise).bytesSent).toBe(copy.length);
    expect(ends[0]?.error).toBeNull();
    expect(memory.closed).toBe(1);
  });

  it('reports extents, a cut first answer included', async () => {
    await server.close();
    server = new NbdServer({ directory: directoryOf({ vol: memory }), limits: { extentsMax: 1 } });
    const client = await connect();
    expect(await client.blockStatus(BASE_ALLOCATION, 0, memory.sizeBytes)).toEqual([
      { offset: 0, length: 256 * 1024, flags: 0 },
    ]);
    expect(await client.blockStatus(BASE_ALLOCATION, 256 * 1024, 1024)).toEqual([
      { offset: 256 * 1024, length: 1024, flags: 3 },
    ]);
    await expect(client.blockStatus('ferry:other', 0, 1)).rejects.toMatchObject({ reason: 'unsupported' });
    await client.close();
  });

  it('refuses a read beyond the end or beyond the server’s bound without asking', async () => {
    const client = await connect();
    const target = Buffer.alloc(4 * 1024 * 1024);
    await expect(client.read(target, memory.sizeBytes - 1, 2)).rejects.toMatchObject({ reason: 'invalid' });
    await expect(client.read(target, 0, 2 * 1024 * 1024)).rejects.toMatchObject({ reason: 'invalid' });
    await client.read(target, 0, 1024);
    await client.close();
    await expect(client.read(target, 0, 1)).rejects.toMatchObject({ reason: 'closed' });
  });

  it('gives the reason of a failed read and goes on', async () => {
    const client = await connect();
    const target = Buffer.alloc(1024);
    memory.gate = Promise.reject(new Error('the disk is gone'));
    memory.gate.catch(() => {});
    await expect(client.read(target, 0, 1024)).rejects.toMatchObject({ reason: 'io' });
    memory.gate = Promise.resolve();
    await client.read(target, 0, 1024);
    expect(target.equals(memory.bytes.subarray(0, 1024))).toBe(true);
    await client.close();
  });
});

it('an export that is taken away is told as a shutdown, not as a fault of its disk', async () => {
  const client = await connect();
  memory.readInto = () => Promise.reject(new NbdError('shutdown', 'ask for another one'));
  await expect(client.read(Buffer.alloc(10), 0, 10)).rejects.toMatchObject({ reason: 'shutdown' });
  await client.close();
});

describe('breaks', () => {
  it('rejects everything that waits when the server ends the export', async () => {
    const client = await connect();
    const gate = Promise.withResolvers<void>();
    memory.gate = gate.promise;
    const reads = Array.from({ length: 30 }, (_, index) => client.read(Buffer.alloc(1024), index * 1024, 1024));
    const settled = Promise.allSettled(reads);
    await memory.firstRead.promise;
    const disconnected = server.disconnect('vol');
    for (const read of await settled) {
      expect(read).toMatchObject({ status: 'rejected', reason: { reason: 'disconnected' } });
    }
    expect(memory.closed).toBe(0);
    gate.resolve();
    await disconnected;
    expect(memory.closed).toBe(1);
    await client.close();
  });

  it('ends a request that gets no answer at its deadline, counted from the last answer', async () => {
    const client = await connect();
    vi.useFakeTimers({ toFake: ['setTimeout', 'performance'] });
    try {
      await client.read(Buffer.alloc(10), 0, 10);
      vi.advanceTimersByTime(9_999);
      const gate = Promise.withResolvers<void>();
      memory.gate = gate.promise;
      const read = client.read(Buffer.alloc(10), 0, 10);
      const rejected = expect(read).rejects.toMatchObject({ reason: 'timeout' });
      vi.advanceTimersByTime(9_999);
      const other = client.read(Buffer.alloc(10), 0, 10);
      const otherRejected = expect(other).rejects.toMatchObject({ reason: 'timeout' });
      vi.advanceTimersByTime(1);
      await rejected;
      await otherRejected;
      gate.resolve();
    } finally {
      vi.useRealTimers();
    }
  });

  it('ends when the signal aborts, of the connection or of one read', async () => {
    const { port } = await server.listen({ host: '127.0.0.1', port: 0 });
    const gate = Promise.withResolvers<void>();
    memory.gate = gate.promise;
    for (const mine of ['connection', 'read']) {
      const controller = new AbortController();
      const client = await connect({ port, ...(mine === 'connection' ? { signal: controller.signal } : {}) });
      const read = client.read(Buffer.alloc(10), 0, 10, mine === 'read' ? controller.signal : undefined);
      controller.abort();
      await expect(read).rejects.toMatchObject({ reason: 'aborted' });
      await client.close();
    }
    gate.resolve();
  });

  it.each([
    ['silence', () => {}, 'timeout'],
    ['an end', (socket: Socket) => socket.end(), 'disconnected'],
    ['another protocol', (socket: Socket) => socket.write('HTTP/1.1 400 Bad Request\r\n\r\n'), 'protocol'],
  ])('takes %s for what it is while connecting', async (_, greet, reason) => {
    const sockets = new Set<Socket>();
    const other = createServer((socket) => {
      sockets.add(socket.on('error', () => {}));
      greet(socket);
    });
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    const { port } = other.address() as { port: number };
    await expect(connect({ port, timeoutMs: reason === 'timeout' ? 50 : 10_000 })).rejects.toMatchObject({ reason });
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => other.close(resolve));
    await expect(connect({ port })).rejects.toMatchObject({ reason: 'disconnected' });
  });

  it.each([
    ['unknown_export', 'unknown_export'],
    ['expired', 'refused'],
    ['wrong_client', 'refused'],
    ['exhausted', 'refused'],
  ] as const)('a directory that says %s arrives as %s', async (reason, arrives) => {
    await server.close();
    const open = () => Promise.reject(new NbdError(reason, `no: ${reason}`));
    server = new NbdServer({ directory: { open } });
    await expect(connect()).rejects.toMatchObject({ reason: arrives, message: `no: ${reason}` });
  });
});

describe.skipIf(!hasTool('openssl'))('TLS (needs openssl)', () => {
  using directory = temporaryDirectory();
  const pki = hasTool('openssl') ? makePki(directory.path) : null!;
  const fingerprint = (pem: string): string => new X509Certificate(pem).fingerprint256;
  const trusted = { ca: pki?.ca, ...pki?.client };

  for (const [mode, listening] of [
    ['tls', 'direct'],
    ['starttls', 'starttls'],
  ] as const) {
    it(`${mode}: reads, and the directory sees who asks`, async () => {
      const peers: Peer[] = [];
      await server.close();
      server = new NbdServer({
        directory: {
          open: async (_, peer) => {
            peers.push(peer);
            return memory;
          },
        },
      });
      const tls = { mode: listening, ...pki.server, ca: pki.ca };
      const { port } = await server.listen({ host: '127.0.0.1', port: 0, tls });
      const client = await connect({ port, mode, tls: trusted });
      const copy = Buffer.alloc(memory.sizeBytes);
      const middle = 700_001;
      await Promise.all([
        client.read(copy, 0, middle),
        client.read(copy.subarray(middle), middle, copy.length - middle),
      ]);
      expect(copy.equals(memory.bytes)).toBe(true);
      await client.close();
      expect(peers).toEqual([{ address: '127.0.0.1', tls: { fingerprint256: fingerprint(pki.client.cert) } }]);
    });

    it(`${mode}: a server that is not the pinned one, or under no CA of ours, is refused`, async () => {
      const tls = { mode: listening, ...pki.server };
      const { port } = await server.listen({ host: '127.0.0.1', port: 0, tls });
      const pin = { fingerprint256: fingerprint(pki.stranger.cert) };
      await expect(connect({ port, mode, tls: pin })).rejects.toMatchObject({ reason: 'tls' });
      await expect(connect({ port, mode, tls: { ca: pki.stranger.cert } })).rejects.toMatchObject({ reason: 'tls' });
      await expect(connect({ port, mode, tls: {} })).rejects.toMatchObject({ reason: 'tls' });
      const named = { ca: pki.ca, servername: 'elsewhere' };
      await expect(connect({ port, mode, tls: named })).rejects.toMatchObject({ reason: 'tls' });
      const client = await connect({ port, mode, tls: { fingerprint256: fingerprint(pki.server.cert) } });
      await client.close();
    });

    it(`${mode}: a client under no CA of the server’s is refused`, async () => {
      const tls = { mode: listening, ...pki.server, ca: pki.ca };
      const { port } = await server.listen({ host: '127.0.0.1', port: 0, tls });
      for (const client of [{}, pki.stranger]) {
        await expect(connect({ port, mode, tls: { ca: pki.ca, ...client } })).rejects.toBeInstanceOf(NbdError);
      }
      expect(ends.every((end) => end.exportName === null)).toBe(true);
    });
  }

  it('a plain client at a TLS port, and STARTTLS at a plain port, end without data', async () => {
    const tls = { mode: 'starttls', ...pki.server, ca: pki.ca } as const;
    const secured = await server.listen({ host: '127.0.0.1', port: 0, tls });
    await expect(connect({ port: secured.port })).rejects.toMatchObject({ reason: 'tls_required' });
    const plain = await server.listen({ host: '127.0.0.1', port: 0 });
    const asking = connect({ port: plain.port, mode: 'starttls', tls: trusted });
    await expect(asking).rejects.toMatchObject({ reason: 'unsupported' });
    const direct = await server.listen({ host: '127.0.0.1', port: 0, tls: { ...tls, mode: 'direct' } });
    await expect(connect({ port: direct.port, timeoutMs: 500 })).rejects.toBeInstanceOf(NbdError);
  });
});
