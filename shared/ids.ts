import { invalidArgument } from './error.ts';
import type { Random } from './random.ts';

const crockford = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
const base36 = '0123456789abcdefghijklmnopqrstuvwxyz';

/** What each kind of ID looks like, and how to say so. */
export const idPatterns = {
  machine: { pattern: /^[0-9a-f]{14}$/, shape: '14 characters of 0-9 and a-f, for example d8dd625fed5568' },
  volume: { pattern: /^vol_[0-9a-z]{16}$/, shape: '"vol_" and 16 characters of 0-9 and a-z' },
  migration: { pattern: /^mig_[0-9A-HJKMNP-TV-Z]{26}$/, shape: '"mig_" and a ULID (26 characters)' },
  drain: { pattern: /^drn_[0-9A-HJKMNP-TV-Z]{26}$/, shape: '"drn_" and a ULID (26 characters)' },
  instance: { pattern: /^[0-9A-HJKMNP-TV-Z]{26}$/, shape: 'a ULID (26 characters)' },
  name: {
    pattern: /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/,
    shape: '1 to 63 characters of a-z, 0-9 and "-", not at its ends',
  },
} as const;

/** Kinds of IDs. */
export type IdKind = keyof typeof idPatterns;

/** Refuses a text that is not an ID of this kind. */
export function checkId(kind: IdKind, text: string, field: string): string {
  const { pattern, shape } = idPatterns[kind];
  if (pattern.test(text)) return text;
  const found = text === '' ? 'is empty' : `is ${JSON.stringify(text.slice(0, 80))}`;
  throw invalidArgument(field, found, shape);
}

/** Refuses a text that is not "host:port". */
export function checkAddress(text: string, field: string): string {
  const match = /^([0-9a-zA-Z.-]{1,253}|\[[0-9a-fA-F:]{2,39}\]):(\d{1,5})$/.exec(text);
  const port = Number(match?.[2]);
  if (port >= 1 && port <= 65_535) return text;
  throw invalidArgument(field, text === '' ? 'is empty' : `is ${JSON.stringify(text.slice(0, 80))}`, '"host:port"');
}

/** A ULID: 48 bits of time, 80 of randomness, in Crockford's base 32. */
export function ulid(nowMs: number, random: Random): string {
  let text = '';
  for (let shift = 45; shift >= 0; shift -= 5) text += crockford[Math.floor(nowMs / 2 ** shift) % 32];
  for (const byte of random.bytes(16)) text += crockford[byte % 32];
  return text;
}

/** A fresh Machine ID. */
export function newMachineId(random: Random): string {
  return Buffer.from(random.bytes(7)).toString('hex');
}

/** A fresh volume ID. */
export function newVolumeId(random: Random): string {
  let text = 'vol_';
  for (const byte of random
    .bytes(32)
    .filter((value) => value < 252)
    .slice(0, 16))
    text += base36[byte % 36];
  return text.length === 20 ? text : newVolumeId(random);
}

/** A fresh drain ID. */
export function newDrainId(nowMs: number, random: Random): string {
  return `drn_${ulid(nowMs, random)}`;
}

/** A fresh migration ID. */
export function newMigrationId(nowMs: number, random: Random): string {
  return `mig_${ulid(nowMs, random)}`;
}
