import { expect, test } from 'vitest';
import { DrainMachineState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { type DrainDraft, draftOf } from './book.ts';
import { isMinor } from './round.ts';
import { draftLike } from './testing.ts';

const moving = { machineId: 'm1', state: DrainMachineState.MOVING, migrationId: 'mig_1' };
const machineOf = ({ drain }: DrainDraft) => drain.machines[0]!;

test.each<[string, (draft: DrainDraft) => unknown, boolean]>([
  ['bytes alone', (draft) => Object.assign(machineOf(draft), { bytesDone: 5n }), true],
  ['a move that begins', (draft) => Object.assign(machineOf(draft), { migrationId: 'mig_2' }), false],
  ['a state', (draft) => Object.assign(machineOf(draft), { state: DrainMachineState.MOVED }), false],
  // Not written down, its cancel would look like an operator's as soon as it is through.
  ['a move that is called off', ({ plan }) => plan.calledOff.push('mig_1'), false],
  ['the end', (draft) => Object.assign(draft, { open: false }), false],
])('%s: whether it may be written later', (_what, change, isLater) => {
  const before = { ...draftLike([moving]), version: 1, driver: '' };
  const draft = draftOf(before);
  change(draft);
  expect(isMinor(draft, before)).toBe(isLater);
});
