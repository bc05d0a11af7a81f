import type { MachineRecord } from '../../proto/gen/ferry/v1/machine_pb.ts';
import type { Clock } from '../../shared/clock.ts';
import { FerryError } from '../../shared/error.ts';
import type { MovableMachines, MoveStop } from '../handover/machines.ts';
import type { Journal } from '../journal.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { Admission } from './admission.ts';
import { isAlive } from './lifecycle.ts';
import type { MachineRows } from './rows.ts';
import type { Supervised } from './supervised.ts';

/** What hand-overs reach Machines through. */
export interface MovableOptions {
  readonly rows: MachineRows;
  readonly supervised: Supervised;
  readonly admission: Admission;
  readonly runtime: Runtime;
  readonly journal: Journal;
  readonly clock: Clock;
}

/** The Machines of this host as hand-overs take, stop, start and watch them. */
export class Movable implements MovableMachines {
  readonly #options: MovableOptions;

  constructor(options: MovableOptions) {
    this.#options = options;
  }

  canTake(record: MachineRecord): Promise<void> {
    return this.#options.admission.canTake(record);
  }

  async hold(machineId: string, migrationId: string): Promise<void> {
    const supervisor = await this.#options.supervised.of(this.#options.rows.of(machineId));
    await supervisor.hold(`migration ${migrationId} holds the Machine`);
    await supervisor.run();
  }

  async stop(
    machineId: string,
    options: { signalSentAtMs: number | null; onSignalSent: (atMs: number) => Promise<void> },
    signal: AbortSignal,
  ): Promise<MoveStop> {
    const { rows, supervised } = this.#options;
    const row = rows.of(machineId);
    const supervisor = await supervised.of(row);
    const wasAlive = isAlive(supervisor.life.status);
    const times = await supervisor.stopHeld(options, signal);
    // Seen, never assumed: a stop has looked; of a Machine that was down before, what its supervisor remembers is no proof.
    if (!wasAlive) {
      const [alive] = await Promise.all([this.survivors(machineId), supervised.volumeOf(row).detach()]);
      if (alive !== null) throw new FerryError('process_alive', `of Machine ${machineId} still live: ${alive}`);
    }
    return { signalSentAtMs: times?.signalSentAtMs ?? options.signalSentAtMs };
  }

  async survivors(machineId: string): Promise<string | null> {
    const { rows, supervised, runtime } = this.#options;
    const row = rows.of(machineId);
    const paths = row.volumeId === '' ? [] : supervised.openPaths(row);
    const found = await runtime.survivors(machineId, paths);
    if (found.length === 0) return null;
    return found.map(({ pid, command, why }) => `${pid} (${command}, ${why})`).join(', ');
  }

  resume(machineId: string): Promise<void> {
    return this.#options.supervised.resume(machineId);
  }

  retire(machineId: string, to: string): Promise<void> {
    return this.#options.supervised.retire(machineId, to);
  }

  async forget(machineId: string): Promise<void> {
    const { rows, runtime } = this.#options;
    if (rows.of(machineId).placement.kind !== 'owner') await runtime.forget(machineId);
  }

  async untilUp(machineId: string, deadlineMs: number, signal: AbortSignal): Promise<'healthy' | 'stopped'> {
    const supervisor = this.#options.supervised.find(machineId);
    if (supervisor === undefined) {
      throw new FerryError(
        'start_failed',
        `Machine ${machineId} is not started: ${this.#options.supervised.refusal(machineId) ?? 'it is not here'}`,
      );
    }
    const wanted = supervisor.life.desired === 'started';
    const over = new AbortController();
    const deadline = this.#options.clock.sleep(deadlineMs, over.signal).then(
      () =>
        over.abort(
          new FerryError('unhealthy', `${this.trouble(machineId) || 'it is not healthy'} after ${deadlineMs / 1000} s`),
        ),
      () => {},
    );
    try {
      await supervisor.until(
        ({ healthy, life }) =>
          healthy || life.status.state === 'failed' || (life.desired !== 'started' && life.hold === null),
        AbortSignal.any([over.signal, signal]),
      );
    } finally {
      over.abort();
      await deadline;
    }
    const { status } = supervisor.life;
    if (status.state === 'failed') throw new FerryError('start_failed', status.reason);
    if (supervisor.healthy) return 'healthy';
    // Its policy does not start it again: what ends by itself with an error right after a move did not start.
    const failure = wanted && status.state === 'stopped' && status.stop === null ? this.#lastFailure(machineId) : null;
    if (failure !== null) throw new FerryError('start_failed', `its program ended by itself with ${failure}`);
    return 'stopped';
  }

  trouble(machineId: string): string {
    const supervisor = this.#options.supervised.find(machineId);
    if (supervisor === undefined) return this.#options.supervised.refusal(machineId) ?? '';
    const failing = supervisor.checks.filter(({ status }) => status !== 'passing');
    return supervisor.reason || failing.map(({ name, output }) => `check ${name}: ${output}`).join('; ');
  }

  startedAtMs(machineId: string): number | null {
    const status = this.#options.supervised.find(machineId)?.life.status;
    return status?.state === 'started' ? status.startedAtMs : null;
  }

  async untilStarted(machineId: string, signal: AbortSignal): Promise<void> {
    await this.#options.supervised
      .find(machineId)
      ?.until(({ life }) => life.status.state === 'started' || life.status.state === 'failed', signal);
  }

  isDesired(machineId: string): boolean {
    return this.#options.rows.of(machineId).runtime.desired === 'started';
  }

  /** How its program ended last, in words; null if that was no failure. */
  #lastFailure(machineId: string): string | null {
    const exit = this.#options.journal.events(machineId).findLast((event) => event.exitEvent !== undefined)?.exitEvent;
    if (exit === undefined || exit.exitCode === 0) return null;
    return exit.guestSignal === '' ? `exit code ${exit.exitCode ?? 'unknown'}` : exit.guestSignal;
  }
}
