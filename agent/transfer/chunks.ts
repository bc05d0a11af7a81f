import xxhash from 'xxhash-wasm';

/** The unit of checksums, of resuming and of zero detection, in bytes. */
export const CHUNK_BYTES = 65_536;
/** Size of one checksum, in bytes. */
export const SUM_BYTES = 8;

const { h64Raw } = await xxhash();
const ZEROS = new Uint8Array(CHUNK_BYTES);
const ZERO_SUM = h64Raw(ZEROS);

/**
 * The checksum of one chunk: its xxh64, XORed with that of as many zeros. So the sum of zeros is 0, and the sums of a
 * sparse volume are a sparse file. The last chunk of a volume may be shorter than the others.
 */
export function chunkSum(chunk: Uint8Array): bigint {
  return h64Raw(chunk) ^ (chunk.length === CHUNK_BYTES ? ZERO_SUM : h64Raw(ZEROS.subarray(0, chunk.length)));
}

/** True when every byte is zero; `sum` is the chunk's own. */
export function isZeroChunk(chunk: Uint8Array, sum: bigint): boolean {
  // Almost every chunk is decided by its sum; equal sums are no proof.
  return sum === 0n && Buffer.compare(chunk, ZEROS.subarray(0, chunk.length)) === 0;
}

/** Writes the sums of the chunks in `data` (whole chunks; a shorter one only at the end) into `target`. */
export function writeSums(data: Uint8Array, target: Buffer): void {
  for (let at = 0, index = 0; at < data.length; at += CHUNK_BYTES, index += 1) {
    target.writeBigUInt64LE(chunkSum(data.subarray(at, Math.min(at + CHUNK_BYTES, data.length))), index * SUM_BYTES);
  }
}

/** Number of chunks of a volume. */
export function chunkCount(sizeBytes: number): number {
  return Math.ceil(sizeBytes / CHUNK_BYTES);
}
