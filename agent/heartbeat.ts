import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { HostService } from '../proto/gen/ferry/v1/coordinator_pb.ts';
import { HeartbeatRequestSchema, type HeartbeatResponse } from '../proto/gen/ferry/v1/host_pb.ts';
import type { Clock } from '../shared/clock.ts';
import { toFerryError } from '../shared/error.ts';
import type { Logger } from '../shared/log.ts';
import type { ClientPool } from '../shared/rpc/client.ts';
import type { Directory } from './directory.ts';
import type { Journal } from './journal.ts';

const callMs = 2_000;
const retryMs = 1_000;
const intervalMaxMs = 60_000;
/** Least time between two heartbeats, however much changes. */
const intervalMinMs = 100;

/** What a heartbeat works with. */
export interface HeartbeatOptions {
  readonly coordinators: readonly string[];
  readonly pool: ClientPool;
  readonly journal: Journal;
  readonly directory: Directory;
  readonly clock: Clock;
  readonly log: Logger;
  /** The report as of now, without what the journal knows. */
  readonly report: () => Promise<MessageInitShape<typeof HeartbeatRequestSchema>>;
  /** Whether the coordinator remembers a newer journal, at each answer. */
  readonly onJournal: (wentBack: boolean) => void;
}

/** Reports to the first coordinator that answers, and remembers what it says. */
export class Heartbeat {
  readonly #options: HeartbeatOptions;
  #next = 0;
  #isWanted = false;
  /** Version of the roster that was told last; empty after a start. */
  #rosterVersion = '';
  #wake = new AbortController();

  constructor(options: HeartbeatOptions) {
    this.#options = options;
  }

  /** One report; null when no coordinator answers. */
  async beat(): Promise<HeartbeatResponse | null> {
    const { coordinators, pool, journal, directory, report, log, onJournal } = this.#options;
    const destroyed = directory.destroyed();
    const request = create(HeartbeatRequestSchema, {
      ...(await report()),
      journalCounter: BigInt(journal.counter),
      journalId: journal.id,
      hostNumber: Number(journal.meta('host_number') ?? 0),
      storeGeneration: journal.meta('store_generation') ?? '',
      rosterVersion: this.#rosterVersion,
      ...directory.known,
      directory: destroyed,
    });
    for (let tries = 0; tries < coordinators.length; tries += 1) {
      const address = coordinators[this.#next % coordinators.length]!;
      let response: HeartbeatResponse;
      try {
        response = await pool.client(HostService, address).heartbeat(request, { timeoutMs: callMs });
      } catch (error) {
        const known = toFerryError(error);
        const silent = known.reason === 'unreachable' || known.reason === 'deadline';
        log[silent ? 'debug' : 'warn']({ coordinator: address, reason: known.reason }, `heartbeat: ${known.message}`);
        this.#next += 1;
        continue;
      }
      onJournal(response.journalWentBack);
      directory.reported(destroyed);
      if (response.directory !== undefined && directory.apply(response.directory)) this.soon();
      if (!response.journalWentBack) this.#remember(response);
      return response;
    }
    return null;
  }

  /** Reports until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.#isWanted = false;
      const response = await this.beat().catch((error) => {
        this.#options.log.warn({ err: error }, 'heartbeat');
        return null;
      });
      const pauseMs = response === null ? retryMs : Math.min(intervalMaxMs, response.intervalMs || retryMs);
      await this.#options.clock.sleep(Math.min(intervalMinMs, pauseMs), signal).catch(() => {});
      this.#wake = new AbortController();
      // What changed while a report was on its way is in the next one, at once.
      if (this.#isWanted) continue;
      await this.#options.clock.sleep(pauseMs, AbortSignal.any([signal, this.#wake.signal])).catch(() => {});
    }
  }

  /** Something changed: report now. */
  soon(): void {
    this.#isWanted = true;
    this.#wake.abort();
  }

  /** What cannot be written now, on a full disk, is told again with the next answer. */
  #remember(response: HeartbeatResponse): void {
    const { journal, log } = this.#options;
    const known = response.roster.length > 0 ? journal.roster() : new Map<string, string>();
    const fresh = response.roster.filter((host) => known.get(host.id) !== host.address);
    const numbered = Number(journal.meta('host_number') ?? 0) === response.hostNumber;
    const { storeGeneration } = response;
    const isKnown = storeGeneration === (journal.meta('store_generation') ?? '');
    if (!numbered || fresh.length > 0 || !isKnown) {
      try {
        journal.write(() => {
          if (!isKnown) journal.setMeta('store_generation', storeGeneration);
          if (!numbered) journal.setMeta('host_number', String(response.hostNumber));
          for (const host of fresh) journal.putRoster(host.id, host.address);
        });
      } catch (error) {
        const { reason, message } = toFerryError(error);
        log.warn({ reason }, `what the coordinator said is not written down: ${message}`);
        return;
      }
    }
    this.#rosterVersion = response.rosterVersion;
  }
}
