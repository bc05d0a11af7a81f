import { clone } from '@bufbuild/protobuf';
import { type Drain, DrainSchema } from '../../proto/gen/ferry/v1/drain_pb.ts';
import type { Clock } from '../../shared/clock.ts';
import { FerryError } from '../../shared/error.ts';
import { checkId } from '../../shared/ids.ts';
import { pause } from '../pause.ts';
import type { DrainPlan, DrainRecord, Store } from '../store/store.ts';
import { hasDrainEnded } from './state.ts';

/** Writers that may be in each other's way before a write is given up. */
const conflictsMax = 100;
/** Time between two looks of a watch: at most twice a second. */
const watchMs = 500;

/** A drain while it is being changed. */
export interface DrainDraft {
  readonly drain: Drain;
  readonly plan: DrainPlan;
  open: boolean;
}

/** What a drain that begins remembers. */
export function newPlan(): DrainPlan {
  return { retryAtMs: {}, uncordonAfter: false, failedAt: {}, calledOff: [], forgetOwed: false };
}

/** A draft of a record, to be changed freely. */
export function draftOf({ drain, plan, open }: DrainRecord): DrainDraft {
  return { drain: clone(DrainSchema, drain), plan: structuredClone(plan), open };
}

/** The drains: read by ID or host, changed durably, watched. Any coordinator may do so, whoever drives. */
export class DrainBook {
  readonly #store: Store;
  readonly #clock: Clock;

  constructor(store: Store, clock: Clock) {
    this.#store = store;
    this.#clock = clock;
  }

  /** A drain by its ID, or the newest one of a host by the host's. Throws unknown_drain. */
  async find(drainOrHost: string): Promise<DrainRecord> {
    const isHost = !drainOrHost.startsWith('drn_');
    checkId(isHost ? 'name' : 'drain', drainOrHost, 'drain_id');
    const record = isHost ? await this.#store.drainOfHost(drainOrHost) : await this.#store.drain(drainOrHost);
    if (record !== undefined) return record;
    const text = isHost ? `host ${drainOrHost} was never drained` : `there is no drain ${drainOrHost}`;
    throw new FerryError('unknown_drain', text, { field: 'drain_id', facts: { drain: drainOrHost } });
  }

  /** Writes a draft of a record; false: somebody else changed it since. */
  write(draft: DrainDraft, { version, driver }: DrainRecord): Promise<boolean> {
    return this.#store.updateDrain({ ...draft, version, driver });
  }

  /** Changes a drain durably; `change` may run more than once. */
  async update(id: string, change: (draft: DrainDraft) => void): Promise<DrainRecord> {
    for (let conflicts = 0; conflicts < conflictsMax; conflicts += 1) {
      const record = await this.find(id);
      const draft = draftOf(record);
      change(draft);
      if (await this.write(draft, record)) return { ...record, ...draft, version: record.version + 1 };
    }
    throw new FerryError('overloaded', `drain ${id} is changed by too many at once`);
  }

  /** The drain now and at each change, at most twice a second, until it has ended or `signal` aborts. */
  async *watch(drainOrHost: string, signal: AbortSignal): AsyncGenerator<Drain> {
    let { drain, version } = await this.find(drainOrHost);
    for (;;) {
      yield drain;
      if (hasDrainEnded(drain.state)) return;
      const seen = version;
      while (version === seen) {
        await pause(this.#clock, watchMs, signal);
        if (signal.aborted) return;
        ({ drain, version } = await this.find(drain.id));
      }
    }
  }
}
