import type { Machine } from '../proto/gen/ferry/v1/machine_pb.ts';
import { FerryError } from '../shared/error.ts';
import type { Session } from './context.ts';
import { stateOf } from './output/machine.ts';

/** The Machine of an answer, which always has one. */
export function present(machine: Machine | undefined): Machine {
  if (machine === undefined) throw new FerryError('internal', 'the coordinator answered without the Machine');
  return machine;
}

/** "Machine d8dd625fed5568 (web-1) is started on host-1". */
export function tell(session: Session, machine: Machine | undefined, note = ''): void {
  const { id, name, hostId, reason } = present(machine);
  session.line(`Machine ${id} (${name}) is ${stateOf(present(machine))} on ${hostId}.`);
  if (note !== '') session.line(`  note: ${note}`);
  if (reason !== '') session.line(`  why:  ${reason}`);
}
