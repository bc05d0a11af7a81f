import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { type MachineEvent, MachineEventSchema, MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import type { Life, LogEntry } from './lifecycle.ts';

/** A log entry as the Machine's event log keeps it. */
export function toMachineEvent(entry: LogEntry, nowMs: number, restartCount: number): MachineEvent {
  const { exit } = entry;
  return create(MachineEventSchema, {
    type: entry.type,
    status: entry.status,
    source: entry.source,
    timestamp: timestampFromMs(nowMs),
    restartCount,
    message: entry.message ?? '',
    ...(exit === undefined
      ? {}
      : {
          exitEvent: {
            guestSignal: exit.signal ?? '',
            requestedStop: exit.requestedStop,
            restarting: exit.restarting,
            exitedAt: timestampFromMs(exit.exitedAtMs),
            ...(exit.exitCode === null ? {} : { exitCode: exit.exitCode }),
            ...(exit.oomKilled === null ? {} : { oomKilled: exit.oomKilled }),
          },
        }),
  });
}

const states = {
  created: MachineState.CREATED,
  starting: MachineState.STARTING,
  started: MachineState.STARTED,
  stopping: MachineState.STOPPING,
  stopped: MachineState.STOPPED,
  restarting: MachineState.RESTARTING,
  failed: MachineState.FAILED,
  destroying: MachineState.DESTROYING,
  destroyed: MachineState.DESTROYED,
  migrated: MachineState.MIGRATED,
} as const;

/** The state that people see: a Machine that a migration holds stopped, against its wish, is migrating. */
export function toMachineState(life: Life): MachineState {
  if (life.hold !== null && life.status.state === 'stopped' && life.desired === 'started')
    return MachineState.MIGRATING;
  return states[life.status.state];
}
