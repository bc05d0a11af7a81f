import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { type MachineConfig, MachineConfigSchema, type MachineEvent } from '../../proto/gen/ferry/v1/machine_pb.ts';
import type { Clock } from '../../shared/clock.ts';
import { FerryError } from '../../shared/error.ts';
import { silentLog } from '../../shared/log.ts';
import { seededRandom } from '../../shared/random.ts';
import type { Ending, ProcessStatus, Runtime, StartSpec, Survivor } from '../runtime/runtime.ts';
import type { Life } from './lifecycle.ts';
import { type MachineStore, type MachineVolume, Supervisor } from './supervisor.ts';

export const MACHINE_ID = 'd8dd625fed5568';

/** Programs that do what the test says. It outlives supervisors, as processes outlive agents. */
export class FakeRuntime implements Runtime {
  readonly name = 'fake';
  readonly limitsMemory = false;
  readonly trace: string[];
  readonly specs: StartSpec[] = [];
  readonly endings = new Map<string, Ending>();
  /** Who is alive besides the main processes. */
  others: Survivor[] = [];
  /** What the next start throws. */
  refusal: FerryError | undefined;
  /** What a signal does to the program. */
  onSignal: (spec: StartSpec, name: string) => void = (spec, name) => this.end(spec.instanceId, exited(0), name);
  #wake = Promise.withResolvers<void>();

  constructor(trace: string[]) {
    this.trace = trace;
  }

  get last(): StartSpec {
    return this.specs.at(-1)!;
  }

  end(instanceId: string, ending: Ending, why = 'exit'): void {
    this.trace.push(`program ends: ${why}`);
    this.endings.set(instanceId, ending);
    this.#wake.resolve();
    this.#wake = Promise.withResolvers();
  }

  async canRun(): Promise<void> {}

  async start(spec: StartSpec) {
    this.trace.push('start');
    const { refusal } = this;
    this.refusal = undefined;
    if (refusal !== undefined) throw refusal;
    this.specs.push(spec);
    return { kind: 'running', pid: 1, startedAtMs: 1 } as const;
  }

  async inspect(_machineId: string, instanceId: string): Promise<ProcessStatus> {
    return this.adopt(_machineId, instanceId);
  }

  async adopt(_machineId: string, instanceId: string) {
    const ending = this.endings.get(instanceId);
    if (ending !== undefined) return ending;
    const known = this.specs.some((spec) => spec.instanceId === instanceId);
    return known ? ({ kind: 'running', pid: 1, startedAtMs: 1 } as const) : ({ kind: 'none' } as const);
  }

  async waitExit(_machineId: string, instanceId: string, signal: AbortSignal): Promise<Ending> {
    for (;;) {
      signal.throwIfAborted();
      const ending = this.endings.get(instanceId);
      if (ending !== undefined) return ending;
      const stopped = new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
      await Promise.race([this.#wake.promise, stopped]);
    }
  }

  async signal(_machineId: string, _instanceId: string, name: string): Promise<void> {
    this.trace.push(`signal ${name}`);
    this.onSignal(this.last, name);
  }

  async kill(): Promise<void> {
    this.others = [];
    const spec = this.specs.at(-1);
    if (spec === undefined || this.endings.has(spec.instanceId)) return;
    this.end(spec.instanceId, killed(), 'SIGKILL');
  }

  async survivors(): Promise<Survivor[]> {
    return this.others;
  }

  async *readLog(): AsyncIterable<string> {}

  async forget(): Promise<void> {
    this.trace.push('forget');
  }
}

export function exited(exitCode: number): Ending {
  return { kind: 'exited', exit: { exitCode, signal: null, oomKilled: null, exitedAtMs: 2 } };
}

export function killed(): Ending {
  return { kind: 'exited', exit: { exitCode: null, signal: 'SIGKILL', oomKilled: false, exitedAtMs: 2 } };
}

/** A store in memory; what is saved is plain JSON, as a journal would keep it. */
export class FakeStore implements MachineStore {
  readonly trace: string[];
  readonly events: MachineEvent[] = [];
  json: string;
  broken = false;

  constructor(trace: string[], life: Life) {
    this.trace = trace;
    this.json = JSON.stringify(life);
  }

  load(machineId: string): Life | undefined {
    return machineId === MACHINE_ID ? (JSON.parse(this.json) as Life) : undefined;
  }

  save(_machineId: string, life: Life, events: readonly MachineEvent[]): void {
    if (this.broken) throw new FerryError('no_space', 'the disk is full');
    const { status } = life;
    const sent = status.state === 'stopping' && status.signalSentAtMs !== null ? ' signal-sent' : '';
    this.trace.push(`save ${status.state}${sent}`);
    this.json = JSON.stringify(life);
    this.events.push(...events);
  }
}

/** A volume that notes what is done with it. */
export class FakeVolume implements MachineVolume {
  readonly trace: string[];
  /** What the next detaches throw. */
  held: FerryError | undefined;

  constructor(trace: string[]) {
    this.trace = trace;
  }

  async attach() {
    this.trace.push('attach');
    return { path: '/mnt/v', kind: 'ext4' } as const;
  }

  async detach(): Promise<void> {
    if (this.held !== undefined) throw this.held;
    this.trace.push('detach');
  }

  openPaths(): readonly string[] {
    return ['/mnt/v'];
  }
}

/** A Machine with all that its supervisor needs; `restart` is what a new agent process would see. */
export function machine(life: Life, clock: Clock, shape: MessageInitShape<typeof MachineConfigSchema> = {}) {
  const trace: string[] = [];
  const runtime = new FakeRuntime(trace);
  const store = new FakeStore(trace, life);
  const volume = new FakeVolume(trace);
  const config: MachineConfig = create(MachineConfigSchema, { image: 'program', ...shape });
  const placement = { appName: 'app', machineId: MACHINE_ID, region: 'local', privateIp: '::1', bindIp: '127.0.0.1' };
  const random = seededRandom(1);
  const facts = () => ({ config, placement });
  const open = (over: Partial<{ runtime: Runtime }> = {}): Promise<Supervisor> => {
    const options = { machineId: MACHINE_ID, runtime, store, volume, facts, clock, random, log: silentLog };
    return Supervisor.open({ ...options, ...over });
  };
  return { trace, runtime, store, volume, open };
}
