import type { Drain } from '../../proto/gen/ferry/v1/drain_pb.ts';
import type { MigrationDriver } from '../migrations/driver.ts';
import type { Planner } from '../migrations/planner.ts';
import type { CallOff } from './observe.ts';
import type { Begin } from './place.ts';
import type { Mover } from './round.ts';

/** Moves of drains as migrations like any other: they copy in parallel and stand in line for their network by themselves. */
export class MigrationMover implements Mover {
  readonly #planner: Pick<Planner, 'migrate'>;
  readonly #driver: Pick<MigrationDriver, 'cancel'>;
  readonly #startDeadlineMs: number;

  constructor(planner: Pick<Planner, 'migrate'>, driver: Pick<MigrationDriver, 'cancel'>, startDeadlineMs: number) {
    this.#planner = planner;
    this.#driver = driver;
    this.#startDeadlineMs = startDeadlineMs;
  }

  async begin({ machineId, migrationId, destination }: Begin, drain: Drain): Promise<void> {
    const { strategy, downtimeBudgetMs, priority } = drain.options!;
    await this.#planner.migrate({
      id: migrationId,
      drainId: drain.id,
      machineId,
      destination,
      strategy,
      priority,
      reason: drain.reason,
      orderedBy: drain.orderedBy,
      startDeadlineMs: this.#startDeadlineMs,
      overrideHosts: [],
      ...(downtimeBudgetMs === 0n ? {} : { downtimeBudgetMs: Number(downtimeBudgetMs) }),
    });
  }

  async cancel({ migrationId, why }: CallOff, signal: AbortSignal): Promise<void> {
    await this.#driver.cancel(migrationId, signal, why);
  }
}
