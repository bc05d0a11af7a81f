import type { Clock } from '../../shared/clock.ts';
import type { Ending, Runtime, Survivor } from '../runtime/runtime.ts';

/** How to stop one start of a Machine's program. */
export interface StopRequest {
  readonly machineId: string;
  readonly instanceId: string;
  readonly signal: NodeJS.Signals;
  /** Time between the signal and SIGKILL, in milliseconds. */
  readonly timeoutMs: number;
  /** When an earlier attempt recorded the signal; it is not sent again. */
  readonly signalSentAtMs: number | null;
  /** Volume file and mount point: who keeps one of these open counts as alive. */
  readonly openPaths: readonly string[];
  /** Makes durable that the signal is about to be sent. Awaited before it is. */
  readonly onSignalSent: (atMs: number) => Promise<void> | void;
}

export interface StopResult {
  readonly ending: Ending;
  /** Null when the program had ended before. */
  readonly signalSentAtMs: number | null;
  /** When no process was left. */
  readonly goneAtMs: number;
  /** Whether the main process took SIGKILL. */
  readonly killed: boolean;
  /** Other processes that took SIGKILL. */
  readonly survivors: readonly Survivor[];
}

const SURVIVOR_CHECK_MS = 50;

/**
 * Stops a program: signal to the main process, wait, SIGKILL to everything, and look until nothing is left. Processes
 * that outlive the main one have the rest of the timeout to end by themselves.
 *
 * Can be repeated after a crash at any point: the signal goes at most once, what is left of the timeout is waited for.
 * Throws process_alive, naming the processes, when something survives SIGKILL; rejects when `abort` does, leaving the
 * program as it is.
 */
export async function stopProcess(
  runtime: Runtime,
  clock: Clock,
  request: StopRequest,
  abort: AbortSignal,
): Promise<StopResult> {
  const { machineId, instanceId, openPaths } = request;
  const sentAtMs = await sendSignal(runtime, clock, request);
  // A clock that was set back must not stretch the wait.
  const elapsedMs = sentAtMs === null ? 0 : Math.max(0, clock.nowMs() - sentAtMs);
  const deadline = new Deadline(clock, Math.max(0, request.timeoutMs - elapsedMs), abort);
  try {
    let killed = false;
    let ending = await endsWithin(runtime, request, deadline);
    abort.throwIfAborted();
    if (ending === undefined) {
      killed = true;
      await runtime.kill(machineId, openPaths);
      ending = await runtime.waitExit(machineId, instanceId, abort);
    }
    const survivors = await outlast(runtime, clock, request, deadline);
    abort.throwIfAborted();
    if (survivors.length > 0) await runtime.kill(machineId, openPaths);
    return { ending, signalSentAtMs: sentAtMs, goneAtMs: clock.nowMs(), killed, survivors };
  } finally {
    deadline.cancel();
  }
}

/** Sends the signal unless that was done, or the program has ended; answers when it was sent. */
async function sendSignal(runtime: Runtime, clock: Clock, request: StopRequest): Promise<number | null> {
  const { machineId, instanceId, signal, signalSentAtMs, onSignalSent } = request;
  if (signalSentAtMs !== null) return signalSentAtMs;
  const status = await runtime.inspect(machineId, instanceId);
  if (status.kind !== 'running') return null;
  const nowMs = clock.nowMs();
  await onSignalSent(nowMs);
  await runtime.signal(machineId, instanceId, signal);
  return nowMs;
}

async function endsWithin(runtime: Runtime, request: StopRequest, deadline: Deadline): Promise<Ending | undefined> {
  try {
    return await runtime.waitExit(request.machineId, request.instanceId, deadline.signal);
  } catch (error) {
    if (deadline.signal.aborted) return undefined;
    throw error;
  }
}

/** Who is still alive when the deadline is over. */
async function outlast(
  runtime: Runtime,
  clock: Clock,
  request: StopRequest,
  deadline: Deadline,
): Promise<readonly Survivor[]> {
  for (;;) {
    const survivors = await runtime.survivors(request.machineId, request.openPaths);
    if (survivors.length === 0 || deadline.signal.aborted) return survivors;
    await clock.sleep(SURVIVOR_CHECK_MS, deadline.signal).catch((error) => {
      if (!deadline.signal.aborted) throw error;
    });
  }
}

/** Aborts after a time, or when another signal does. */
class Deadline {
  readonly signal: AbortSignal;
  readonly #over = new AbortController();
  readonly #sleep = new AbortController();

  constructor(clock: Clock, ms: number, abort: AbortSignal) {
    this.signal = AbortSignal.any([this.#over.signal, abort]);
    clock.sleep(ms, this.#sleep.signal).then(
      () => this.#over.abort(),
      () => {},
    );
  }

  cancel(): void {
    this.#sleep.abort();
  }
}
