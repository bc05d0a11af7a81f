import type { Clock } from '../../shared/clock.ts';
import type { Random } from '../../shared/random.ts';
import type { StoreAddress } from './address.ts';
import { RedisStore } from './redis/store.ts';
import { SqliteStore } from './sqlite.ts';
import type { Store } from './store.ts';

/** What a store needs besides its address. */
export interface OpenStoreOptions {
  readonly address: StoreAddress;
  /** File of the embedded store. */
  readonly path: string;
  readonly clock: Clock;
  readonly random: Random;
}

/**
 * Opens the store of a coordinator. Throws store_locked (embedded: another process has it), store_unreachable (no server there,
 * or a wrong password), unsupported (too old a server, or one that may throw keys away), no_space or io_error.
 */
export async function openStore({ address, path, clock, random }: OpenStoreOptions): Promise<Store> {
  if (address.kind === 'sqlite') return new SqliteStore({ path, clock, random });
  return RedisStore.open({ target: address.target, prefix: address.prefix, random });
}
