import { createHash } from 'node:crypto';
import type { Clock } from '../shared/clock.ts';
import type { HostRow, Store } from './store/store.ts';

/** What other coordinators wrote is seen after this. */
const staleMsMax = 250;

/**
 * All hosts, read once for many heartbeats: a thousand agents report at each interval, and each report is compared with all
 * hosts. What is reported here is known at once; what others wrote, a moment later.
 */
export class KnownHosts {
  readonly #store: Pick<Store, 'hosts'>;
  readonly #clock: Clock;
  #rows = new Map<string, HostRow>();
  #readAtMs = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | null = null;
  #version = '';

  constructor(store: Pick<Store, 'hosts'>, clock: Clock) {
    this.#store = store;
    this.#clock = clock;
  }

  /** The hosts by ID, at most a quarter of a second old. */
  async rows(): Promise<ReadonlyMap<string, HostRow>> {
    if (this.#clock.monotonicMs() - this.#readAtMs >= staleMsMax) {
      this.#reading ??= this.#read().finally(() => {
        this.#reading = null;
      });
      await this.#reading;
    }
    return this.#rows;
  }

  /** Names these hosts and their addresses: another one means that there are others. */
  get version(): string {
    if (this.#version === '') {
      const hash = createHash('sha256');
      for (const id of [...this.#rows.keys()].sort()) hash.update(`${id} ${this.#rows.get(id)!.address}\n`);
      this.#version = hash.digest('base64url').slice(0, 16);
    }
    return this.#version;
  }

  /** Takes note of a row that was just written. */
  put(row: HostRow): void {
    if (this.#rows.get(row.id)?.address !== row.address) this.#version = '';
    this.#rows.set(row.id, row);
  }

  async #read(): Promise<void> {
    const atMs = this.#clock.monotonicMs();
    const rows = await this.#store.hosts();
    this.#rows = new Map(rows.map((row) => [row.id, row]));
    this.#readAtMs = atMs;
    this.#version = '';
  }
}
