import { invalidArgument } from '../../shared/error.ts';
import type { RedisTarget } from './redis/connection.ts';

/** Where a coordinator keeps its state. */
export type StoreAddress =
  /** A file in the data directory, for one coordinator. */
  | { readonly kind: 'sqlite' }
  /** A Redis server, for several. `prefix` comes before each of its keys. */
  | { readonly kind: 'redis'; readonly target: RedisTarget; readonly prefix: string };

const expected = 'redis://[USER[:PASSWORD]@]HOST[:PORT][/DB][?prefix=NAME:], or rediss:// for TLS';
const portDefault = '6379';
const dbMax = 1023;
const prefixPattern = /^[A-Za-z0-9_:.{}-]{1,64}$/;

/** Reads the address of a store; empty = embedded. Throws invalid_argument naming `field`, without the password. */
export function parseStoreAddress(text: string, field: string): StoreAddress {
  if (text === '') return { kind: 'sqlite' };
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !['redis:', 'rediss:'].includes(url.protocol) || url.hostname === '' || url.hash !== '') {
    throw invalidArgument(field, 'is no address of a store', expected);
  }
  const db = url.pathname.replace(/^\//, '') || '0';
  if (!/^\d{1,4}$/.test(db) || Number(db) > dbMax) {
    throw invalidArgument(
      field,
      `names the database ${JSON.stringify(db)}`,
      `0 to ${dbMax}, as in redis://host:6379/1`,
    );
  }
  const unknown = [...url.searchParams.keys()].find((name) => name !== 'prefix');
  if (unknown !== undefined) throw invalidArgument(field, `has ?${unknown}=`, 'only ?prefix=');
  const prefix = url.searchParams.get('prefix') ?? 'ferry:';
  if (!prefixPattern.test(prefix)) {
    throw invalidArgument(field, `has the prefix ${JSON.stringify(prefix)}`, '1 to 64 of A-Z a-z 0-9 _ : . { } -');
  }
  return {
    kind: 'redis',
    prefix,
    target: {
      host: url.hostname.replace(/^\[|\]$/g, ''),
      port: Number(url.port || portDefault),
      db: Number(db),
      username: decoded(url.username, field),
      password: decoded(url.password, field),
      tls: url.protocol === 'rediss:',
    },
  };
}

function decoded(text: string, field: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw invalidArgument(field, 'has a user or password with a stray %', 'special characters as %XX');
  }
}
