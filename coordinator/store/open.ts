import { readFileSync } from 'node:fs';
import type { Clock } from '../../shared/clock.ts';
import { invalidArgument } from '../../shared/error.ts';
import type { Random } from '../../shared/random.ts';
import type { StoreAddress } from './address.ts';
import { RedisStore } from './redis/store.ts';
import { SqliteStore } from './sqlite.ts';
import type { Store } from './store.ts';

/** What a store needs besides its address. */
export interface OpenStoreOptions {
  readonly address: StoreAddress;
  /** File with the password of a server; empty = none but that of the address. */
  readonly passwordFile: string;
  /** File of the embedded store. */
  readonly path: string;
  readonly clock: Clock;
  readonly random: Random;
}

/**
 * Opens the store of a coordinator. Throws invalid_argument (no such password file), store_locked (embedded: another process has it), store_unreachable (no server there,
 * or a wrong password), unsupported (too old a server, or one that may throw keys away), no_space or io_error.
 */
export async function openStore(options: OpenStoreOptions): Promise<Store> {
  const { address, passwordFile, path, clock, random } = options;
  if (address.kind === 'sqlite') return new SqliteStore({ path, clock, random });
  const password = passwordFile === '' ? address.target.password : readPassword(passwordFile);
  return RedisStore.open({ target: { ...address.target, password }, prefix: address.prefix, random });
}

function readPassword(path: string): string {
  try {
    return readFileSync(path, 'utf8').replace(/\r?\n$/, '');
  } catch (error) {
    const found = `${path} cannot be read (${(error as NodeJS.ErrnoException).code})`;
    throw invalidArgument('--store-password-file', found, 'a file with the password of the store');
  }
}
