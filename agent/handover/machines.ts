import type { MachineRecord } from '../../proto/gen/ferry/v1/machine_pb.ts';

/** How a Machine's stop for a migration went. */
export interface MoveStop {
  /** When the signal went; null when there was no process to signal. */
  readonly signalSentAtMs: number | null;
}

/** What the hand-over needs of the part of the agent that runs Machines. */
export interface MovableMachines {
  /** Throws cannot_run or no_space unless this host could run the Machine. */
  canTake(record: MachineRecord): Promise<void>;
  /** From now on nothing starts this Machine until `resume` finds that no migration holds it. Throws machine_busy. */
  hold(machineId: string, migrationId: string): Promise<void>;
  /**
   * Signals the main process once, waits, kills what is left; resolves when nothing of the Machine is seen any more and
   * its volume is detached and synced. `onSignalSent` is durable before the signal goes; with `signalSentAtMs` none goes
   * again. Throws process_alive or volume_busy, naming who stays.
   */
  stop(
    machineId: string,
    options: { signalSentAtMs: number | null; onSignalSent: (atMs: number) => Promise<void> },
    signal: AbortSignal,
  ): Promise<MoveStop>;
  /** Null when no process of the Machine is seen; else who is, in words. */
  survivors(machineId: string): Promise<string | null>;
  /** Takes up a Machine whose row came by a hand-over, or whose hold has ended; starts it if it shall run and may. */
  resume(machineId: string): Promise<void>;
  /** Ends the supervision of a Machine that was given up; its row stays. */
  retire(machineId: string, to: string): Promise<void>;
  /** Removes the logs and records of a Machine that moved away for good; nothing if it is back. */
  forget(machineId: string): Promise<void>;
  /** Resolves when it is healthy, or stays stopped because that is desired. Throws start_failed, or unhealthy in the end. */
  untilUp(machineId: string, deadlineMs: number, signal: AbortSignal): Promise<'healthy' | 'stopped'>;
  /** Why it is not up, in words; empty if it is, or nothing is known. */
  trouble(machineId: string): string;
  /** Resolves when its program runs or is given up. */
  untilStarted(machineId: string, signal: AbortSignal): Promise<void>;
  /** When its program started last, or null while it does not run. */
  startedAtMs(machineId: string): number | null;
  /** Whether the Machine shall run, whatever holds it now. */
  isDesired(machineId: string): boolean;
}
