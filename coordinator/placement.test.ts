import { create } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { HostCapacitySchema } from '../proto/gen/ferry/v1/host_pb.ts';
import { HostStatus, MachineConfigSchema } from '../proto/gen/ferry/v1/machine_pb.ts';
import { FerryError } from '../shared/error.ts';
import { chooseHost, needOf, requireHost } from './placement.ts';
import type { HostRow } from './store/store.ts';

const host = (id: string, changes: Partial<HostRow> = {}): HostRow => ({
  id,
  number: 1,
  region: 'ams',
  address: `${id}:1`,
  agentVersion: '',
  cordoned: false,
  capacity: create(HostCapacitySchema, { memoryMb: 1024n, volumeFreeBytes: 1n << 40n }),
  capabilities: [],
  journalId: '',
  journalCounter: 0n,
  journalWentBack: false,
  lastHeartbeatMs: 0,
  copyLimits: undefined,
  dnsAddress: '',
  notes: [],
  ...changes,
});
const need = { memoryMb: 256n, volumeBytes: 0n, region: '', not: new Map<string, string>() };
const ok = () => HostStatus.OK;
const used = (memoryUsedMb: bigint) =>
  create(HostCapacitySchema, { memoryMb: 1024n, memoryUsedMb, volumeFreeBytes: 1n << 20n });

test('takes the host with the most memory left', () => {
  expect(chooseHost([host('a', { capacity: used(800n) }), host('b'), host('c')], ok, need).id).toBe('b');
});

test('says for each host why not', () => {
  const hosts = [
    host('cordoned', { cordoned: true }),
    host('full', { capacity: used(1000n) }),
    host('here'),
    host('old', { journalWentBack: true }),
    host('small', { capacity: used(0n) }),
    host('away'),
    host('far', { region: 'fra' }),
  ];
  const wanted = { ...need, volumeBytes: 1n << 30n, region: 'ams', not: new Map([['here', 'it is there']]) };
  const status = (each: HostRow) => (each.id === 'away' ? HostStatus.UNREACHABLE : HostStatus.OK);
  let error: unknown;
  try {
    chooseHost(hosts, status, wanted);
  } catch (thrown) {
    error = thrown;
  }
  expect(error).toBeInstanceOf(FerryError);
  expect(error).toMatchObject({
    reason: 'no_host',
    facts: {
      cordoned: 'it is cordoned',
      full: expect.stringContaining('24 MiB of memory left'),
      here: 'it is there',
      old: 'its journal went back',
      small: expect.stringContaining('bytes left for volumes'),
      away: 'it does not answer',
      far: 'it is in region fra',
    },
  });
});

test.each([
  ['host_cordoned', () => ({ cordoned: true }), HostStatus.OK],
  ['journal_went_back', () => ({ journalWentBack: true }), HostStatus.OK],
  ['host_unreachable', () => ({}), HostStatus.UNREACHABLE],
  ['no_host', () => ({ capacity: used(1024n) }), HostStatus.OK],
] as const)('a named host that cannot is refused with %s', (reason, makeChanges, status) => {
  const changes = makeChanges();
  expect(() => requireHost(host('a', changes), status, need, 'destination')).toThrow(
    expect.objectContaining({ reason, field: 'destination' }),
  );
});

test('a config needs its memory and the volumes that it creates', () => {
  const config = create(MachineConfigSchema, { guest: { memoryMb: 64 }, mounts: [{ path: '/data', sizeGb: 2 }] });
  expect(needOf(config)).toEqual({ memoryMb: 64n, volumeBytes: 2n << 30n });
});
