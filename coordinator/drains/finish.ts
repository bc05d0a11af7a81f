import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { type Drain, DrainMachineState, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import type { DrainDraft } from './book.ts';
import { type DrainEvent, nextOfDrain } from './state.ts';

const { WAITING, MOVING, PARKED } = DrainMachineState;

/** How a drain could end now; undefined while something is left to do. A host may still own what nobody has heard of. */
export function endOf({ machines, state }: Drain): DrainEvent | undefined {
  const has = (wanted: DrainMachineState) => machines.some((machine) => machine.state === wanted);
  if (has(MOVING)) return undefined;
  if (state === DrainState.CANCELLING) return 'wound-up';
  if (has(WAITING)) return undefined;
  return has(PARKED) ? 'stuck' : 'empty';
}

/** Ends a drain and says how. Changes the draft. */
export function end(draft: DrainDraft, event: DrainEvent, nowMs: number, note = ''): void {
  const { drain } = draft;
  const next = nextOfDrain(drain.state, event);
  if (next === undefined) return;
  drain.state = next;
  drain.endedAt = timestampFromMs(nowMs);
  draft.open = false;
  draft.plan.forgetOwed = true;
  delete drain.wait;
  delete drain.remainingMs;
  for (const machine of drain.machines) delete machine.wait;
  drain.message = `${summaryOf(drain)}${note}`;
  drain.nextAction = nextActionOf(drain);
}

/** Opens a drain that was blocked once more. Changes the draft. */
export function reopen(draft: DrainDraft): void {
  const { drain } = draft;
  draft.open = true;
  draft.plan.forgetOwed = false;
  drain.message = '';
  drain.nextAction = '';
  delete drain.endedAt;
}

function summaryOf({ hostId, state, machines }: Drain): string {
  const count = (wanted: DrainMachineState) => machines.filter((machine) => machine.state === wanted).length;
  const moved = `${count(DrainMachineState.MOVED)} of ${machines.length} Machines moved`;
  const gone = count(DrainMachineState.GONE) === 0 ? '' : `, ${count(DrainMachineState.GONE)} left by themselves`;
  switch (state) {
    case DrainState.DONE:
      return `host ${hostId} owns no Machine any more: ${moved}${gone}`;
    case DrainState.BLOCKED:
      return `${moved}${gone}, ${count(PARKED)} parked: they wait for an operator`;
    default:
      return `cancelled: ${moved}${gone}, ${count(WAITING) + count(PARKED)} stay on host ${hostId}`;
  }
}

function nextActionOf({ hostId, state, cordonedByDrain }: Drain): string {
  switch (state) {
    case DrainState.DONE:
      return `Nothing. The host stays cordoned until "ferry host uncordon ${hostId}".`;
    case DrainState.BLOCKED:
      return `Look at the parked Machines with "ferry drain status ${hostId}"; then "ferry drain resume ${hostId}".`;
    default:
      return cordonedByDrain ? `If the host is to take Machines again: "ferry host uncordon ${hostId}".` : '';
  }
}
