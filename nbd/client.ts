import { greet, type Negotiated, negotiate, startTls } from './client-handshake.ts';
import { type ClientTls, dial, dialForStartTls, established, upgrade, type Wire } from './dial.ts';
import { NbdError } from './error.ts';
import type { Extent } from './export.ts';
import * as nbd from './protocol.ts';
import { type Pending, ReplyParser } from './reply-parser.ts';
import { HandshakeSink } from './sink.ts';

export type { ClientTls } from './dial.ts';

export interface NbdConnectOptions {
  readonly host: string;
  readonly port: number;
  readonly exportName: string;
  /** `tls`: TLS from the first byte. `starttls`: TLS asked for in the negotiation; never goes on without. */
  readonly mode: 'plain' | 'tls' | 'starttls';
  /** Needed unless the mode is `plain`. */
  readonly tls?: ClientTls;
  /** Block status contexts to ask for; `client.contexts` has the ones granted. */
  readonly contexts?: readonly string[];
  /** Bound of the connecting, and of the time without any finished reply while requests wait. */
  readonly timeoutMs: number;
  /** Ends the connection whenever it aborts, not only while connecting. */
  readonly signal?: AbortSignal;
}

/** Requests that may wait at a time. */
const REQUESTS_MAX = 1_024;
const STAGING_BYTES = 65_536;

interface Slot {
  generation: number;
  pending: (Pending & { resolve: () => void; reject: (error: NbdError) => void }) | null;
  /** Belongs to the slot, not the request: a slot is free only after its reply, so the header has long left. */
  readonly header: Buffer;
}

/**
 * One connection to one export, many requests at a time. Whatever ends the connection rejects every request that waits;
 * a rejected read may have filled a part of its target, and nothing writes there afterwards.
 */
export class NbdClient {
  readonly sizeBytes: number;
  /** Contexts that the server granted. */
  readonly contexts: ReadonlySet<string>;
  /** Longest read that the server takes, in bytes. */
  readonly requestBytesMax: number;
  readonly #wire: Wire;
  readonly #contextIds: ReadonlyMap<string, number>;
  readonly #timeoutMs: number;
  readonly #slots: Slot[] = [];
  readonly #freeSlots: number[] = [];
  #waiting = 0;
  #progressAtMs = 0;
  #timer: NodeJS.Timeout | null = null;
  #failure: NbdError | null = null;
  #bytesReceived = 0;

  private constructor(wire: Wire, negotiated: Negotiated, staging: Buffer, timeoutMs: number) {
    this.#wire = wire;
    this.sizeBytes = negotiated.sizeBytes;
    this.requestBytesMax = negotiated.requestBytesMax;
    this.#contextIds = negotiated.contexts;
    this.contexts = new Set(negotiated.contexts.keys());
    this.#timeoutMs = timeoutMs;
    wire.into.sink = new ReplyParser(
      {
        find: (cookie, generation) => {
          const slot = this.#slots[cookie];
          return slot?.generation === generation ? (slot.pending ?? undefined) : undefined;
        },
        done: (cookie) => this.#done(cookie),
      },
      staging,
    );
  }

  /**
   * Connects and negotiates. Rejects with an `NbdError`: `unknown_export`, `refused`, `tls_required`, `tls`,
   * `unsupported`, `protocol`, `disconnected`, `timeout` or `aborted`.
   */
  static async connect(options: NbdConnectOptions): Promise<NbdClient> {
    const { signal, mode } = options;
    if (signal?.aborted) throw new NbdError('aborted', 'aborted before connecting', { cause: signal.reason });
    const tls = mode === 'plain' ? null : options.tls;
    if (tls === undefined) throw new NbdError('tls', `mode ${mode} needs the tls option`);
    const staging = Buffer.allocUnsafeSlow(STAGING_BYTES);
    const sink = new HandshakeSink(staging);
    let client: NbdClient | null = null;
    const fail = (error: unknown): void => {
      const failure = toNbdError(error);
      sink.fail(failure);
      if (client) client.#fail(failure);
      wire.socket.destroy();
    };
    const wire = mode === 'starttls' ? dialForStartTls(options, sink, fail) : dial({ ...options, tls }, sink, fail);
    const watch = (): void => {
      wire.socket.on('error', fail);
      wire.socket.on('end', () => fail(new NbdError('disconnected', 'the server ended the connection')));
      wire.socket.on('close', () => fail(new NbdError('disconnected', 'the connection is closed')));
    };
    watch();
    const onAbort = (): void => fail(new NbdError('aborted', 'aborted', { cause: signal?.reason }));
    signal?.addEventListener('abort', onAbort);
    wire.socket.on('close', () => signal?.removeEventListener('abort', onAbort));
    const late = (): void => fail(new NbdError('timeout', `no connection within ${options.timeoutMs} ms`));
    const timer = setTimeout(late, options.timeoutMs);
    try {
      // The sink rejects when the connection ends; the socket's own events would leave us waiting.
      const ended = sink.failed();
      await Promise.race([established(wire.socket, mode === 'tls' ? tls : null), ended]);
      await greet(wire.socket, sink);
      if (mode === 'starttls' && tls) {
        await startTls(wire.socket, sink);
        if (sink.queuedBytes > 0) throw new NbdError('protocol', 'bytes in the clear behind STARTTLS');
        upgrade(wire, options.host, tls, fail);
        watch();
        await Promise.race([established(wire.socket, tls), ended]);
      }
      const negotiated = await negotiate(wire.socket, sink, {
        exportName: options.exportName,
        contexts: options.contexts ?? [],
      });
      client = new NbdClient(wire, negotiated, staging, options.timeoutMs);
      if (sink.failure) client.#fail(sink.failure);
      return client;
    } catch (error) {
      fail(error);
      throw sink.failure ?? toNbdError(error);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Bytes of volume data received. */
  get bytesReceived(): number {
    return this.#bytesReceived;
  }

  /**
   * Reads `length` bytes at `offset` into the start of `target`. The target belongs to the client until the promise
   * settles. An aborted read ends the whole connection: its data may be half way into the target.
   */
  read(target: Uint8Array, offset: number, length: number, signal?: AbortSignal): Promise<void> {
    if (length > target.length || length > this.requestBytesMax || length < 1 || offset + length > this.sizeBytes) {
      const message = `read of ${length} bytes at ${offset}: at most ${this.requestBytesMax}, and within ${this.sizeBytes}`;
      return Promise.reject(new NbdError('invalid', message));
    }
    return this.#request({ command: nbd.CMD_READ, offset, length, target, contextId: 0 }, signal).then(() => {
      this.#bytesReceived += length;
    });
  }

  /**
   * Extents of a context from `offset` on, in order and without gaps; may cover less than `length` (ask again behind the
   * last) and never more.
   */
  async blockStatus(context: string, offset: number, length: number, signal?: AbortSignal): Promise<Extent[]> {
    const contextId = this.#contextIds.get(context);
    if (contextId === undefined) throw new NbdError('unsupported', `the server does not offer the context ${context}`);
    const capped = Math.min(length, 0xffff_0000);
    const extents = await this.#request(
      { command: nbd.CMD_BLOCK_STATUS, offset, length: capped, target: null, contextId },
      signal,
    );
    if (extents.length === 0) throw new NbdError('protocol', 'a block status reply without extents');
    const last = extents.at(-1)!;
    const beyond = last.offset + last.length - (offset + length);
    return beyond > 0 ? [...extents.slice(0, -1), { ...last, length: last.length - beyond }] : extents;
  }

  /** Says goodbye and closes; requests that still wait reject with `closed`. Harmless when closed already. */
  async close(): Promise<void> {
    const { socket } = this.#wire;
    const clean = this.#failure === null;
    this.#fail(new NbdError('closed', 'the connection was closed here'));
    if (socket.destroyed) return;
    const closed = new Promise((resolve) => socket.once('close', resolve));
    if (clean && this.#waiting === 0) {
      const goodbye = Buffer.alloc(nbd.REQUEST_BYTES);
      const request = { flags: 0, command: nbd.CMD_DISC, cookie: 0, generation: 0, offset: 0, length: 0 };
      nbd.encodeRequest(goodbye, request);
      socket.end(goodbye, () => socket.destroy());
      setTimeout(() => socket.destroy(), this.#timeoutMs).unref();
    } else {
      socket.destroy();
    }
    await closed;
  }

  #request(
    request: Pick<Pending, 'command' | 'offset' | 'length' | 'target' | 'contextId'>,
    signal?: AbortSignal,
  ): Promise<Extent[]> {
    if (this.#failure) return Promise.reject(this.#failure);
    if (signal?.aborted) return Promise.reject(new NbdError('aborted', 'aborted before the request'));
    const cookie = this.#freeSlots.pop() ?? this.#newSlot();
    if (cookie >= REQUESTS_MAX) {
      return Promise.reject(new NbdError('too_big', `over ${REQUESTS_MAX} requests at a time`));
    }
    const slot = this.#slots[cookie]!;
    return new Promise((resolve, reject) => {
      const onAbort = (): void => this.#end(new NbdError('aborted', 'aborted', { cause: signal?.reason }));
      signal?.addEventListener('abort', onAbort);
      const pending = {
        ...request,
        extents: [],
        bytesReceived: 0,
        error: null,
        resolve: () => {
          signal?.removeEventListener('abort', onAbort);
          resolve(pending.extents);
        },
        reject: (error: NbdError) => {
          signal?.removeEventListener('abort', onAbort);
          reject(error);
        },
      };
      slot.pending = pending;
      if (this.#waiting === 0) this.#progressAtMs = performance.now();
      this.#waiting += 1;
      nbd.encodeRequest(slot.header, { ...request, flags: 0, cookie, generation: slot.generation });
      this.#wire.socket.write(slot.header);
      this.#timer ??= setTimeout(() => this.#checkProgress(), this.#timeoutMs);
    });
  }

  #newSlot(): number {
    if (this.#slots.length >= REQUESTS_MAX) return REQUESTS_MAX;
    this.#slots.push({ generation: 1, pending: null, header: Buffer.alloc(nbd.REQUEST_BYTES) });
    return this.#slots.length - 1;
  }

  #done(cookie: number): void {
    const slot = this.#slots[cookie];
    if (!slot?.pending) return;
    const { pending } = slot;
    slot.pending = null;
    slot.generation = (slot.generation + 1) >>> 0;
    this.#freeSlots.push(cookie);
    this.#waiting -= 1;
    this.#progressAtMs = performance.now();
    if (pending.error) pending.reject(pending.error);
    else pending.resolve();
  }

  /** A finished reply starts the clock anew: a slow link with many requests under way is no broken one. */
  #checkProgress(): void {
    this.#timer = null;
    if (this.#waiting === 0) return;
    const leftMs = this.#progressAtMs + this.#timeoutMs - performance.now();
    if (leftMs > 0) this.#timer = setTimeout(() => this.#checkProgress(), leftMs);
    else this.#end(new NbdError('timeout', `no reply within ${this.#timeoutMs} ms`));
  }

  #end(error: NbdError): void {
    this.#fail(error);
    this.#wire.socket.destroy();
  }

  #fail(error: NbdError): void {
    this.#failure ??= error;
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    for (const slot of this.#slots) {
      const { pending } = slot;
      slot.pending = null;
      pending?.reject(this.#failure);
    }
  }
}

function toNbdError(error: unknown): NbdError {
  if (error instanceof NbdError) return error;
  const cause = error instanceof Error ? error : new Error(String(error));
  const code = 'code' in cause ? String(cause.code) : '';
  const reason = /^(ERR_SSL|ERR_TLS|CERT_|SELF_SIGNED|DEPTH_ZERO|UNABLE_TO|EPROTO)/.test(code) ? 'tls' : 'disconnected';
  return new NbdError(reason, cause.message, { cause });
}
