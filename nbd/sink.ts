import { NbdError } from './error.ts';

/** Takes what a socket receives. Methods throw an `NbdError` of reason `protocol` when the bytes break the protocol. */
export interface Sink {
  /** Where the socket is to put the next bytes. */
  nextBuffer(): Uint8Array;
  /** `length` bytes are in a buffer that `nextBuffer` returned. */
  filled(buffer: Uint8Array, length: number): void;
  /** Bytes in a buffer of the socket's own. */
  push(bytes: Buffer): void;
}

/** Most bytes that may wait to be read during the negotiation. */
const QUEUED_BYTES_MAX = 1_048_576;

/** The sink of the negotiation: hands out exact numbers of bytes. */
export class HandshakeSink implements Sink {
  readonly #staging: Buffer;
  #queued: Buffer = Buffer.alloc(0);
  #waiting: { length: number; resolve: (bytes: Buffer) => void; reject: (error: NbdError) => void } | null = null;
  #failure: NbdError | null = null;
  readonly #failed = Promise.withResolvers<never>();

  constructor(staging: Buffer) {
    this.#staging = staging;
    this.#failed.promise.catch(() => {});
  }

  nextBuffer(): Uint8Array {
    return this.#staging;
  }

  filled(_buffer: Uint8Array, length: number): void {
    this.push(this.#staging.subarray(0, length));
  }

  push(bytes: Buffer): void {
    if (this.#queued.length + bytes.length > QUEUED_BYTES_MAX) {
      throw new NbdError('protocol', 'the server sent over 1 MiB before the negotiation was through');
    }
    this.#queued = Buffer.concat([this.#queued, bytes]);
    this.#serve();
  }

  /** Exactly `length` bytes. One read at a time. */
  read(length: number): Promise<Buffer> {
    if (this.#failure) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      this.#waiting = { length, resolve, reject };
      this.#serve();
    });
  }

  /** Rejects the read under way and all later ones. */
  fail(error: NbdError): void {
    this.#failure ??= error;
    this.#waiting?.reject(this.#failure);
    this.#waiting = null;
    this.#failed.reject(this.#failure);
  }

  /** Rejects when `fail` is called; never resolves. */
  failed(): Promise<never> {
    return this.#failed.promise;
  }

  get failure(): NbdError | null {
    return this.#failure;
  }

  /** Bytes received but not read. */
  get queuedBytes(): number {
    return this.#queued.length;
  }

  #serve(): void {
    if (!this.#waiting || this.#queued.length < this.#waiting.length) return;
    const { length, resolve } = this.#waiting;
    this.#waiting = null;
    const bytes = this.#queued.subarray(0, length);
    this.#queued = this.#queued.subarray(length);
    resolve(bytes);
  }
}
