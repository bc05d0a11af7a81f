// Past 300 lines: one server under every client, the standard tools and hostile ones among them.
import { execFile, execFileSync, spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { NbdClient } from './client.ts';
import { BASE_ALLOCATION, type ExportDirectory } from './export.ts';
import * as nbd from './protocol.ts';
import { type ConnectionEnd, NbdServer } from './server.ts';
import { directoryOf, hasTool, MemoryExport, makePki, patternedBytes, temporaryDirectory } from './testing.ts';

const run = promisify(execFile);

let memory: MemoryExport;
let server: NbdServer;
let ends: ConnectionEnd[];
let opens = 0;
const opened = new Set<Socket>();

beforeEach(() => {
  memory = new MemoryExport(patternedBytes());
  ends = [];
  server = serverWith({});
});
afterEach(async () => {
  for (const socket of opened) socket.destroy();
  opened.clear();
  await server.close();
});

function serverWith(limits: ConstructorParameters<typeof NbdServer>[0]['limits']): NbdServer {
  opens = 0;
  const named = directoryOf({ vol: memory });
  const directory: ExportDirectory = {
    open: async (...args) => {
      const found = await named.open(...args);
      opens += 1;
      return found;
    },
  };
  return new NbdServer({ directory, ...(limits ? { limits } : {}), onConnectionEnd: (end) => ends.push(end) });
}

async function listen(): Promise<number> {
  return (await server.listen({ host: '127.0.0.1', port: 0 })).port;
}

/** A raw connection: sends what it is told and collects what comes. */
class Raw {
  readonly socket: Socket;
  #received = Buffer.alloc(0);
  #wake: () => void = () => {};
  ended = false;

  constructor(port: number) {
    this.socket = connect(port, '127.0.0.1');
    opened.add(this.socket);
    this.socket.on('error', () => {});
    this.socket.on('data', (bytes) => {
      this.#received = Buffer.concat([this.#received, bytes]);
      this.#wake();
    });
    this.socket.on('close', () => {
      this.ended = true;
      this.#wake();
    });
  }

  send(...parts: Uint8Array[]): this {
    this.socket.write(Buffer.concat(parts));
    return this;
  }

  async read(length: number): Promise<Buffer> {
    while (this.#received.length < length) {
      if (this.ended) throw new Error(`ended after ${this.#received.length} of ${length} bytes`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const bytes = this.#received.subarray(0, length);
    this.#received = this.#received.subarray(length);
    return bytes;
  }

  /** Type and data of the next option reply. */
  async reply(): Promise<{ option: number; type: number; data: Buffer }> {
    const head = await this.read(nbd.OPTION_REPLY_HEADER_BYTES);
    const data = await this.read(head.readUInt32BE(16));
    return { option: head.readUInt32BE(8), type: head.readUInt32BE(12), data };
  }

  async close(): Promise<void> {
    while (!this.ended) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Greets and goes into the transmission of `vol`; simple replies unless `structured`. */
  async transmission(structured: boolean): Promise<this> {
    await this.read(18);
    this.send(FLAGS);
    if (structured) {
      this.send(nbd.encodeOption(nbd.OPT_STRUCTURED_REPLY));
      await this.reply();
    }
    this.send(nbd.encodeOption(nbd.OPT_EXPORT_NAME, Buffer.from('vol')));
    await this.read(10);
    return this;
  }

  async simpleReply(): Promise<{ error: number; cookie: number }> {
    const head = await this.read(nbd.SIMPLE_REPLY_BYTES);
    expect(head.readUInt32BE(0)).toBe(nbd.SIMPLE_REPLY_MAGIC);
    return { error: head.readUInt32BE(4), cookie: head.readUInt32BE(12) };
  }
}

const FLAGS = Buffer.from([0, 0, 0, 3]);

function request(command: number, offset: number, length: number, flags = 0): Buffer {
  const bytes = Buffer.alloc(nbd.REQUEST_BYTES);
  nbd.encodeRequest(bytes, { flags, command, cookie: command, generation: 0, offset, length });
  return bytes;
}

async function stillServes(port: number): Promise<void> {
  const options = { host: '127.0.0.1', port, exportName: 'vol', mode: 'plain', timeoutMs: 10_000 } as const;
  const client = await NbdClient.connect(options);
  const target = Buffer.alloc(1000);
  await client.read(target, 5, 1000);
  expect(target.equals(memory.bytes.subarray(5, 1005))).toBe(true);
  await client.close();
}

describe('negotiation', () => {
  it('lists nothing, refuses unknown options and unknown exports, and goes on', async () => {
    const raw = new Raw(await listen());
    const greeting = await raw.read(18);
    expect(greeting.toString('latin1', 0, 16)).toBe('NBDMAGICIHAVEOPT');
    raw.send(FLAGS, nbd.encodeOption(nbd.OPT_LIST), nbd.encodeOption(77), nbd.encodeOption(nbd.OPT_STARTTLS));
    expect(await raw.reply()).toMatchObject({ option: nbd.OPT_LIST, type: nbd.REP_ACK });
    expect(await raw.reply()).toMatchObject({ option: 77, type: nbd.REP_ERR_UNSUP });
    expect(await raw.reply()).toMatchObject({ option: nbd.OPT_STARTTLS, type: nbd.REP_ERR_UNSUP });
    raw.send(nbd.encodeOption(nbd.OPT_GO, Buffer.concat([nbd.encodeString('other'), Buffer.from([0, 0])])));
    expect(await raw.reply()).toMatchObject({ type: nbd.REP_ERR_UNKNOWN });
    raw.send(nbd.encodeOption(nbd.OPT_GO, Buffer.from([0, 0, 1, 0, 65])));
    expect(await raw.reply()).toMatchObject({ type: nbd.REP_ERR_INVALID });
    raw.send(nbd.encodeOption(nbd.OPT_INFO, Buffer.concat([nbd.encodeString('vol'), Buffer.from([0, 0])])));
    const info = await raw.reply();
    expect(nbd.readUint64(info.data, 2)).toBe(memory.sizeBytes);
    expect(info.data.readUInt16BE(10) & nbd.FLAG_READ_ONLY).toBe(nbd.FLAG_READ_ONLY);
    expect((await raw.reply()).data.readUInt32BE(10)).toBe(1_048_576);
    expect(await raw.reply()).toMatchObject({ type: nbd.REP_ACK });
    raw.send(nbd.encodeOption(nbd.OPT_ABORT));
    expect(await raw.reply()).toMatchObject({ option: nbd.OPT_ABORT, type: nbd.REP_ACK });
    await raw.close();
    expect(memory.closed).toBe(1);
  });

  it('sends the 124 zeros to a client that did not decline them', async () => {
    const raw = new Raw(await listen());
    await raw.read(18);
    raw.send(Buffer.from([0, 0, 0, 1]), nbd.encodeOption(nbd.OPT_EXPORT_NAME, Buffer.from('vol')));
    const reply = await raw.read(134);
    expect(nbd.readUint64(reply, 0)).toBe(memory.sizeBytes);
    raw.send(request(nbd.CMD_READ, 0, 16));
    expect(await raw.simpleReply()).toEqual({ error: 0, cookie: nbd.CMD_READ });
    expect((await raw.read(16)).equals(memory.bytes.subarray(0, 16))).toBe(true);
  });

  it('with TLS required answers every option but STARTTLS and ABORT with TLS_REQD', async () => {
    const tls = { mode: 'starttls', cert: '', key: '' } as const;
    const { port } = await server.listen({ host: '127.0.0.1', port: 0, tls });
    const raw = new Raw(port);
    await raw.read(18);
    raw.send(FLAGS);
    for (const option of [3, 6, 7, 8, 9, 10, 99]) {
      raw.send(nbd.encodeOption(option, nbd.encodeString('vol')));
      expect(await raw.reply()).toMatchObject({ option, type: nbd.REP_ERR_TLS_REQD });
    }
    raw.send(nbd.encodeOption(nbd.OPT_EXPORT_NAME, Buffer.from('vol')));
    await raw.close();
    expect(ends).toMatchObject([{ exportName: null, error: { reason: 'tls_required' } }]);
  });

  it('takes no bytes in the clear behind STARTTLS for TLS', async () => {
    const tls = { mode: 'starttls', cert: '', key: '' } as const;
    const { port } = await server.listen({ host: '127.0.0.1', port: 0, tls });
    const raw = new Raw(port);
    await raw.read(18);
    raw.send(FLAGS, nbd.encodeOption(nbd.OPT_STARTTLS), nbd.encodeOption(nbd.OPT_LIST));
    await raw.close();
    expect(ends).toMatchObject([{ error: { reason: 'protocol' } }]);
  });

  it('ends at its bounds: option length, number of options, connections', async () => {
    await server.close();
    server = serverWith({ optionBytesMax: 100, optionsMax: 3, connectionsMax: 2 });
    const port = await listen();
    const long = new Raw(port);
    await long.read(18);
    await long.send(FLAGS, nbd.encodeOption(nbd.OPT_LIST, Buffer.alloc(101))).close();
    const many = new Raw(port);
    await many.read(18);
    await many.send(FLAGS, ...Array.from({ length: 4 }, () => nbd.encodeOption(nbd.OPT_LIST))).close();
    expect(ends).toMatchObject([{ error: { reason: 'too_big' } }, { error: { reason: 'too_big' } }]);
    for (const raw of [new Raw(port), new Raw(port)]) await raw.read(18);
    await expect(new Raw(port).read(18)).rejects.toThrow('ended after 0');
  });

  it('ends a handshake that does not come to its end', async () => {
    await server.close();
    server = serverWith({ handshakeTimeoutMs: 30 });
    const raw = new Raw(await listen());
    await raw.close();
    await server.close();
    expect(ends).toMatchObject([{ exportName: null, error: { reason: 'disconnected' } }]);
  });
});

describe('transmission', () => {
  it('refuses what would write with EPERM, drains its payload and goes on', async () => {
    const raw = await new Raw(await listen()).transmission(false);
    raw.send(request(nbd.CMD_WRITE, 0, 5000), Buffer.alloc(5000, 0x67));
    raw.send(request(nbd.CMD_FLUSH, 0, 0), request(nbd.CMD_TRIM, 0, 512), request(nbd.CMD_CACHE, 0, 512));
    raw.send(request(nbd.CMD_WRITE_ZEROES, 0, 512), request(99, 0, 0), request(nbd.CMD_BLOCK_STATUS, 0, 512));
    const replies: Record<number, number> = {};
    for (let i = 0; i < 7; i += 1) {
      const { cookie, error } = await raw.simpleReply();
      replies[cookie] = error;
    }
    expect(replies).toEqual({ 1: nbd.EPERM, 3: nbd.EPERM, 4: nbd.EPERM, 5: nbd.EPERM, 6: nbd.EPERM, 99: 22, 7: 22 });
    raw.send(request(nbd.CMD_READ, 0, 100));
    expect((await raw.simpleReply()).error).toBe(0);
  });

  it('refuses reads outside the export or over the bound', async () => {
    const raw = await new Raw(await listen()).transmission(false);
    const far = request(nbd.CMD_READ, 0, 1);
    far.fill(0xff, 16, 24);
    for (const bad of [request(nbd.CMD_READ, memory.sizeBytes, 1), request(nbd.CMD_READ, 0, 1_048_577), far]) {
      raw.send(bad);
      expect((await raw.simpleReply()).error).toBe(nbd.EINVAL);
    }
  });

  it('keeps a bounded number of requests and buffers under way for a client that reads no reply', async () => {
    await server.close();
    let underWay = 0;
    let most = 0;
    const gate = Promise.withResolvers<void>();
    memory.gate = gate.promise;
    const plain = memory.readInto.bind(memory);
    memory.readInto = async (...args) => {
      underWay += 1;
      most = Math.max(most, underWay);
      await plain(...args);
      underWay -= 1;
    };
    server = serverWith({ requestsMax: 8, buffersMax: 3 });
    const raw = await new Raw(await listen()).transmission(false);
    raw.send(...Array.from({ length: 100 }, () => request(nbd.CMD_READ, 0, 65_536)));
    await memory.firstRead.promise;
    gate.resolve();
    for (let i = 0; i < 100; i += 1) await raw.read(nbd.SIMPLE_REPLY_BYTES + 65_536);
    expect(most).toBeLessThanOrEqual(3);
  });

  it('ends a connection that has gone quiet', async () => {
    await server.close();
    server = serverWith({ idleTimeoutMs: 30 });
    const raw = await new Raw(await listen()).transmission(true);
    await raw.close();
    await server.close();
    expect(ends).toMatchObject([{ exportName: 'vol', error: { reason: 'disconnected' } }]);
    expect(memory.closed).toBe(1);
  });

  it('a wrong request magic ends the connection, and only that one', async () => {
    const port = await listen();
    const raw = await new Raw(port).transmission(true);
    raw.send(Buffer.alloc(nbd.REQUEST_BYTES, 0x55));
    await raw.close();
    expect(ends).toMatchObject([{ exportName: 'vol', error: { reason: 'protocol' } }]);
    await stillServes(port);
    await server.close();
    expect(memory.closed).toBe(2);
  });
});

describe('bad input', () => {
  const valid = Buffer.concat([
    FLAGS,
    nbd.encodeOption(nbd.OPT_STRUCTURED_REPLY),
    nbd.encodeOption(
      nbd.OPT_SET_META_CONTEXT,
      Buffer.concat([nbd.encodeString('vol'), Buffer.from([0, 0, 0, 1]), nbd.encodeString(BASE_ALLOCATION)]),
    ),
    nbd.encodeOption(nbd.OPT_GO, Buffer.concat([nbd.encodeString('vol'), Buffer.from([0, 0])])),
    request(nbd.CMD_READ, 4096, 4096),
    request(nbd.CMD_BLOCK_STATUS, 0, 65_536),
  ]);

  /** Sends bytes, ends, and waits for the server to end too. */
  async function throwAt(port: number, bytes: Uint8Array): Promise<void> {
    const raw = new Raw(port);
    raw.socket.end(bytes);
    await raw.close();
  }

  it('a handshake cut anywhere ends its own connection only', async () => {
    const port = await listen();
    for (let length = 0; length < valid.length; length += 1) await throwAt(port, valid.subarray(0, length));
    await stillServes(port);
    await server.close();
    expect(ends.length).toBe(valid.length + 1);
  });

  it('random bytes, and a good conversation with bytes changed, end their own connection only', async () => {
    const port = await listen();
    const change = fc.record({ at: fc.nat(valid.length - 1), to: fc.nat(255) });
    const changed = fc.array(change, { minLength: 1, maxLength: 8 }).map((changes) => {
      const bytes = Buffer.from(valid);
      for (const { at, to } of changes) bytes[at] = to;
      return bytes as Uint8Array;
    });
    const noise = fc.uint8Array({ maxLength: 4096 });
    const led = noise.map((bytes) => Buffer.concat([FLAGS, bytes]) as Uint8Array);
    await fc.assert(
      fc.asyncProperty(fc.oneof(changed, noise, led), (bytes) => throwAt(port, bytes)),
      { numRuns: 500 },
    );
    await stillServes(port);
    await server.close();
    expect(ends.length).toBe(501);
    expect(memory.closed).toBe(opens);
  });
});

const tools = ['nbdinfo', 'nbdcopy', 'qemu-img'];
const missing = tools.filter((tool) => !hasTool(tool));

describe.skipIf(missing.length > 0)(
  `standard tools (needs ${tools.join(', ')}; missing: ${missing.join(', ') || 'none'})`,
  () => {
    it('nbdinfo sees size, contexts and the map', async () => {
      const uri = `nbd://127.0.0.1:${await listen()}/vol`;
      const info = JSON.parse((await run('nbdinfo', ['--json', uri])).stdout);
      expect(info.exports[0]).toMatchObject({
        'export-size': memory.sizeBytes,
        contexts: memory.contexts,
        is_read_only: true,
        can_multi_conn: true,
        block_size_maximum: 1_048_576,
      });
      const map = JSON.parse((await run('nbdinfo', ['--map', '--json', uri])).stdout);
      const kib = (extents: { offset: number; length: number; type: number }[]) =>
        extents.map((extent) => [extent.offset / 1024, extent.length / 1024, extent.type]);
      expect(kib(map)).toEqual([[0, 256, 0], [256, 256, 3], [512, 300, 0], [812, 212, 3], [1024, 0.5, 0]]); // biome-ignore format: a table
      const changed = JSON.parse((await run('nbdinfo', ['--map=ferry:changed:first', '--json', uri])).stdout);
      expect(changed.map((extent: { type: number }) => extent.type)).toEqual([1, 0, 1, 0, 1]);
      await run('nbdinfo', ['--list', '--json', `nbd://127.0.0.1:${await listen()}`]);
    });

    it('nbdcopy and qemu-img find the same bytes', async () => {
      using directory = temporaryDirectory();
      const uri = `nbd://127.0.0.1:${await listen()}/vol`;
      const copy = join(directory.path, 'copy');
      await run('nbdcopy', ['--flush', uri, copy]);
      expect(readFileSync(copy).equals(memory.bytes)).toBe(true);
      await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', uri, copy]);
      await run('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', uri, copy]);
      expect(readFileSync(copy).equals(memory.bytes)).toBe(true);
      memory.bytes[300] = memory.bytes[300]! ^ 1;
      await expect(run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', uri, copy])).rejects.toMatchObject({
        code: 1,
      });
      await expect(run('nbdinfo', [uri.replace('vol', 'other')])).rejects.toThrow('other');
    });

    it.skipIf(!hasTool('openssl'))(
      'all three come in through STARTTLS with a certificate, and not without (needs openssl)',
      async () => {
        using directory = temporaryDirectory();
        const pki = makePki(directory.path);
        const tls = { mode: 'starttls', ...pki.server, ca: pki.ca } as const;
        const { port } = await server.listen({ host: '127.0.0.1', port: 0, tls });
        const uri = `nbds://localhost:${port}/vol?tls-certificates=${directory.path}`;
        const copy = join(directory.path, 'copy');
        await run('nbdinfo', ['--map', uri]);
        await run('nbdcopy', [uri, copy]);
        expect(readFileSync(copy).equals(memory.bytes)).toBe(true);
        const secret = `tls-creds-x509,id=tls0,endpoint=client,dir=${directory.path}`;
        const image = `driver=nbd,host=localhost,port=${port},export=vol,tls-creds=tls0`;
        await run('qemu-img', [
          'compare',
          '--object',
          secret,
          '--image-opts',
          image,
          `driver=raw,file.filename=${copy}`,
        ]);
        expect(ends.every((end) => end.peer.tls?.fingerprint256)).toBe(true);
        await expect(run('nbdinfo', [`nbd://localhost:${port}/vol`])).rejects.toThrow();
      },
    );

    it.skipIf(!hasTool('qemu-nbd'))(
      'our client reads from qemu-nbd, hole chunks included (needs qemu-nbd)',
      async () => {
        using directory = temporaryDirectory();
        const image = join(directory.path, 'image');
        const whole = memory.bytes.subarray(0, 1024 * 1024);
        writeFileSync(image, whole);
        execFileSync('fallocate', ['--dig-holes', image]);
        const socketPort = await freePort();
        const args = [
          '-r',
          '-f',
          'raw',
          '-b',
          '127.0.0.1',
          '-p',
          String(socketPort),
          '-x',
          'vol',
          '--fork',
          '--pid-file',
        ];
        const pidFile = join(directory.path, 'pid');
        const child = spawn('qemu-nbd', [...args, pidFile, image], { stdio: 'ignore' });
        await new Promise((resolve) => child.once('exit', resolve));
        using _daemon = { [Symbol.dispose]: () => process.kill(Number(readFileSync(pidFile, 'utf8'))) };
        const contexts = [BASE_ALLOCATION];
        const at = {
          host: '127.0.0.1',
          port: socketPort,
          exportName: 'vol',
          mode: 'plain',
          timeoutMs: 10_000,
          contexts,
        } as const;
        const client = await NbdClient.connect(at);
        const copy = Buffer.alloc(whole.length, 0xee);
        await Promise.all([
          client.read(copy, 0, 600_000),
          client.read(copy.subarray(600_000), 600_000, copy.length - 600_000),
        ]);
        expect(copy.equals(whole)).toBe(true);
        const extents = await client.blockStatus(BASE_ALLOCATION, 0, whole.length);
        expect(extents.some((extent) => extent.flags === 3)).toBe(true);
        await client.close();
      },
    );
  },
);

async function freePort(): Promise<number> {
  const other = new NbdServer({ directory: directoryOf({}) });
  const { port } = await other.listen({ host: '127.0.0.1', port: 0 });
  await other.close();
  return port;
}
