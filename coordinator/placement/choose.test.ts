import { create } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MachineConfigSchema } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { FerryError } from '../../shared/error.ts';
import { choose, chooseHost, requireHost } from './choose.ts';
import { refusalOf } from './refusal.ts';
import { diskReserveBytes, roomOf, sharedPerCpu } from './room.ts';
import type { Need, Site } from './site.ts';
import { needLike, siteLike } from './testing.ts';

const mebibyte = 1024 ** 2;
const gibibyte = 1024 ** 3;
const left = (changes: Partial<Site['left']>) => ({ left: { ...siteLike('x').total, ...changes } });

describe('a host is refused', () => {
  test.each([
    ['excluded', {}, { not: new Map([['h', 'it was excluded']]) }, 'it was excluded'],
    ['excluded', {}, { to: new Set(['other']) }, 'not one of the hosts that were named'],
    ['journal', { journalWentBack: true }, {}, 'its journal went back'],
    ['draining', { draining: 'drn_X', cordoned: true }, {}, 'drained itself, by drn_X'],
    ['cordoned', { cordoned: true }, {}, 'it is cordoned'],
    ['silent', { standing: 'unreachable' }, {}, 'it does not answer'],
    ['silent', { standing: 'unknown' }, {}, 'it does not answer'],
    ['region', { region: 'fra' }, { region: 'ams' }, 'in region fra, not ams'],
    ['capability', { capabilities: new Set<string>() }, { mount: true }, 'cannot mount'],
    ['cpus', left({ cpuShares: 4 }), { room: { cpuShares: sharedPerCpu } }, '0.5 CPUs left, 1 are needed'],
    ['memory', left({ memoryMb: 24 }), { room: { memoryMb: 256 } }, '24 MiB of memory left, 256 are needed'],
    [
      'disk',
      left({ diskBytes: gibibyte }),
      { room: { diskBytes: gibibyte } },
      '1 GiB left for volumes, 1 GiB and 64 MiB',
    ],
  ] as [string, Partial<Site>, Parameters<typeof needLike>[0], string][])('for %s', (kind, host, need, text) => {
    const refusal = refusalOf(siteLike('h', host), needLike(need));
    expect(refusal?.kind).toBe(kind);
    expect(refusal?.text).toContain(text);
  });

  test('but not for what it has just enough of', () => {
    const need = needLike({ room: { cpuShares: 4, memoryMb: 24, diskBytes: gibibyte } });
    const host = left({ cpuShares: 4, memoryMb: 24, diskBytes: gibibyte + diskReserveBytes });
    expect(refusalOf(siteLike('h', host), need)).toBeUndefined();
  });

  test('nor for what the Machine does not need, however little is left', () => {
    const nothing = { cpuShares: -8, memoryMb: -1, diskBytes: 0 };
    expect(refusalOf(siteLike('h', { left: nothing }), needLike())).toBeUndefined();
  });
});

describe('the choice', () => {
  test('fewest Machines of the app first, though another host has more room', () => {
    const roomy = siteLike('roomy', { machinesOfApp: new Map([['shop', 1]]) });
    const full = siteLike('full', left({ memoryMb: 512 }));
    expect(choose([roomy, full], needLike({ room: { memoryMb: 256 } })).site?.id).toBe('full');
  });

  test('then the most room, by what is scarcest', () => {
    const disk = siteLike('disk', left({ diskBytes: 20 * gibibyte }));
    const memory = siteLike('memory', left({ memoryMb: 4096 }));
    expect(choose([disk, memory], needLike({ room: { memoryMb: 64 } })).site?.id).toBe('memory');
  });

  test('then the fewest Machines: a few bytes of difference do not count', () => {
    const busy = siteLike('a', { machines: 3 });
    const calm = siteLike('b', { machines: 2, ...left({ diskBytes: 100 * gibibyte - mebibyte }) });
    expect(choose([busy, calm], needLike()).site?.id).toBe('b');
  });

  test('tightly: the least room that does', () => {
    const big = siteLike('a');
    const small = siteLike('b', left({ memoryMb: 300 }));
    expect(choose([big, small], needLike({ room: { memoryMb: 256 } }), 'tight').site?.id).toBe('b');
  });

  test('is the same in whatever order the hosts come, and never a host that refuses', () => {
    const host = fc.record({
      id: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f'),
      cordoned: fc.boolean(),
      machines: fc.nat(3),
      memoryMb: fc.nat(8192),
      ofApp: fc.nat(2),
    });
    const hosts = fc.uniqueArray(host, { selector: ({ id }) => id, maxLength: 6 });
    fc.assert(
      fc.property(hosts, fc.nat(4096), (drawn, memoryMb) => {
        const sites = drawn.map(({ id, cordoned, machines, memoryMb: free, ofApp }) =>
          siteLike(id, { cordoned, machines, machinesOfApp: new Map([['shop', ofApp]]), ...left({ memoryMb: free }) }),
        );
        const need: Need = needLike({ room: { memoryMb } });
        const { site, refused } = choose(sites, need);
        expect(choose([...sites].reverse(), need).site?.id).toBe(site?.id);
        expect(refused.size).toBe(sites.filter((each) => refusalOf(each, need) !== undefined).length);
        if (site !== undefined) expect(refusalOf(site, need)).toBeUndefined();
        else expect(refused.size).toBe(sites.length);
      }),
    );
  });

  test('without a host says for each why not', () => {
    const hosts = [siteLike('a', { cordoned: true }), siteLike('b', { standing: 'unreachable' })];
    expect(() => chooseHost(hosts, needLike())).toThrow(
      expect.objectContaining({ reason: 'no_host', facts: { a: 'it is cordoned', b: 'it does not answer' } }),
    );
    expect(() => chooseHost([], needLike())).toThrow(FerryError);
  });
});

test.each([
  ['host_cordoned', { cordoned: true }],
  ['host_cordoned', { draining: 'drn_X' }],
  ['journal_went_back', { journalWentBack: true }],
  ['host_unreachable', { standing: 'unreachable' }],
  ['no_host', left({ memoryMb: 1 })],
  ['no_space', left({ diskBytes: 1 })],
] as [string, Partial<Site>][])('a named host that cannot is refused with %s', (reason, changes) => {
  const need = needLike({ room: { memoryMb: 64, diskBytes: 1024 } });
  expect(() => requireHost(siteLike('a', changes), need, 'destination')).toThrow(
    expect.objectContaining({ reason, field: 'destination' }),
  );
});

test('a config needs its memory, its CPUs, and the volumes that it creates; of one that exists the bytes on the disk', () => {
  const config = create(MachineConfigSchema, {
    guest: { cpus: 2, cpuKind: 'performance', memoryMb: 64 },
    mounts: [{ path: '/data', sizeGb: 2 }],
  });
  expect(roomOf(config)).toEqual({ cpuShares: 2 * sharedPerCpu, memoryMb: 64, diskBytes: 2 * gibibyte });
  expect(roomOf(config, 4096).diskBytes).toBe(4096);
  const shared = create(MachineConfigSchema, { guest: { cpus: 2, cpuKind: 'shared' } });
  expect(roomOf(shared).cpuShares).toBe(2);
});
