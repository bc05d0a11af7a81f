import { NbdError } from './error.ts';
import type { Export, Extent } from './export.ts';
import type { Context, Session } from './handshake.ts';
import type { NbdLimits } from './limits.ts';
import type { BufferPool } from './pool.ts';
import * as nbd from './protocol.ts';

/**
 * Answers the requests of one negotiated connection, several at a time, each reply in one write from a reused buffer.
 * A request beyond the bound of requests or buffers stays in the socket until another has left.
 */
export class Transmission {
  readonly #session: Session;
  readonly #limits: NbdLimits;
  readonly #pool: BufferPool;
  #underWay = 0;
  #wake: (() => void) | null = null;
  #bytesSent = 0;

  constructor(session: Session, limits: NbdLimits, pool: BufferPool) {
    this.#session = session;
    this.#limits = limits;
    this.#pool = pool;
  }

  /** Bytes of volume data sent to this client. */
  get bytesSent(): number {
    return this.#bytesSent;
  }

  /** Serves until the client says goodbye; rejects with an `NbdError` when the connection is to be ended. Closes the export. */
  async run(): Promise<void> {
    try {
      for (;;) {
        while (this.#underWay >= this.#limits.requestsMax) await this.#settled();
        const request = nbd.decodeRequest(await this.#session.link.reader.read(nbd.REQUEST_BYTES));
        if (request.command === nbd.CMD_DISC) break;
        if (request.command === nbd.CMD_WRITE) await this.#session.link.reader.skip(request.length);
        this.#start(request);
      }
    } finally {
      // A file must not be closed under a read: its number could be another file's by then.
      while (this.#underWay > 0) await this.#settled();
      await this.#session.export.close();
    }
  }

  #start(request: nbd.Request): void {
    this.#underWay += 1;
    this.#answer(request)
      .catch((error: Error) => this.#session.link.socket.destroy(error))
      .finally(() => {
        this.#underWay -= 1;
        this.#wake?.();
        this.#wake = null;
      });
  }

  #settled(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  #answer(request: nbd.Request): Promise<void> {
    switch (request.command) {
      case nbd.CMD_READ:
        return this.#read(request);
      case nbd.CMD_BLOCK_STATUS:
        return this.#blockStatus(request);
      case nbd.CMD_WRITE:
      case nbd.CMD_FLUSH:
      case nbd.CMD_TRIM:
      case nbd.CMD_CACHE:
      case nbd.CMD_WRITE_ZEROES:
        return this.#refuse(request, nbd.EPERM, 'the export is read-only: READ and BLOCK_STATUS are served');
      default:
        return this.#refuse(request, nbd.EINVAL, `command ${request.command} is not known here`);
    }
  }

  async #read(request: nbd.Request): Promise<void> {
    const { length } = request;
    if (length > this.#limits.requestBytesMax) {
      return this.#refuse(request, nbd.EINVAL, `reads are at most ${this.#limits.requestBytesMax} bytes here`);
    }
    if (!this.#inRange(request)) return this.#refuseRange(request);
    const buffer = await this.#pool.take();
    try {
      const prefix = this.#session.structured ? nbd.DATA_PREFIX_BYTES : nbd.SIMPLE_REPLY_BYTES;
      const offset = Number(request.offset);
      try {
        await this.#session.export.readInto(buffer.subarray(prefix, prefix + length), offset, length);
      } catch (error) {
        return await this.#refuse(request, errnoOf(error), error instanceof Error ? error.message : 'read failed');
      }
      const { handle } = request;
      if (this.#session.structured) {
        const flags = nbd.REPLY_FLAG_DONE;
        nbd.encodeChunkHeader(buffer, { flags, type: nbd.REPLY_OFFSET_DATA, handle, length: length + 8 });
        nbd.writeUint64(buffer, offset, nbd.STRUCTURED_REPLY_BYTES);
      } else {
        nbd.encodeSimpleReply(buffer, 0, handle);
      }
      await this.#write(buffer.subarray(0, prefix + length));
      this.#bytesSent += length;
    } finally {
      this.#pool.give(buffer);
    }
  }

  async #blockStatus(request: nbd.Request): Promise<void> {
    const { contexts, export: source } = this.#session;
    if (contexts.length === 0) return this.#refuse(request, nbd.EINVAL, 'no context was set in the negotiation');
    if (!this.#inRange(request)) return this.#refuseRange(request);
    const chunks: Buffer[] = [];
    for (const [index, context] of contexts.entries()) {
      let extents: Extent[];
      try {
        extents = await this.#extents(source, context, request);
      } catch (error) {
        return this.#refuse(request, errnoOf(error), error instanceof Error ? error.message : 'block status failed');
      }
      const flags = index === contexts.length - 1 ? nbd.REPLY_FLAG_DONE : 0;
      chunks.push(encodeExtents(request.handle, flags, context.id, extents));
    }
    await this.#write(Buffer.concat(chunks));
  }

  async #extents(source: Export, context: Context, request: nbd.Request): Promise<Extent[]> {
    const offset = Number(request.offset);
    const one = (request.flags & nbd.CMD_FLAG_REQ_ONE) !== 0;
    const extents = await source.blockStatus(context.name, offset, request.length);
    const end = offset + request.length;
    return extents
      .slice(0, one ? 1 : this.#limits.extentsMax)
      .filter((extent) => extent.offset < end)
      .map((extent) => ({ ...extent, length: Math.min(extent.length, end - extent.offset) }));
  }

  #inRange(request: nbd.Request): boolean {
    return request.length > 0 && request.offset + BigInt(request.length) <= BigInt(this.#session.export.sizeBytes);
  }

  #refuseRange(request: nbd.Request): Promise<void> {
    const { sizeBytes } = this.#session.export;
    return this.#refuse(
      request,
      nbd.EINVAL,
      `${request.length} bytes at ${request.offset}: the export has ${sizeBytes}`,
    );
  }

  async #refuse(request: nbd.Request, errno: number, message: string): Promise<void> {
    const { handle } = request;
    if (!this.#session.structured) {
      const reply = Buffer.alloc(nbd.SIMPLE_REPLY_BYTES);
      nbd.encodeSimpleReply(reply, errno, handle);
      return this.#write(reply);
    }
    const text = Buffer.from(message).subarray(0, 1024);
    const reply = Buffer.alloc(nbd.STRUCTURED_REPLY_BYTES + 6 + text.length);
    const flags = nbd.REPLY_FLAG_DONE;
    nbd.encodeChunkHeader(reply, { flags, type: nbd.REPLY_ERROR, handle, length: 6 + text.length });
    reply.writeUInt32BE(errno, nbd.STRUCTURED_REPLY_BYTES);
    reply.writeUInt16BE(text.length, nbd.STRUCTURED_REPLY_BYTES + 4);
    text.copy(reply, nbd.STRUCTURED_REPLY_BYTES + 6);
    return this.#write(reply);
  }

  /** Resolves when the bytes have left for the kernel, so that their buffer is free again. */
  #write(bytes: Buffer): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#session.link.socket.write(bytes, (error) => (error ? reject(error) : resolve()));
    });
  }
}

/** An export that is taken away is no fault of its disk: the client may ask for another one. */
function errnoOf(error: unknown): number {
  return error instanceof NbdError && error.reason === 'shutdown' ? nbd.ESHUTDOWN : nbd.EIO;
}

function encodeExtents(handle: Buffer, flags: number, contextId: number, extents: readonly Extent[]): Buffer {
  const body = 4 + extents.length * 8;
  const bytes = Buffer.alloc(nbd.STRUCTURED_REPLY_BYTES + body);
  nbd.encodeChunkHeader(bytes, { flags, type: nbd.REPLY_BLOCK_STATUS, handle, length: body });
  bytes.writeUInt32BE(contextId, nbd.STRUCTURED_REPLY_BYTES);
  let at = nbd.STRUCTURED_REPLY_BYTES + 4;
  for (const extent of extents) {
    bytes.writeUInt32BE(extent.length, at);
    bytes.writeUInt32BE(extent.flags, at + 4);
    at += 8;
  }
  return bytes;
}
