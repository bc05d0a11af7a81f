import type { Handover } from '../../proto/gen/ferry/v1/handover_pb.ts';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { toFerryError } from '../../shared/error.ts';
import type { Logger } from '../../shared/log.ts';
import { type Agents, isSilence } from '../agents.ts';
import type { LockRow, MigrationRecord, Store } from '../store/store.ts';
import type { Gate } from './gate.ts';
import { givePermitBack, permitsOf } from './permits.ts';

/** What a migration means for the Machine at one of its hosts. `silent`: the host does not say. */
type Standing = 'active' | 'over' | 'handed-over' | 'up-here' | 'silent';

/** Tells locks and permits that are nobody's any more, and releases them. */
export class Orphans {
  readonly #store: Store;
  readonly #agents: Agents;
  readonly #log: Logger;
  readonly #gate: Gate;

  /** Nothing is an orphan while the gate is shut: who it belongs to may not be known again yet. */
  constructor(options: { store: Store; agents: Agents; log: Logger; gate: Gate }) {
    this.#store = options.store;
    this.#agents = options.agents;
    this.#log = options.log;
    this.#gate = options.gate;
  }

  /** Releases a lock, and its permits, if its migration has ended or is unknown and both its hosts say so. */
  async releaseLock(lock: LockRow): Promise<boolean> {
    if (this.#gate.shut() !== undefined || (await this.#isWanted(lock.migrationId))) return false;
    if (!(await this.isOver(lock))) return false;
    const wish = { network: lock.network, holder: lock.migrationId };
    // All at once: each silent host takes its deadline, and who waits for the lock waits for the slowest only.
    const asked = (await this.#store.hosts()).map(({ id }) => givePermitBack(this.#agents, id, wish).catch(() => {}));
    await Promise.all(asked);
    const released = await this.#store.releaseLock(lock.network, lock.migrationId);
    if (released) this.#log.warn({ network: lock.network, migration: lock.migrationId }, 'orphaned lock released');
    return released;
  }

  /** Releases the permits of one host that are nobody's any more; answers whether none is left whose migration is not over yet. */
  async releasePermits(host: string, signal?: AbortSignal): Promise<boolean> {
    if (this.#gate.shut() !== undefined) return false;
    let none = true;
    for (const permit of await permitsOf(this.#agents, host, signal)) {
      if (await this.#isWanted(permit.migrationId)) continue;
      if ((await this.#store.lock(permit.network))?.migrationId === permit.migrationId) continue;
      if (!(await this.#isOverEverywhere(permit.migrationId))) {
        none = false;
        continue;
      }
      await givePermitBack(this.#agents, host, { network: permit.network, holder: permit.migrationId }, signal);
      this.#log.warn({ host, network: permit.network, migration: permit.migrationId }, 'orphaned permit released');
    }
    return none;
  }

  /** Whether a migration's two hosts say that the Machine is not down because of it. */
  async isOver(lock: Pick<LockRow, 'migrationId' | 'machineId' | 'source' | 'destination'>): Promise<boolean> {
    const source = await this.#sourceStanding(lock);
    if (source === 'over') return true;
    return source === 'handed-over' && (await this.#destinationStanding(lock)) === 'up-here';
  }

  async #isWanted(migrationId: string): Promise<boolean> {
    const record = await this.#store.migration(migrationId);
    return record !== undefined && wantsLock(record);
  }

  /** The source decides until it gave the Machine up: once the ID is burnt there, no ticket can come to be. */
  async #sourceStanding(lock: Pick<LockRow, 'migrationId' | 'machineId' | 'source'>): Promise<Standing> {
    const handover = await this.#ask(lock.source, lock.migrationId);
    if (handover === undefined) return 'silent';
    if (handover.role === 'unknown') return this.#burn(lock, handover.term);
    return standingOf(handover);
  }

  async #destinationStanding(lock: Pick<LockRow, 'migrationId' | 'destination'>): Promise<Standing> {
    const handover = await this.#ask(lock.destination, lock.migrationId);
    return handover === undefined ? 'silent' : standingOf(handover);
  }

  /** Nothing is held for a Machine that was only offered, and no store knows who offered it: the ID is burnt. */
  async #endOffered(host: string, handover: Handover): Promise<Standing> {
    const { migrationId, machineId, step } = handover;
    return step === 'offered'
      ? this.#burn({ migrationId, machineId, source: host }, handover.term)
      : standingOf(handover);
  }

  /** "Never heard of it" stays true only once the ID is burnt. */
  async #burn(lock: Pick<LockRow, 'migrationId' | 'machineId' | 'source'>, term: bigint): Promise<Standing> {
    try {
      const { handover } = await this.#agents.handover(lock.source, (client, options) =>
        client.abort(
          {
            header: { migrationId: lock.migrationId, term, lockHolder: lock.migrationId, fence: 0n },
            reason: 'nobody knows this migration',
            machineId: lock.machineId,
          },
          options,
        ),
      );
      return handover?.step === 'aborted' ? 'over' : 'active';
    } catch {
      return 'silent';
    }
  }

  /** Without the names of the two hosts (the store was lost) every host is asked; one that is silent leaves it open. */
  async #isOverEverywhere(migrationId: string): Promise<boolean> {
    let source: Standing = 'over';
    let destination: Standing = 'active';
    for (const host of await this.#store.hosts()) {
      const handover = await this.#ask(host.id, migrationId);
      if (handover === undefined) return false;
      if (handover.role === 'source') source = await this.#endOffered(host.id, handover);
      if (handover.role === 'destination') destination = standingOf(handover);
    }
    return source === 'over' || (source === 'handed-over' && destination === 'up-here');
  }

  async #ask(host: string, migrationId: string): Promise<Handover | undefined> {
    try {
      const { handover } = await this.#agents.handover(
        host,
        (client, options) => client.getHandover({ migrationId }, options),
        { timeoutMs: 2000 },
      );
      return handover;
    } catch (thrown) {
      const error = toFerryError(thrown);
      if (!isSilence(error)) this.#log.debug({ host, err: error }, 'a hand-over could not be asked for');
      return undefined;
    }
  }
}

/** Whether a migration still has a right to its lock. */
export function wantsLock({ migration }: MigrationRecord): boolean {
  return migration.state === MigrationState.RUNNING || migration.holdsLock;
}

/** What an agent's hand-over means for the Machine there, in its own word. */
function standingOf(handover: Handover): Standing {
  const { standing } = handover;
  return standing === 'over' || standing === 'handed-over' || standing === 'up-here' ? standing : 'active';
}
