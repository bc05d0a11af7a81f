// Past 300 lines: the one writer, the loop that acts, and the orders in front of it belong together.
import type { MachineConfig, MachineEvent } from '../../proto/gen/ferry/v1/machine_pb.ts';
import type { Clock } from '../../shared/clock.ts';
import { FerryError, toFerryError } from '../../shared/error.ts';
import { ulid } from '../../shared/ids.ts';
import type { Logger } from '../../shared/log.ts';
import type { Random } from '../../shared/random.ts';
import type { Reason } from '../../shared/reasons.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { type CheckResult, HealthChecks } from './checks.ts';
import { readConfig, type Settings } from './config.ts';
import { type AttachedVolume, buildEnvironment, type Placement, workingDirectory } from './environment.ts';
import { toMachineEvent } from './events.ts';
import {
  type Effect,
  effectOf,
  isAlive,
  type Life,
  type LifeEvent,
  next,
  resume,
  type Step,
  type StopTimes,
} from './lifecycle.ts';
import { stopProcess } from './stop.ts';

/** Where a Machine's life is kept. */
export interface MachineStore {
  /** Undefined when there is no such Machine. */
  load(machineId: string): Promise<Life | undefined> | Life | undefined;
  /** Makes the new life and its log entries durable, in one transaction, before it resolves. */
  save(machineId: string, life: Life, events: readonly MachineEvent[]): Promise<void> | void;
}

/** The volume of one Machine, or the lack of one. */
export interface MachineVolume {
  /** Mounts it, if it is to be mounted; repeatable. Null without a volume. */
  attach(): Promise<AttachedVolume | null>;
  /** Detaches and syncs it; repeatable. Throws volume_busy, naming who holds it. */
  detach(): Promise<void>;
  /** Volume file and mount point: who has one of these open belongs to the Machine. */
  openPaths(): readonly string[];
}

/** What may change between two starts. */
export interface MachineFacts {
  readonly config: MachineConfig;
  readonly placement: Placement;
}

export interface SupervisorOptions {
  readonly machineId: string;
  readonly runtime: Runtime;
  readonly store: MachineStore;
  readonly volume: MachineVolume;
  /** Read at each start and each decision. */
  readonly facts: () => MachineFacts;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
}

/** How a migration stops a Machine. */
export interface StopHeldOptions {
  /** When the migration recorded that the signal was sent; null = not yet. */
  readonly signalSentAtMs: number | null;
  /** Makes that record. Awaited before the signal is sent. */
  readonly onSignalSent: (atMs: number) => Promise<void> | void;
}

const RETRY_FIRST_MS = 500;
const RETRY_MAX_MS = 30_000;
/** Trying these again without a change by the operator cannot help. */
const PERMANENT: readonly Reason[] = ['cannot_run', 'invalid_argument', 'unsupported'];

/**
 * The one writer of one Machine's life. Orders and reports go through `next`; each result is durable before it is
 * acted on. A loop does what the status asks for, and goes on where an earlier agent ended.
 */
export class Supervisor {
  readonly #options: SupervisorOptions;
  #life: Life;
  /** Decisions take turns. */
  #turn: Promise<unknown> = Promise.resolve();
  #checks: HealthChecks | undefined;
  /** What failed and will be tried again. */
  #problem: FerryError | undefined;
  #waiters = new Set<() => void>();
  #interrupt = new AbortController();
  readonly #closed = new AbortController();
  #loop: Promise<void> | undefined;
  #onHeldSignal: StopHeldOptions['onSignalSent'] = () => {};

  private constructor(options: SupervisorOptions, life: Life) {
    this.#options = options;
    this.#life = life;
  }

  /** Loads a Machine. Nothing is done yet: hold it first if it must not be started. Throws unknown_machine. */
  static async open(options: SupervisorOptions): Promise<Supervisor> {
    const life = await options.store.load(options.machineId);
    if (life === undefined) throw new FerryError('unknown_machine', `no Machine ${options.machineId} on this host`);
    return new Supervisor(options, life);
  }

  get life(): Life {
    return this.#life;
  }

  /** Last results of the health checks; empty when it does not run. */
  get checks(): readonly CheckResult[] {
    return this.#checks?.results ?? [];
  }

  /** Whether it runs and its checks pass (without checks: for 5 s). */
  get healthy(): boolean {
    return this.#life.status.state === 'started' && this.#checks?.healthy === true;
  }

  /** Why it is not what it should be, in words; empty if all is well. */
  get reason(): string {
    const { status, hold } = this.#life;
    if (this.#problem !== undefined) return this.#problem.message;
    if (status.state === 'failed' || status.state === 'restarting') return status.reason;
    return hold ?? '';
  }

  /** Takes up the Machine: adopts its process, ends what was begun, starts it if that is desired. */
  async run(): Promise<void> {
    if (this.#loop !== undefined) return;
    await this.#decide((life, moment, rules) => resume(life, moment, rules));
    this.#loop = this.#drive();
  }

  /** Stops supervising; the Machine goes on as it is. */
  async close(): Promise<void> {
    this.#closed.abort(new FerryError('cancelled', 'the agent is stopping'));
    this.#interrupt.abort();
    await this.#loop;
  }

  /** Orders; each is durable when it resolves, and done later. The answer is a note when it takes effect only later. */
  start(): Promise<string | undefined> {
    return this.#apply({ type: 'start' });
  }

  stop(with_: { signal?: NodeJS.Signals; timeoutMs?: number } = {}): Promise<string | undefined> {
    return this.#apply({ type: 'stop', ...with_ });
  }

  restart(): Promise<string | undefined> {
    return this.#apply({ type: 'restart' });
  }

  /** Throws machine_running unless it is stopped or `force` is given. */
  destroy(force: boolean): Promise<string | undefined> {
    return this.#apply({ type: 'destroy', force });
  }

  /** For a migration: from here on nothing is started. `reason` names the migration; orders are answered with it. */
  async hold(reason: string): Promise<void> {
    await this.#apply({ type: 'hold', reason });
  }

  /** Ends the hold; what is desired happens now. */
  async release(): Promise<void> {
    this.#onHeldSignal = () => {};
    await this.#apply({ type: 'release' });
  }

  /** The migration gave it to another host. Throws not_yet unless it is held and gone. */
  async handOver(to: string): Promise<void> {
    await this.#apply({ type: 'hand-over', to });
  }

  /** The other host declined for good: ours again, still held. */
  async takeBack(): Promise<void> {
    await this.#apply({ type: 'take-back' });
  }

  /**
   * Stops the held Machine, and resolves when its processes are observed gone and its volume is detached; at once when
   * they are. Null when it was not running at all. Can be repeated; the signal goes once. Throws process_alive or
   * volume_busy when something stays.
   */
  async stopHeld(options: StopHeldOptions, signal: AbortSignal): Promise<StopTimes | null> {
    this.#onHeldSignal = options.onSignalSent;
    for (;;) {
      await this.#apply({ type: 'stop-held', signalSentAtMs: options.signalSentAtMs });
      const { status } = this.#life;
      if (status.state === 'stopped') return status.stop;
      if (!isAlive(status)) return null;
      await this.#change(signal);
      if (this.#problem !== undefined) throw this.#problem;
    }
  }

  /** Resolves when `reached` holds. Rejects with the signal's reason. */
  async until(reached: (supervisor: Supervisor) => boolean, signal: AbortSignal): Promise<void> {
    while (!reached(this)) await this.#change(signal);
  }

  /** Resolves when it is healthy. Throws start_failed when it is failed; rejects with the signal's reason. */
  async waitHealthy(signal: AbortSignal): Promise<void> {
    await this.until((machine) => machine.healthy || machine.life.status.state === 'failed', signal);
    if (this.#life.status.state === 'failed') throw new FerryError('start_failed', this.#life.status.reason);
  }

  async #apply(event: LifeEvent): Promise<string | undefined> {
    return this.#decide((life, moment, rules) => next(life, event, moment, rules));
  }

  /** One decision: from the life as it is, to one that is durable. */
  #decide(choose: (life: Life, moment: { nowMs: number; instanceId: string }, rules: Settings['rules']) => Step) {
    const decided = this.#turn.then(async () => {
      const { machineId, clock, random, store, log } = this.#options;
      const nowMs = clock.nowMs();
      const { rules } = readConfig(this.#options.facts().config);
      const step = choose(this.#life, { nowMs, instanceId: ulid(nowMs, random) }, rules);
      if (step.kind === 'refused') throw new FerryError(step.reason, step.message, { field: 'machine_id' });
      const { life } = step;
      if (life === this.#life && step.log.length === 0) return step.note;
      const events = step.log.map((entry) => toMachineEvent(entry, nowMs, life.restartCount));
      await store.save(machineId, life, events);
      const before = this.#life;
      this.#life = life;
      if (before.status.state !== life.status.state) {
        log.info({ machine: machineId, instance: life.instanceId, from: before.status.state }, life.status.state);
        this.#interrupt.abort();
      }
      this.#announce();
      return step.note;
    });
    this.#turn = decided.catch(() => {});
    return decided;
  }

  async #drive(): Promise<void> {
    for (let failures = 0; !this.#closed.signal.aborted; ) {
      this.#interrupt = new AbortController();
      const interrupt = AbortSignal.any([this.#interrupt.signal, this.#closed.signal]);
      try {
        const event = await this.#perform(effectOf(this.#life.status), interrupt);
        if (event !== undefined) await this.#apply(event);
        failures = 0;
        this.#report(undefined);
      } catch (error) {
        if (this.#closed.signal.aborted) return;
        if (interrupt.aborted) continue;
        this.#report(toFerryError(error));
        const delayMs = Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** Math.min(failures++, 10));
        await this.#options.clock.sleep(delayMs, interrupt).catch(() => {});
      }
    }
  }

  /** Does what a status asks for; answers with what came of it, or nothing when the status changed meanwhile. */
  async #perform(effect: Effect, interrupt: AbortSignal): Promise<LifeEvent | undefined> {
    switch (effect.kind) {
      case 'none':
        await aborted(interrupt);
        return undefined;
      case 'start':
        return this.#start(effect.instanceId);
      case 'watch':
        return this.#watch(effect.instanceId, effect.startedAtMs, interrupt);
      case 'stop':
        return this.#stop(effect.stopping);
      case 'wait': {
        const { clock } = this.#options;
        await clock.sleep(Math.max(0, effect.untilMs - clock.nowMs()), interrupt);
        return { type: 'backoff-over' };
      }
      case 'clean-up':
        return this.#cleanUp();
    }
  }

  async #start(instanceId: string): Promise<LifeEvent> {
    const { machineId, runtime, volume, clock } = this.#options;
    try {
      const status = await this.#spawn(instanceId);
      if (status.kind === 'lost' && !status.began) return { type: 'never-began', instanceId };
      const startedAtMs = status.kind === 'running' ? status.startedAtMs : clock.nowMs();
      return { type: 'began', instanceId, startedAtMs };
    } catch (error) {
      const { reason, message } = toFerryError(error);
      // It may have begun in spite of the error: only a look can say that nothing of it lives.
      const status = await runtime.adopt(machineId, instanceId);
      if (status.kind === 'running') return { type: 'began', instanceId, startedAtMs: status.startedAtMs };
      if (status.kind === 'exited') return { type: 'began', instanceId, startedAtMs: clock.nowMs() };
      await runtime.kill(machineId, volume.openPaths());
      await volume.detach();
      return { type: 'not-started', instanceId, reason: message, permanent: PERMANENT.includes(reason) };
    }
  }

  async #spawn(instanceId: string) {
    const { machineId, runtime, volume, facts } = this.#options;
    const known = await runtime.adopt(machineId, instanceId);
    if (known.kind !== 'none') return known;
    const { config, placement } = facts();
    const { command, memoryMb } = readConfig(config);
    const attached = await volume.attach();
    const env = buildEnvironment(config, placement, instanceId, attached);
    const spec = { machineId, instanceId, command, env, cwd: workingDirectory(attached), memoryMb };
    try {
      return await runtime.start(spec);
    } catch (error) {
      // Left over from an earlier start.
      if (toFerryError(error).reason !== 'process_alive') throw error;
      await runtime.kill(machineId, []);
      return runtime.start(spec);
    }
  }

  async #watch(instanceId: string, startedAtMs: number, interrupt: AbortSignal): Promise<LifeEvent> {
    const { machineId, runtime, volume, clock, facts } = this.#options;
    const { config, placement } = facts();
    const over = new AbortController();
    this.#checks = new HealthChecks({
      checks: readConfig(config).checks,
      address: placement.bindIp,
      startedAtMs,
      clock,
      onChange: () => this.#announce(),
    });
    const checking = this.#checks.run(AbortSignal.any([interrupt, over.signal]));
    try {
      const ending = await runtime.waitExit(machineId, instanceId, interrupt);
      await runtime.kill(machineId, volume.openPaths());
      await volume.detach();
      return { type: 'ended', instanceId, ending, killed: false };
    } finally {
      over.abort();
      this.#checks = undefined;
      await checking;
    }
  }

  async #stop(stopping: Extract<Effect, { kind: 'stop' }>['stopping']): Promise<LifeEvent> {
    const { machineId, runtime, volume, clock } = this.#options;
    const { instanceId, signal, timeoutMs, signalSentAtMs } = stopping;
    const onSignalSent = async (atMs: number): Promise<void> => {
      await this.#onHeldSignal(atMs);
      await this.#apply({ type: 'signal-sent', instanceId, atMs });
    };
    const openPaths = volume.openPaths();
    const request = { machineId, instanceId, signal, timeoutMs, signalSentAtMs, openPaths, onSignalSent };
    const { ending, killed } = await stopProcess(runtime, clock, request, this.#closed.signal);
    await volume.detach().catch((error) => {
      // Who stays in the volume keeps it from leaving this host, not from being used here again.
      const { hold, desired } = this.#life;
      if (hold !== null || desired !== 'started' || toFerryError(error).reason !== 'volume_busy') throw error;
    });
    return { type: 'ended', instanceId, ending, killed };
  }

  async #cleanUp(): Promise<LifeEvent> {
    const { machineId, runtime, volume } = this.#options;
    await runtime.kill(machineId, volume.openPaths());
    await volume.detach();
    await runtime.forget(machineId);
    return { type: 'cleaned-up' };
  }

  #report(error: FerryError | undefined): void {
    const { log, machineId } = this.#options;
    if (error !== undefined) log.warn({ machine: machineId, err: error, reason: error.reason }, 'will be tried again');
    this.#problem = error;
    if (error !== undefined) this.#announce();
  }

  #announce(): void {
    const waiters = this.#waiters;
    this.#waiters = new Set();
    for (const wake of waiters) wake();
  }

  /** Resolves at the next change of life, health or reason. Rejects when `signal` aborts, or at the close. */
  #change(signal: AbortSignal): Promise<void> {
    const over = AbortSignal.any([signal, this.#closed.signal]);
    over.throwIfAborted();
    return new Promise((resolve, reject) => {
      const stop = (): void => {
        this.#waiters.delete(wake);
        reject(over.reason);
      };
      const wake = (): void => {
        over.removeEventListener('abort', stop);
        resolve();
      };
      over.addEventListener('abort', stop, { once: true });
      this.#waiters.add(wake);
    });
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
