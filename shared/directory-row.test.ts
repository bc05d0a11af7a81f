import { create } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { MachineSchema, MachineState } from '../proto/gen/ferry/v1/machine_pb.ts';
import { directoryRowOf, isNewer, saysTheSame } from './directory-row.ts';

const machine = create(MachineSchema, {
  id: 'd8dd625fed5568',
  app: 'shop',
  state: MachineState.STARTED,
  privateIp: 'fdaa::a',
  bindIp: 'fdaa::a',
  epoch: 2n,
  revision: 5n,
  config: { metadata: { process_group: 'web' }, dns: { skipRegistration: true } },
});
const row = directoryRowOf(machine);

test('a row has the address that the program really has, its group, and whether it runs', () => {
  expect(row).toMatchObject({ bindIp: '', processGroup: 'web', started: true, skipRegistration: true, gone: false });
  expect(directoryRowOf({ ...machine, bindIp: '127.1.2.3' }).bindIp).toBe('127.1.2.3');
  expect(directoryRowOf({ ...machine, config: undefined } as never)).toMatchObject({
    processGroup: 'app',
    metadata: {},
  });
  for (const state of [MachineState.STARTING, MachineState.STOPPING, MachineState.MIGRATING, MachineState.STOPPED])
    expect(directoryRowOf({ ...machine, state }).started).toBe(false);
  expect(directoryRowOf({ ...machine, state: MachineState.DESTROYED })).toMatchObject({ gone: true, started: false });
});

test('the higher epoch is newer, then the higher revision; the same one counts as new', () => {
  expect(isNewer(row, undefined)).toBe(true);
  expect(isNewer({ ...row, epoch: 3n, revision: 0n }, row)).toBe(true);
  expect(isNewer({ ...row, epoch: 1n, revision: 9n }, row)).toBe(false);
  expect(isNewer({ ...row, revision: 4n }, row)).toBe(false);
  expect(isNewer(row, row)).toBe(true);
});

test('a revision alone says nothing new; every other field does', () => {
  expect(saysTheSame({ ...row, revision: 9n }, row)).toBe(true);
  for (const change of [
    { epoch: 3n },
    { started: false },
    { bindIp: '127.1.2.3' },
    { metadata: { a: 'b' } },
    { hostId: 'x' },
  ])
    expect(saysTheSame({ ...row, ...change }, row)).toBe(false);
});
