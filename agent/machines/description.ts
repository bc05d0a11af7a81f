import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import {
  DesiredState,
  HostStatus,
  type Machine,
  type MachineEvent,
  MachineSchema,
} from '../../proto/gen/ferry/v1/machine_pb.ts';
import type { MachineRow } from '../journal.ts';
import type { Placement } from './environment.ts';
import { toMachineState } from './events.ts';
import type { Supervisor } from './supervisor.ts';

/** What a Machine's description holds besides its row. */
export interface DescriptionFacts {
  readonly host: string;
  readonly placement: Placement;
  readonly supervisor: Supervisor | undefined;
  /** Why it is not supervised, in words. */
  readonly refusal: string | undefined;
  /** The migration that holds it stopped, or null. */
  readonly heldBy: string | null;
  /** Its event log, or none. */
  readonly events: MachineEvent[];
}

/** A Machine as others see it. */
export function describeMachine(row: MachineRow, facts: DescriptionFacts): Machine {
  const { host, placement, supervisor, refusal, heldBy, events } = facts;
  const { record, runtime } = row;
  return create(MachineSchema, {
    id: row.id,
    name: record.name,
    app: record.app,
    network: record.network,
    state: toMachineState(runtime),
    desiredState: desiredStates[runtime.desired],
    instanceId: runtime.instanceId,
    privateIp: placement.privateIp,
    bindIp: placement.bindIp,
    region: placement.region,
    hostId: host,
    ...(record.config === undefined ? {} : { config: record.config }),
    epoch: BigInt('epoch' in row.placement ? row.placement.epoch : 0),
    volumeId: row.volumeId,
    events,
    checks: (supervisor?.checks ?? []).map((check) => ({
      name: check.name,
      status: check.status,
      output: check.output,
      ...(check.updatedAtMs === null ? {} : { updatedAt: timestampFromMs(check.updatedAtMs) }),
    })),
    hostStatus: HostStatus.OK,
    migrationId: heldBy ?? '',
    ...(record.createdAt === undefined ? {} : { createdAt: record.createdAt }),
    updatedAt: timestampFromMs(row.updatedAtMs),
    reason: refusal ?? supervisor?.reason ?? '',
  });
}

const desiredStates = {
  started: DesiredState.STARTED,
  stopped: DesiredState.STOPPED,
  destroyed: DesiredState.DESTROYED,
} as const;
