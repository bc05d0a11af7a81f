/** One start of a Machine's program. */
export interface StartSpec {
  /** The Machine: 14 lower-case hex characters. */
  readonly machineId: string;
  /** This start, never used again: a ULID. */
  readonly instanceId: string;
  /** Program and arguments. The program is an absolute path, or a name looked up in PATH of `env`. */
  readonly command: readonly string[];
  /** The program's whole environment; the runtime adds a tag of its own to it. */
  readonly env: Readonly<Record<string, string>>;
  /** Working directory, absolute. */
  readonly cwd: string;
  /** Memory limit in MiB; null = none. Has an effect only where `Runtime.limitsMemory` is true. */
  readonly memoryMb: number | null;
}

/** How a program ended. */
export interface Exit {
  /** Null when a signal ended it. */
  readonly exitCode: number | null;
  /** For example "SIGKILL"; null when it exited by itself. */
  readonly signal: string | null;
  /** Whether the kernel killed it, or a process of its, for lack of memory; null = unknown (no cgroup). */
  readonly oomKilled: boolean | null;
  readonly exitedAtMs: number;
}

/** A program that ended. */
export type Ending =
  | { readonly kind: 'exited'; readonly exit: Exit }
  /** It is gone, and nothing recorded how it ended; `began`: whether it may have run at all. */
  | { readonly kind: 'lost'; readonly reason: string; readonly began: boolean };

/** What is known of one start. */
export type ProcessStatus =
  /** Never heard of. */
  | { readonly kind: 'none' }
  /** On its way; the program has not begun. */
  | { readonly kind: 'starting' }
  | { readonly kind: 'running'; readonly pid: number; readonly startedAtMs: number }
  | Ending;

/** A process that belongs to a Machine, or keeps its volume open. */
export interface Survivor {
  readonly pid: number;
  /** Its command line, shortened; for people. */
  readonly command: string;
  /** How it was found: the main process, the Machine's cgroup, its environment tag, or an open volume path. */
  readonly why: 'main' | 'cgroup' | 'tag' | 'open-file';
}

export interface ReadLogOptions {
  /** Lines to give of what is there already; at most 10,000. */
  readonly tailLines: number;
  /** Go on with new lines until `signal` aborts. */
  readonly follow: boolean;
  readonly signal: AbortSignal;
}

/**
 * What an agent needs of anything that runs programs. Programs outlive the agent; `adopt` finds them again.
 * Refusals are `FerryError`s.
 */
export interface Runtime {
  readonly name: string;
  /** Whether memory limits work here, and `Exit.oomKilled` is known. */
  readonly limitsMemory: boolean;

  /** Throws when the program could not be started: not found, not executable, no such working directory. */
  canRun(command: readonly string[], env: Readonly<Record<string, string>>, cwd: string): Promise<void>;

  /**
   * Starts the program, once: the intent is durable before the spawn. Repeated for the same instance it answers with
   * what became of it. Refuses while any process of the Machine is alive.
   */
  start(spec: StartSpec): Promise<Exclude<ProcessStatus, { kind: 'none' | 'starting' }>>;

  /** What is known, without waiting and without changing anything. */
  inspect(machineId: string, instanceId: string): Promise<ProcessStatus>;

  /**
   * Decides, for good, what became of a start whose agent may have died at any point of it. A start that had not begun
   * can never begin afterwards.
   */
  adopt(machineId: string, instanceId: string): Promise<Exclude<ProcessStatus, { kind: 'starting' }>>;

  /** Waits until the main process is gone. Rejects with the reason of `signal` when that aborts. */
  waitExit(machineId: string, instanceId: string, signal: AbortSignal): Promise<Ending>;

  /** Sends a signal to the main process alone. Does nothing when that is gone. */
  signal(machineId: string, instanceId: string, name: NodeJS.Signals): Promise<void>;

  /** SIGKILL to every survivor, until none is left; throws, naming those that stay. */
  kill(machineId: string, openPaths: readonly string[]): Promise<void>;

  /**
   * Every process of the Machine that is alive, and every process that keeps one of `openPaths` (volume files, mount
   * points) open. The Machine is gone when there is none.
   */
  survivors(machineId: string, openPaths: readonly string[]): Promise<Survivor[]>;

  /** Lines that the Machine's programs wrote, over all its starts, oldest first. */
  readLog(machineId: string, options: ReadLogOptions): AsyncIterable<string>;

  /** Removes all traces of a Machine that is gone. */
  forget(machineId: string): Promise<void>;
}
