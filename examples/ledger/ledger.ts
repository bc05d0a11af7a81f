// An HTTP ledger: a real program for a Machine. Longer than usual: all of it is one file and needs Node alone, so that it
// also runs where nothing of Ferry is installed. Each entry is one block of 4 KiB on the volume, holds the hash of the
// entry before it, and is on the disk (fdatasync) before its append is answered. It works on a mounted directory and on
// the raw image itself.
//
//   POST /append {"key", "payload"}  -> entry; a known key answers its entry again
//   GET /entries?from=N              -> up to 1000 entries, oldest first
//   GET /head                        -> {"count", "hash"}
//   GET /health                      -> 200
import { hash, randomBytes } from 'node:crypto';
import { closeSync, constants, fdatasync, fstatSync, fsyncSync, openSync, readSync, writeSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';

const sync = promisify(fdatasync);

/** Bytes of a block: one entry. */
export const blockBytes = 4096;
const hashOffset = 48;
const headerBytes = 80;
const keyBytesMax = 128;
/** Largest payload in bytes. */
export const payloadBytesMax = blockBytes - headerBytes - keyBytesMax;
const magic = 0x4645_5231;
const bodyBytesMax = 64 * 1024;
const pageEntriesMax = 1000;
const batchEntriesMax = 256;
/** Empty blocks that must follow the last entry: an entry after a gap means that entries were lost. */
const gapBlocks = 1024;
const noHash = '0'.repeat(64);

/** One entry. */
export interface Entry {
  readonly index: number;
  /** Unique, chosen by the client, so that repeating an append is harmless. */
  readonly key: string;
  readonly payload: string;
  /** Hash of the entry before, 64 zeros for the first. */
  readonly previous: string;
  /** SHA-256 over the block with zeros in this field. */
  readonly hash: string;
}

/** The block of an entry: magic, lengths, index, previous hash, hash, key, payload, zeros. Computes the hash. */
export function encodeBlock(index: number, key: string, payload: string, previous: string): Buffer {
  const block = Buffer.alloc(blockBytes);
  const keyBytes = block.write(key, headerBytes);
  const payloadBytes = block.write(payload, headerBytes + keyBytes);
  block.writeUInt32BE(magic, 0);
  block.writeUInt16BE(keyBytes, 4);
  block.writeUInt16BE(payloadBytes, 6);
  block.writeBigUInt64BE(BigInt(index), 8);
  block.write(previous, 16, 'hex');
  block.write(hash('sha256', block), hashOffset, 'hex');
  return block;
}

/** The hash that an entry must have. */
export function hashOf({ index, key, payload, previous }: Omit<Entry, 'hash'>): string {
  return encodeBlock(index, key, payload, previous).toString('hex', hashOffset, headerBytes);
}

/** The entry in a block. Throws when the block is damaged or not entry `index` after `previous`. */
export function decodeBlock(block: Buffer, index: number, previous: string): Entry {
  const broken = (what: string) => new Error(`entry ${index} is broken: ${what}`);
  if (block.readUInt32BE(0) !== magic) throw broken('no entry where one must be');
  const keyEnd = headerBytes + block.readUInt16BE(4);
  const end = keyEnd + block.readUInt16BE(6);
  if (end > blockBytes) throw broken('its lengths are wrong');
  const found = block.toString('hex', hashOffset, headerBytes);
  // The hash is over the whole block with zeros in its own place.
  block.fill(0, hashOffset, headerBytes);
  const right = hash('sha256', block);
  block.write(found, hashOffset, 'hex');
  if (right !== found) throw broken('its checksum is wrong');
  if (block.readBigUInt64BE(8) !== BigInt(index)) throw broken(`it calls itself ${block.readBigUInt64BE(8)}`);
  if (block.toString('hex', 16, hashOffset) !== previous) throw broken('it does not follow the entry before');
  const key = block.toString('utf8', headerBytes, keyEnd);
  return { index, key, payload: block.toString('utf8', keyEnd, end), previous, hash: found };
}

interface Waiting {
  readonly key: string;
  readonly payload: string;
  readonly resolve: (entry: Entry) => void;
  readonly reject: (error: unknown) => void;
}

/** The entries on a volume. */
export class Ledger {
  readonly #file: number;
  readonly #blocksMax: number;
  readonly #indexOfKey = new Map<string, number>();
  #count = 0;
  #hash = noHash;
  #waiting: Waiting[] = [];
  #writing = false;
  #failed: unknown;

  /** Opens `path` (created unless `raw`) and checks every entry. Throws when the chain is broken. */
  constructor(path: string, raw: boolean) {
    this.#file = openSync(path, constants.O_RDWR | (raw ? 0 : constants.O_CREAT), 0o600);
    if (!raw) syncDirectory(dirname(path));
    this.#blocksMax = raw ? Math.floor(sizeOf(this.#file) / blockBytes) : Number.MAX_SAFE_INTEGER;
    this.#load();
  }

  get head(): { count: number; hash: string } {
    return { count: this.#count, hash: this.#hash };
  }

  #load(): void {
    const chunk = Buffer.alloc(256 * blockBytes);
    let emptyBlocks = 0;
    for (let at = 0; emptyBlocks < gapBlocks; ) {
      const bytes = readSync(this.#file, chunk, 0, chunk.length, at * blockBytes);
      for (let offset = 0; offset + blockBytes <= bytes; offset += blockBytes, at += 1) {
        const block = chunk.subarray(offset, offset + blockBytes);
        if (block.readUInt32BE(0) === 0 && block.every((byte) => byte === 0)) emptyBlocks += 1;
        else this.#take(decodeBlock(block, at, this.#hash));
      }
      if (bytes % blockBytes !== 0) throw new Error(`entry ${at} is broken: it is cut off`);
      if (bytes < chunk.length) break;
    }
  }

  #take(entry: Entry): void {
    if (entry.index !== this.#count) throw new Error(`entries ${this.#count} to ${entry.index - 1} are missing`);
    if (this.#indexOfKey.has(entry.key)) throw new Error(`entry ${entry.index} repeats the key ${entry.key}`);
    this.#indexOfKey.set(entry.key, entry.index);
    this.#hash = entry.hash;
    this.#count += 1;
  }

  /** Appends; resolves once the entry is on the disk. Those that come while the disk is at work share its next sync. */
  append(key: string, payload: string): Promise<Entry> {
    const known = this.#known(key);
    if (known !== undefined) return Promise.resolve(known);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ key, payload, resolve, reject });
      if (!this.#writing) void this.#write();
    });
  }

  #known(key: string): Entry | undefined {
    const index = this.#indexOfKey.get(key);
    return index === undefined ? undefined : this.read(index, 1)[0];
  }

  async #write(): Promise<void> {
    this.#writing = true;
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, batchEntriesMax);
      try {
        // After a failed sync nobody knows what is on the disk: only a restart, which reads it again, may go on.
        if (this.#failed !== undefined) throw this.#failed;
        const written = new Map<string, Entry>();
        let { count, hash: previous } = this.head;
        for (const { key, payload } of batch) {
          if (written.has(key) || this.#indexOfKey.has(key)) continue;
          if (count >= this.#blocksMax) throw new Error(`the volume is full with ${count} entries`);
          const block = encodeBlock(count, key, payload, previous);
          writeSync(this.#file, block, 0, blockBytes, count * blockBytes);
          const entry = decodeBlock(block, count, previous);
          written.set(key, entry);
          previous = entry.hash;
          count += 1;
        }
        await sync(this.#file);
        for (const entry of written.values()) this.#take(entry);
        for (const { key, resolve } of batch) resolve(written.get(key) ?? this.#known(key)!);
      } catch (error) {
        this.#failed = error;
        for (const { reject } of batch) reject(error);
      }
    }
    this.#writing = false;
  }

  /** Fills an empty ledger with entries of random bytes until it has so many MiB, so that there is something to move. */
  fill(mebibytes: number): void {
    if (this.#count > 0) return;
    for (let left = Math.min((mebibytes * 2 ** 20) / blockBytes, this.#blocksMax / 2); left >= 1; ) {
      const blocks: Buffer[] = [];
      const first = this.#count;
      for (; left >= 1 && blocks.length < 1024; left -= 1) {
        const payload = randomBytes((payloadBytesMax / 4) * 3 - 3).toString('base64');
        const block = encodeBlock(this.#count, `fill-${this.#count}`, payload, this.#hash);
        this.#take(decodeBlock(block, this.#count, this.#hash));
        blocks.push(block);
      }
      writeSync(this.#file, Buffer.concat(blocks), 0, blocks.length * blockBytes, first * blockBytes);
    }
    fsyncSync(this.#file);
  }

  /** Up to `limit` entries from `from` on, read from the disk and checked. */
  read(from: number, limit: number): Entry[] {
    const entries: Entry[] = [];
    const blocks = Buffer.alloc(Math.max(0, Math.min(limit, this.#count - from)) * blockBytes);
    readSync(this.#file, blocks, 0, blocks.length, from * blockBytes);
    for (let at = 0; at < blocks.length; at += blockBytes) {
      const block = blocks.subarray(at, at + blockBytes);
      entries.push(decodeBlock(block, from + entries.length, block.toString('hex', 16, hashOffset)));
    }
    return entries;
  }

  /** Closes the file; what was answered is on the disk already. */
  close(): void {
    closeSync(this.#file);
  }
}

/** Makes a new name in a directory durable. */
function syncDirectory(path: string): void {
  const directory = openSync(path, 'r');
  fsyncSync(directory);
  closeSync(directory);
}

/** Size of a file or block device in bytes: reading finds the end of both. */
function sizeOf(file: number): number {
  const { size } = fstatSync(file);
  if (size > 0) return size;
  const byte = Buffer.alloc(1);
  let low = 0;
  for (let step = 2 ** 45; step >= 1; step /= 2) if (readSync(file, byte, 0, 1, low + step - 1) === 1) low += step;
  return low;
}

async function answer(ledger: Ledger, request: IncomingMessage): Promise<[number, unknown]> {
  const url = new URL(request.url ?? '/', 'http://ledger');
  switch (`${request.method} ${url.pathname}`) {
    case 'GET /health':
      return [200, { status: 'ok' }];
    case 'GET /head':
      return [200, ledger.head];
    case 'GET /entries': {
      const from = Number(url.searchParams.get('from') ?? 0);
      if (!Number.isSafeInteger(from) || from < 0) return [400, { error: 'from: expected a whole number from 0' }];
      return [200, { entries: ledger.read(from, pageEntriesMax) }];
    }
    case 'POST /append': {
      const { key, payload } = JSON.parse(await bodyOf(request)) as Record<string, unknown>;
      if (typeof key !== 'string' || key === '' || Buffer.byteLength(key) > keyBytesMax) {
        return [400, { error: `key: expected a text of 1 to ${keyBytesMax} bytes` }];
      }
      if (typeof payload !== 'string' || Buffer.byteLength(payload) > payloadBytesMax) {
        return [400, { error: `payload: expected a text of at most ${payloadBytesMax} bytes` }];
      }
      return [200, await ledger.append(key, payload)];
    }
    default:
      return [404, { error: 'expected POST /append, GET /entries, GET /head or GET /health' }];
  }
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > bodyBytesMax) throw new SyntaxError(`the body is longer than ${bodyBytesMax} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** A server of the ledger. */
export function serve(ledger: Ledger): Server {
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    answer(ledger, request)
      .catch((error: Error): [number, unknown] => [error instanceof SyntaxError ? 400 : 500, { error: error.message }])
      .then(([status, body]) => {
        // While the server closes, a connection kept alive would keep it open.
        const connection = server.listening ? 'keep-alive' : 'close';
        response.writeHead(status, { 'content-type': 'application/json', connection }).end(JSON.stringify(body));
      });
  });
  return server;
}

function main(env: NodeJS.ProcessEnv): void {
  const volume = env.FERRY_VOLUME_PATH;
  if (volume === undefined) throw new Error('FERRY_VOLUME_PATH is not set: expected a directory or a raw image');
  const raw = env.FERRY_VOLUME_KIND === 'raw';
  const ledger = new Ledger(raw ? volume : join(volume, 'ledger'), raw);
  ledger.fill(Number(env.LEDGER_FILL_MIB ?? 0));
  const server = serve(ledger);
  const host = env.FERRY_BIND_IP ?? '127.0.0.1';
  server.listen(Number(env.PORT ?? 8080), host, () => {
    console.log(
      `ledger: ${ledger.head.count} entries, all checked; ${raw ? 'raw image' : 'directory'}; serving on ${host}`,
    );
  });
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      console.log(`ledger: ${signal}, ${ledger.head.count} entries`);
      server.close(() => {
        ledger.close();
        process.exit(0);
      });
      server.closeIdleConnections();
    });
  }
}

if (import.meta.main) {
  try {
    main(process.env);
  } catch (error) {
    console.error(`ledger: refuses to serve: ${(error as Error).message}`);
    process.exit(1);
  }
}
