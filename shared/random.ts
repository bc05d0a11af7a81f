import { randomBytes } from 'node:crypto';

/** Randomness, as everything in Ferry gets it. */
export interface Random {
  /** `count` unpredictable bytes. */
  bytes(count: number): Uint8Array;
}

/** The machine's own randomness. */
export const systemRandom: Random = { bytes: (count) => randomBytes(count) };

/** The same bytes for the same seed; for tests. */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0 || 1;
  const nextByte = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 11) & 0xff;
  };
  return { bytes: (count) => Uint8Array.from({ length: count }, nextByte) };
}
