import type { Socket } from 'node:net';
import { NbdError } from './error.ts';

/** Reads exact numbers of bytes from a socket; the socket's own buffer is the only one, so backpressure reaches the peer. */
export class SocketReader {
  readonly #socket: Socket;
  #wake: (() => void) | null = null;
  readonly #onChange = (): void => {
    this.#wake?.();
    this.#wake = null;
  };

  constructor(socket: Socket) {
    this.#socket = socket;
    for (const event of ['readable', 'end', 'close']) socket.on(event, this.#onChange);
  }

  /** Exactly `length` bytes; rejects with `disconnected` when the peer ends before. One read at a time. */
  async read(length: number): Promise<Buffer> {
    if (length === 0) return Buffer.alloc(0);
    for (;;) {
      const bytes: Buffer | null = this.#socket.read(length);
      if (bytes?.length === length) return bytes;
      if (bytes !== null || this.#socket.destroyed || this.#socket.readableEnded) {
        throw new NbdError('disconnected', 'the peer ended the connection');
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Reads and drops `length` bytes. */
  async skip(length: number): Promise<void> {
    for (let left = length; left > 0; ) left -= (await this.read(Math.min(left, 16_384))).length;
  }

  /** Lets go of the socket; returns the number of bytes that were received but not read. */
  detach(): number {
    for (const event of ['readable', 'end', 'close']) this.#socket.off(event, this.#onChange);
    return this.#socket.readableLength;
  }
}
