import { FerryError } from '../../shared/error.ts';
import type { Random } from '../../shared/random.ts';

/** Low bits of a term that are random, so that stores that know nothing of each other do not mint equal ones. */
const randomBits = 16n;

/** Terms stay below 2^53, so that whatever counts in doubles (Lua, JSON) is exact. */
const termMax = 1n << 53n;

/** A term above `above`. Throws internal when there is none left. */
export function mintTerm(above: bigint, random: Random): bigint {
  const [high, low] = random.bytes(2);
  const term = (((above >> randomBits) + 1n) << randomBits) | BigInt(high! * 256 + low!);
  if (term < termMax) return term;
  throw new FerryError('internal', `there is no driver term above ${above} and below 2^53`);
}
