// Past 300 lines: the port's methods, and the one table (#judge) that says what records mean.
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, readdir, realpath, rm } from 'node:fs/promises';
import { constants } from 'node:os';
import { join } from 'node:path';
import { FerryError } from '../../../shared/error.ts';
import { checkId } from '../../../shared/ids.ts';
import type { Ending, Exit, ProcessStatus, ReadLogOptions, Runtime, StartSpec, Survivor } from '../runtime.ts';
import { Cgroups } from './cgroup.ts';
import { requireDirectory, resolveExecutable } from './executable.ts';
import { isAlive, readBootId } from './identity.ts';
import { Instance, type Intent, type Trace } from './instance.ts';
import { Log } from './log.ts';
import { Processes, TAG_VARIABLE } from './processes.ts';
import { DirectoryWatch, type Sleeper } from './watch.ts';

/** How often a process is looked at when its records do not change: finds a main process whose shim was killed. */
const CHECK_INTERVAL_MS = 1000;
const KILL_ROUND_MS = 20;
const KILL_ROUNDS_MAX = 200;

const SHIM = join(import.meta.dirname, 'shim.sh');

export interface ProcessRuntimeOptions {
  /** Directory for the Machines' logs and records, on a local disk. Two agents never share one. */
  readonly directory: string;
  readonly clock: Sleeper;
  /** PATH for programs whose environment has none, and for the shim's own tools. */
  readonly path: string;
}

type Settled = Exclude<ProcessStatus, { kind: 'starting' }>;

/** Runs Machines as plain processes of this host, each under a shim of its own (see shim.sh). */
export class ProcessRuntime implements Runtime {
  readonly name = 'process';
  readonly #directory: string;
  readonly #clock: Sleeper;
  readonly #path: string;
  readonly #bootId: string;
  readonly #cgroups: Cgroups;
  readonly #processes: Processes;

  private constructor(options: ProcessRuntimeOptions, bootId: string, agentTag: string, cgroups: Cgroups) {
    this.#directory = options.directory;
    this.#clock = options.clock;
    this.#path = options.path;
    this.#bootId = bootId;
    this.#cgroups = cgroups;
    this.#processes = new Processes(agentTag, cgroups);
  }

  /** Finds out what works on this host. */
  static async open(options: ProcessRuntimeOptions): Promise<ProcessRuntime> {
    await mkdir(options.directory, { recursive: true, mode: 0o700 });
    // Two agents on one host have two directories: the tag tells their Machines apart.
    const agentTag = createHash('sha256')
      .update(await realpath(options.directory))
      .digest('hex')
      .slice(0, 16);
    return new ProcessRuntime(options, await readBootId(), agentTag, await Cgroups.detect(agentTag));
  }

  get limitsMemory(): boolean {
    return this.#cgroups.limitsMemory;
  }

  async canRun(command: readonly string[], env: Readonly<Record<string, string>>, cwd: string): Promise<void> {
    await resolveExecutable(command[0], env.PATH ?? this.#path);
    await requireDirectory(cwd);
  }

  async start(spec: StartSpec): Promise<Exclude<Settled, { kind: 'none' }>> {
    const known = await this.adopt(spec.machineId, spec.instanceId);
    if (known.kind !== 'none') return known;
    await this.#requireGone(spec.machineId, 'start');
    const path = spec.env.PATH ?? this.#path;
    const program = await resolveExecutable(spec.command[0], path);
    await requireDirectory(spec.cwd);
    for (const earlier of await this.#instances(spec.machineId)) await rm(earlier.directory, { recursive: true });
    const groups = await this.#cgroups.prepare(spec.machineId, spec.memoryMb);
    const instance = this.#instance(spec.machineId, spec.instanceId);
    await instance.intend({
      machineId: spec.machineId,
      instanceId: spec.instanceId,
      command: spec.command,
      bootId: this.#bootId,
      oomKills: await this.#cgroups.oomKills(spec.machineId),
    });
    const tag = this.#processes.tag(spec.machineId, spec.instanceId);
    const child = await this.#spawn(
      spec.machineId,
      [SHIM, instance.directory, this.#path, groups.join(':'), spec.cwd, program, ...spec.command.slice(1)],
      { ...spec.env, PATH: path, [TAG_VARIABLE]: tag },
    );
    const begun = await this.#untilBegun(instance, spec, child);
    if (begun.kind === 'lost') {
      throw new FerryError('start_failed', `the program did not start: ${begun.reason}`);
    }
    return begun;
  }

  async inspect(machineId: string, instanceId: string): Promise<ProcessStatus> {
    const instance = this.#instance(machineId, instanceId);
    const trace = await instance.trace(this.#bootId);
    if (trace.kind === 'intended') return { kind: 'starting' };
    if (trace.kind === 'shim' && trace.shimAlive) return { kind: 'starting' };
    return (await this.#judge(instance, trace)) ?? { kind: 'starting' };
  }

  async adopt(machineId: string, instanceId: string): Promise<Settled> {
    const instance = this.#instance(machineId, instanceId);
    return this.#settle(instance, async (trace) => {
      // From here on no shim that is still on its way can run the program.
      if (trace.kind === 'intended') await instance.fence();
      return this.#judge(instance, trace);
    });
  }

  async waitExit(machineId: string, instanceId: string, signal: AbortSignal): Promise<Ending> {
    const instance = this.#instance(machineId, instanceId);
    const log = this.#log(machineId);
    const decide = async (trace: Trace): Promise<Settled | undefined> => {
      const judged = await this.#judge(instance, trace);
      return judged?.kind === 'running' ? undefined : judged;
    };
    const status = await this.#settle(instance, decide, { signal, onTick: () => log.rotate() });
    if (status.kind === 'exited' || status.kind === 'lost') return status;
    return { kind: 'lost', reason: 'there is no record of this start', began: true };
  }

  async signal(machineId: string, instanceId: string, name: NodeJS.Signals): Promise<void> {
    const trace = await this.#instance(machineId, instanceId).trace(this.#bootId);
    if (trace.kind !== 'main' || !trace.mainAlive) return;
    send(trace.main.pid, name);
  }

  async kill(machineId: string, openPaths: readonly string[]): Promise<void> {
    for (let round = 0; ; round++) {
      const survivors = await this.survivors(machineId, openPaths);
      if (survivors.length === 0) return;
      if (round === KILL_ROUNDS_MAX) {
        throw new FerryError(
          'process_alive',
          `still alive after SIGKILL: ${survivors.map((s) => `${s.pid} (${s.command}; ${s.why})`).join(', ')}`,
          {
            nextAction:
              'End these processes on the host; one that hangs in the kernel ends when its disk or network answers.',
          },
        );
      }
      await this.#cgroups.kill(machineId);
      for (const survivor of survivors) send(survivor.pid, 'SIGKILL');
      await this.#clock.sleep(KILL_ROUND_MS);
    }
  }

  async survivors(machineId: string, openPaths: readonly string[]): Promise<Survivor[]> {
    // Shims, and the tools that they write the exit record with, hold nothing and end by themselves; killed, they could
    // not record how the program ended.
    const shims = new Map<number, boolean>();
    let mainPid: number | undefined;
    for (const instance of await this.#instances(machineId)) {
      const shim = await instance.readShim();
      const shimAlive = shim !== undefined && (await isAlive(shim, this.#bootId));
      const trace = await instance.trace(this.#bootId);
      const mainAlive = trace.kind === 'main' && trace.mainAlive;
      if (mainAlive) mainPid = trace.main.pid;
      if (shimAlive) shims.set(shim.pid, trace.kind === 'exit' || (trace.kind === 'main' && !mainAlive));
    }
    const found = await this.#processes.find(machineId, openPaths, shims);
    return found.map((survivor) => (survivor.pid === mainPid ? { ...survivor, why: 'main' } : survivor));
  }

  readLog(machineId: string, options: ReadLogOptions): AsyncIterable<string> {
    return this.#log(machineId).read(options, this.#clock);
  }

  async forget(machineId: string): Promise<void> {
    await this.#requireGone(machineId, 'forget');
    await this.#cgroups.remove(machineId);
    await rm(this.#machineDirectory(machineId), { recursive: true, force: true });
  }

  async #spawn(machineId: string, args: string[], env: Record<string, string>): Promise<ChildProcess> {
    const log = await this.#log(machineId).openForAppend();
    try {
      // Its own session, and no pipe to the agent: nothing of it depends on the agent's life.
      const child = spawn('/bin/sh', args, { detached: true, cwd: '/', env, stdio: ['ignore', log.fd, log.fd] });
      await once(child, 'spawn');
      child.unref();
      return child;
    } catch (cause) {
      throw new FerryError('start_failed', `cannot start /bin/sh: ${(cause as Error).message}`, { cause });
    } finally {
      await log.close();
    }
  }

  /** Waits until the program has begun (or has ended already). */
  async #untilBegun(
    instance: Instance,
    spec: StartSpec,
    shim: ChildProcess,
  ): Promise<Exclude<Settled, { kind: 'none' }>> {
    const status = await this.#settle(instance, async (trace) => {
      if (trace.kind === 'intended' && shim.exitCode === null && shim.signalCode === null) return undefined;
      if (trace.kind === 'intended') await instance.fence();
      return this.#judge(instance, trace);
    });
    return status.kind === 'none'
      ? { kind: 'lost', reason: `records of ${spec.instanceId} were removed`, began: true }
      : status;
  }

  /** Reads the records again at each change until `decide` answers. `onTick` is called about once a second. */
  async #settle(
    instance: Instance,
    decide: (trace: Trace) => Promise<Settled | undefined>,
    { signal, onTick }: { signal?: AbortSignal; onTick?: () => Promise<void> } = {},
  ): Promise<Settled> {
    if ((await instance.readIntent()) === undefined) return { kind: 'none' };
    const watch = await DirectoryWatch.on(instance.directory);
    try {
      for (;;) {
        signal?.throwIfAborted();
        const trace = await instance.trace(this.#bootId);
        const status = await decide(trace);
        if (status !== undefined) return status;
        // As long as the program lives nothing else changes: one look at /proc a second is all that a Machine costs.
        for (let quiet = true; quiet; ) {
          await onTick?.();
          const changed = await watch.next(CHECK_INTERVAL_MS, this.#clock, signal);
          quiet = !changed && trace.kind === 'main' && (await isAlive(trace.main, this.#bootId));
        }
      }
    } finally {
      watch.close();
    }
  }

  /** What records mean; undefined when a living process is about to write the next one. */
  async #judge(instance: Instance, trace: Trace): Promise<Settled | undefined> {
    switch (trace.kind) {
      case 'none':
        return { kind: 'none' };
      case 'intended':
        return undefined;
      case 'rebooted':
        return { kind: 'lost', reason: 'the host restarted', began: trace.began };
      case 'fenced':
        return { kind: 'lost', reason: 'the program never began: the agent ended before it was spawned', began: false };
      case 'shim':
        return trace.shimAlive ? undefined : this.#judgeOrphan(instance);
      case 'main':
        if (trace.mainAlive) return { kind: 'running', pid: trace.main.pid, startedAtMs: trace.startedAtMs };
        return trace.shimAlive
          ? undefined
          : { kind: 'lost', reason: 'its shim was killed: the exit code is unknown', began: true };
      case 'exit':
        if (trace.exit.kind === 'refused') return { kind: 'lost', reason: trace.exit.reason, began: false };
        return { kind: 'exited', exit: await this.#exit((await instance.readIntent())!, trace.exit) };
    }
  }

  /** A shim died before the program began; its child may be on the way to begin it. */
  async #judgeOrphan(instance: Instance): Promise<Settled | undefined> {
    const intent = (await instance.readIntent())!;
    if (await this.#processes.anyOf(intent.machineId, intent.instanceId)) return undefined;
    const trace = await instance.trace(this.#bootId);
    if (trace.kind !== 'shim') return this.#judge(instance, trace);
    return { kind: 'lost', reason: 'its shim ended before the program began', began: false };
  }

  async #exit(intent: Intent, record: { status: number; atMs: number }): Promise<Exit> {
    const oomKills = await this.#cgroups.oomKills(intent.machineId);
    const signal = signalName(record.status);
    return {
      exitCode: signal === null ? record.status : null,
      signal,
      oomKilled: oomKills === null || intent.oomKills === null ? null : oomKills > intent.oomKills,
      exitedAtMs: record.atMs,
    };
  }

  async #requireGone(machineId: string, verb: string): Promise<void> {
    const survivors = await this.survivors(machineId, []);
    if (survivors.length === 0) return;
    throw new FerryError(
      'process_alive',
      `cannot ${verb} Machine ${machineId}: alive are ${survivors.map((s) => `${s.pid} (${s.command})`).join(', ')}`,
      { nextAction: 'Stop the Machine first.' },
    );
  }

  #machineDirectory(machineId: string): string {
    return join(this.#directory, checkId('machine', machineId, 'machine_id'));
  }

  #instance(machineId: string, instanceId: string): Instance {
    return new Instance(join(this.#machineDirectory(machineId), checkId('instance', instanceId, 'instance_id')));
  }

  async #instances(machineId: string): Promise<Instance[]> {
    const entries = await readdir(this.#machineDirectory(machineId), { withFileTypes: true }).catch(() => []);
    return entries.filter((entry) => entry.isDirectory()).map((entry) => this.#instance(machineId, entry.name));
  }

  #log(machineId: string): Log {
    return new Log(this.#machineDirectory(machineId));
  }
}

/** sh gives 128+n for a program that signal n ended. */
function signalName(status: number): string | null {
  const entry = Object.entries(constants.signals).find(([, number]) => number === status - 128);
  return entry === undefined ? null : entry[0];
}

/** Sends a signal; a process that ended meanwhile, or is another user's, is left to the caller's next look. */
function send(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ESRCH' && code !== 'EPERM') throw error;
  }
}
