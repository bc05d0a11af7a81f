import { NbdError } from './error.ts';
import type { Extent } from './export.ts';
import * as nbd from './protocol.ts';
import type { Sink } from './sink.ts';

/** Longest reply that is not volume data (extents, error texts), in bytes. */
const CONTROL_BYTES_MAX = 1_048_576;
/** Below this the data goes through the staging buffer: one system call fetches it with the next header. */
const DIRECT_BYTES_MIN = 4_096;

/** A request that waits for its reply. */
export interface Pending {
  readonly command: number;
  readonly offset: number;
  readonly length: number;
  /** Where read data goes; null for a block status request. */
  readonly target: Uint8Array | null;
  readonly contextId: number;
  readonly extents: Extent[];
  bytesReceived: number;
  error: NbdError | null;
}

export interface ReplyHandler {
  /** The request of this cookie, or undefined when none waits under it. */
  find(cookie: number, generation: number): Pending | undefined;
  /** Every byte of the reply has come. */
  done(cookie: number): void;
}

type State =
  | { readonly at: 'header' }
  | { readonly at: 'structured' }
  | { readonly at: 'offset' }
  | { readonly at: 'control' }
  | { readonly at: 'data'; readonly target: Uint8Array; position: number; left: number };

const HEADER: State = { at: 'header' };

/**
 * Takes the reply stream apart, whatever pieces it comes in. Read data goes straight into the request's target:
 * `nextBuffer` hands the target itself to the socket wherever enough of it is missing.
 */
export class ReplyParser implements Sink {
  readonly #handler: ReplyHandler;
  readonly #staging: Buffer;
  /** Header or control bytes that have come so far. */
  #partial = Buffer.allocUnsafeSlow(4_096);
  #partialBytes = 0;
  #needBytes = nbd.SIMPLE_REPLY_BYTES;
  #state: State = HEADER;
  #chunk = { flags: 0, type: 0, cookie: 0, length: 0 };
  #pending: Pending | null = null;

  constructor(handler: ReplyHandler, staging: Buffer) {
    this.#handler = handler;
    this.#staging = staging;
  }

  nextBuffer(): Uint8Array {
    const state = this.#state;
    if (state.at !== 'data' || state.left < DIRECT_BYTES_MIN) return this.#staging;
    return state.target.subarray(state.position, state.position + state.left);
  }

  filled(buffer: Uint8Array, length: number): void {
    if (buffer === this.#staging) this.push(this.#staging.subarray(0, length));
    else if (this.#state.at === 'data') this.#advance(this.#state, length);
  }

  push(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      if (this.#state.at === 'data') {
        const count = Math.min(this.#state.left, bytes.length - at);
        this.#state.target.set(bytes.subarray(at, at + count), this.#state.position);
        at += count;
        this.#advance(this.#state, count);
      } else {
        const count = Math.min(this.#needBytes - this.#partialBytes, bytes.length - at);
        bytes.copy(this.#partial, this.#partialBytes, at, at + count);
        at += count;
        this.#partialBytes += count;
        if (this.#partialBytes === this.#needBytes) this.#complete();
      }
    }
  }

  #advance(state: Extract<State, { at: 'data' }>, count: number): void {
    state.position += count;
    state.left -= count;
    if (state.left === 0) this.#endChunk();
  }

  /** The awaited header, offset or control bytes are there. */
  #complete(): void {
    const { at } = this.#state;
    if (at === 'header') this.#header();
    else if (at === 'structured') this.#structured();
    else if (at === 'offset') this.#data(nbd.readUint64(this.#partial, 0), this.#chunk.length - 8);
    else if (at === 'control') this.#control();
  }

  #header(): void {
    const magic = this.#partial.readUInt32BE(0);
    if (magic === nbd.STRUCTURED_REPLY_MAGIC) {
      this.#needBytes = nbd.STRUCTURED_REPLY_BYTES;
      this.#state = { at: 'structured' };
      return;
    }
    if (magic !== nbd.SIMPLE_REPLY_MAGIC) throw new NbdError('protocol', `reply magic is ${magic.toString(16)}`);
    const pending = this.#find();
    this.#chunk.flags = nbd.REPLY_FLAG_DONE;
    const errno = this.#partial.readUInt32BE(4);
    if (errno !== 0) pending.error = new NbdError(nbd.reasonForErrno(errno), `the server answered error ${errno}`);
    if (errno === 0 && pending.target) this.#data(pending.offset, pending.length);
    else this.#endChunk();
  }

  #structured(): void {
    const pending = this.#find();
    this.#chunk.flags = this.#partial.readUInt16BE(4);
    this.#chunk.type = this.#partial.readUInt16BE(6);
    const length = this.#partial.readUInt32BE(16);
    this.#chunk.length = length;
    if (this.#chunk.type === nbd.REPLY_OFFSET_DATA) {
      if (length <= 8 || !pending.target) throw new NbdError('protocol', 'data chunk without data or without a read');
      this.#await({ at: 'offset' }, 8);
    } else if (length > CONTROL_BYTES_MAX) {
      throw new NbdError('protocol', `reply chunk of ${length} bytes, at most ${CONTROL_BYTES_MAX} are taken`);
    } else if (length === 0) {
      this.#partialBytes = 0;
      this.#control();
    } else {
      this.#await({ at: 'control' }, length);
    }
  }

  #data(offset: number, length: number): void {
    const pending = this.#pending;
    if (!pending?.target) throw new NbdError('protocol', 'data for a request that reads nothing');
    const position = offset - pending.offset;
    if (position < 0 || position + length > pending.length || pending.bytesReceived + length > pending.length) {
      throw new NbdError('protocol', `data for ${length} bytes at ${offset} was never asked for`);
    }
    pending.bytesReceived += length;
    this.#state = { at: 'data', target: pending.target, position, left: length };
  }

  #control(): void {
    const pending = this.#pending;
    if (!pending) throw new NbdError('protocol', 'a reply chunk without its request');
    const body = this.#partial.subarray(0, this.#chunk.length);
    const { type } = this.#chunk;
    if (type === nbd.REPLY_OFFSET_HOLE && body.length === 12) {
      const offset = nbd.readUint64(body, 0);
      const length = body.readUInt32BE(8);
      this.#data(offset, length);
      const from = offset - pending.offset;
      pending.target?.fill(0, from, from + length);
    } else if (type === nbd.REPLY_BLOCK_STATUS && body.length >= 12 && body.length % 8 === 4) {
      if (body.readUInt32BE(0) === pending.contextId) readExtents(body, pending);
    } else if ((type & nbd.REPLY_ERROR_BIT) !== 0 && body.length >= 6) {
      const errno = body.readUInt32BE(0);
      const text = body.subarray(6, 6 + body.readUInt16BE(4)).toString('utf8');
      pending.error ??= new NbdError(nbd.reasonForErrno(errno), `the server answered error ${errno}: ${text}`);
    } else if (type !== nbd.REPLY_NONE || body.length > 0) {
      throw new NbdError('protocol', `reply chunk of type ${type} and ${body.length} bytes`);
    }
    this.#endChunk();
  }

  #endChunk(): void {
    this.#await(HEADER, nbd.SIMPLE_REPLY_BYTES);
    const pending = this.#pending;
    this.#pending = null;
    if (!pending || (this.#chunk.flags & nbd.REPLY_FLAG_DONE) === 0) return;
    if (!pending.error && pending.target && pending.bytesReceived !== pending.length) {
      throw new NbdError('protocol', `${pending.bytesReceived} of ${pending.length} bytes came, then the reply ended`);
    }
    this.#handler.done(this.#chunk.cookie);
  }

  #find(): Pending {
    const generation = this.#partial.readUInt32BE(8);
    const cookie = this.#partial.readUInt32BE(12);
    const pending = this.#handler.find(cookie, generation);
    if (!pending) throw new NbdError('protocol', 'a reply to no request');
    this.#chunk.cookie = cookie;
    this.#pending = pending;
    return pending;
  }

  #await(state: State, bytes: number): void {
    this.#state = state;
    this.#needBytes = bytes;
    this.#partialBytes = 0;
    if (bytes > this.#partial.length) this.#partial = Buffer.allocUnsafeSlow(bytes);
  }
}

function readExtents(body: Buffer, pending: Pending): void {
  let offset = pending.offset;
  for (let at = 4; at < body.length; at += 8) {
    const length = body.readUInt32BE(at);
    if (length === 0) throw new NbdError('protocol', 'an extent of no bytes');
    pending.extents.push({ offset, length, flags: body.readUInt32BE(at + 4) });
    offset += length;
  }
}
