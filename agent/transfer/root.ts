import { createHash, type Hash } from 'node:crypto';
import { CHUNK_BYTES, chunkCount, SUM_BYTES } from './chunks.ts';

const ZERO_SUMS = Buffer.alloc(65_536);

/** The root of a Machine that has no volume. */
export const NO_VOLUME_ROOT = createHash('sha256').update('ferry volume root 1: no volume').digest('hex');

/**
 * The root of a volume: SHA-256 over a domain string, the volume's length, the chunk size and all chunk sums in order.
 * Equal roots mean equal sums for a volume of equal length.
 */
export class RootHash {
  readonly #hash: Hash;
  readonly #chunks: number;
  #added = 0;

  constructor(sizeBytes: number) {
    this.#chunks = chunkCount(sizeBytes);
    const head = Buffer.alloc(16);
    head.writeBigUInt64BE(BigInt(sizeBytes), 0);
    head.writeBigUInt64BE(BigInt(CHUNK_BYTES), 8);
    this.#hash = createHash('sha256').update('ferry volume root 1\n').update(head);
  }

  /** Sums of the next chunks, as they are in a sums file. */
  add(sums: Uint8Array): void {
    this.#added += sums.length / SUM_BYTES;
    this.#hash.update(sums);
  }

  /** The next chunks are zeros. */
  addZeros(chunks: number): void {
    for (let left = chunks * SUM_BYTES; left > 0; left -= ZERO_SUMS.length) {
      this.#hash.update(ZERO_SUMS.subarray(0, Math.min(left, ZERO_SUMS.length)));
    }
    this.#added += chunks;
  }

  /** Lower-case hex. Throws when not exactly the volume's chunks were added. */
  digest(): string {
    if (this.#added !== this.#chunks)
      throw new Error(`root over ${this.#added} chunks, the volume has ${this.#chunks}`);
    return this.#hash.digest('hex');
  }
}
