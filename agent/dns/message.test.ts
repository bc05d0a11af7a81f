import packets, { type Packet, type Question } from 'dns-packet';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ttlSeconds } from './answer.ts';
import { respond, udpBytesMax } from './message.ts';
import { namesOf, row } from './testkit.ts';

const names = namesOf(
  row('a1', { metadata: { role: 'primary' } }),
  row('a2', { region: 'fra' }),
  row('b1', { app: 'db', bindIp: '127.5.6.7' }),
  row('c1', { app: 'off', started: false }),
  ...Array.from({ length: 300 }, (_, index) => row((4096 + index).toString(16), { app: 'many' })),
);

const edns = {
  type: 'OPT',
  name: '.',
  udpPayloadSize: 4096,
  extendedRcode: 0,
  ednsVersion: 0,
  flags: 0,
  flag_do: false,
  options: [],
} as const;
const withEdns = { additionals: [{ ...edns, options: [] }] };

function query(name: string, type: string, more: Partial<Packet> = {}): Buffer {
  const question = { name, type, class: 'IN' } as Question;
  return packets.encode({ type: 'query', id: 4711, flags: packets.RECURSION_DESIRED, questions: [question], ...more });
}

function ask(name: string, type = 'AAAA', more: Partial<Packet> = {}, transport: 'udp' | 'tcp' = 'udp') {
  const reply = respond(query(name, type, more), transport, names);
  return { ...packets.decode(reply!), bytes: reply!.length } as packets.DecodedPacket & {
    rcode: string;
    bytes: number;
  };
}

const data = (packet: Packet) => (packet.answers ?? []).map((each) => ('data' in each ? each.data : each));

describe('an answer', () => {
  test('repeats ID, question and capitals, speaks for the zone, and may be kept for a moment only', () => {
    const reply = ask('ShOp.InTeRnAl');
    expect(reply).toMatchObject({
      id: 4711,
      type: 'response',
      rcode: 'NOERROR',
      flag_aa: true,
      flag_rd: true,
      flag_ra: false,
      flag_tc: false,
    });
    expect(reply.questions).toEqual([{ name: 'ShOp.InTeRnAl', type: 'AAAA', class: 'IN' }]);
    expect(data(reply).sort()).toEqual(['fdaa:0:1:0:1:0:a1:0', 'fdaa:0:1:0:1:0:a2:0']);
    for (const each of reply.answers ?? []) expect(each).toMatchObject({ name: 'ShOp.InTeRnAl', ttl: ttlSeconds });
    expect(ttlSeconds).toBeLessThanOrEqual(5);
  });

  test('is mixed, so that callers who take the first spread over all', () => {
    const firsts = new Set(Array.from({ length: 40 }, () => data(ask('shop.internal'))[0]));
    expect(firsts.size).toBe(2);
  });

  test.each(['db.internal', `${'b1'.padEnd(14, '0')}.vm.db.internal`])(
    '%s has only the address that is there',
    (name) => {
      expect(data(ask(name, 'A'))).toEqual(['127.5.6.7']);
      expect(ask(name, 'AAAA')).toMatchObject({ rcode: 'NOERROR', answers: [] });
    },
  );

  test('of text comes in pieces that belong together', () => {
    const [pieces] = data(ask('all.vms.many.internal', 'TXT', {}, 'tcp')) as Buffer[][];
    const text = pieces!.map(String);
    expect(text.length).toBeGreaterThan(1);
    expect(text.join('').split(',')).toHaveLength(300);
  });

  test('without data or name carries the zone, kept for a moment only', () => {
    for (const [name, type, rcode] of [
      ['off.internal', 'AAAA', 'NOERROR'],
      ['shop.internal', 'MX', 'NOERROR'],
      ['shop.internal', 'TXT', 'NOERROR'],
      ['vms.shop.internal', 'AAAA', 'NOERROR'],
      ['vm.shop.internal', 'AAAA', 'NOERROR'],
      ['nobody.internal', 'AAAA', 'NXDOMAIN'],
      ['syd.shop.internal', 'A', 'NXDOMAIN'],
    ] as const) {
      const reply = ask(name, type);
      expect({ name, ...reply }).toMatchObject({ name, rcode, flag_aa: true, answers: [] });
      expect(reply.authorities).toMatchObject([
        { name: 'internal', type: 'SOA', ttl: ttlSeconds, data: { minimum: ttlSeconds } },
      ]);
    }
  });

  test('to ANY is one small record; zones are not transferred; other zones and classes are refused', () => {
    expect(ask('many.internal', 'ANY')).toMatchObject({ rcode: 'NOERROR', answers: [{ type: 'HINFO' }] });
    expect(ask('many.internal', 'ANY').bytes).toBeLessThan(100);
    for (const type of ['AXFR', 'IXFR']) expect(ask('internal', type)).toMatchObject({ rcode: 'REFUSED', answers: [] });
    for (const name of ['example.com', 'shop.internal.example.com', 'notinternal', '.'])
      expect(ask(name)).toMatchObject({ rcode: 'REFUSED', flag_aa: false, answers: [] });
    const chaos = { name: 'version.bind', type: 'TXT', class: 'CH' } as const;
    expect(ask('', '', { questions: [chaos] })).toMatchObject({ rcode: 'REFUSED' });
  });

  test('that is too long for UDP says so, and comes whole by TCP, at most 100 addresses', () => {
    expect(ask('many.internal')).toMatchObject({ flag_tc: true, rcode: 'NOERROR', answers: [] });
    expect(ask('many.internal', 'AAAA', withEdns)).toMatchObject({ flag_tc: true, answers: [] });
    expect(ask('top40.nearest.of.many.internal', 'AAAA', withEdns)).toMatchObject({ flag_tc: true, answers: [] });
    expect(ask('top15.nearest.of.many.internal', 'AAAA', withEdns).answers).toHaveLength(15);
    const whole = ask('many.internal', 'AAAA', {}, 'tcp');
    expect(whole.flag_tc).toBe(false);
    expect(new Set(data(whole)).size).toBe(100);
    expect(data(ask('top3.nearest.of.many.internal'))).toHaveLength(3);
  });

  test('knows EDNS: its own size, and no version but 0', () => {
    expect(ask('shop.internal').additionals).toEqual([]);
    expect(ask('shop.internal', 'AAAA', withEdns).additionals).toMatchObject([
      { type: 'OPT', udpPayloadSize: udpBytesMax },
    ]);
    const newer = ask('shop.internal', 'AAAA', { additionals: [{ ...edns, options: [], ednsVersion: 1 }] });
    expect(newer).toMatchObject({ answers: [], additionals: [{ extendedRcode: 1 }] });
    const twice = {
      additionals: [
        { ...edns, options: [] },
        { ...edns, options: [] },
      ],
    };
    expect(ask('shop.internal', 'AAAA', twice)).toMatchObject({ rcode: 'FORMERR' });
  });
});

describe('a hostile packet', () => {
  const header = (counts: readonly number[], flags = 0) => {
    const bytes = Buffer.alloc(12);
    for (const [index, value] of [4711, flags, ...counts].entries()) bytes.writeUInt16BE(value, index * 2);
    return bytes;
  };
  const rcodeOf = (packet: Buffer) =>
    (packets.decode(respond(packet, 'udp', names)!) as unknown as { rcode: string }).rcode;

  test.each([
    ['no question', header([0, 0, 0, 0])],
    ['65,535 questions', header([65_535, 0, 0, 0])],
    [
      'two questions',
      packets.encode({ type: 'query', questions: [1, 2].map(() => ({ name: 'shop.internal', type: 'A' as const })) }),
    ],
    ['answers in a query', header([1, 1, 0, 0])],
    ['65,535 additional records', header([1, 0, 0, 65_535])],
    ['a name that points at itself', Buffer.concat([header([1, 0, 0, 0]), Buffer.from([0xc0, 12, 0, 28, 0, 1])])],
    ['a name that points ahead', Buffer.concat([header([1, 0, 0, 0]), Buffer.from([0xc0, 14, 0xc0, 12, 0, 28, 0, 1])])],
    ['a name that points into the header', Buffer.concat([header([1, 0, 0, 0]), Buffer.from([0xc0, 4, 0, 28, 0, 1])])],
    ['a label that ends too late', Buffer.concat([header([1, 0, 0, 0]), Buffer.from([63, 97, 0])])],
    [
      'a dot within a label',
      Buffer.concat([header([1, 0, 0, 0]), Buffer.from('\x0dshop.internal\x00\x00\x1c\x00\x01', 'latin1')]),
    ],
    [
      'bytes that are no text',
      Buffer.concat([header([1, 0, 0, 0]), Buffer.from('\x02\xff\xfe\x08internal\x00\x00\x1c\x00\x01', 'latin1')]),
    ],
  ])('with %s is malformed, and the answer no longer than it', (_, packet) => {
    expect(rcodeOf(packet)).toBe('FORMERR');
    expect(respond(packet, 'udp', names)!.length).toBeLessThanOrEqual(packet.length);
  });

  test('that is an answer, or no packet at all, is not answered', () => {
    expect(respond(header([1, 0, 0, 0], 0x8000), 'udp', names)).toBeNull();
    expect(respond(Buffer.alloc(11), 'udp', names)).toBeNull();
    expect(respond(Buffer.alloc(0), 'tcp', names)).toBeNull();
  });

  test('that updates or notifies is not implemented', () => {
    for (const opcode of [1, 2, 4, 5, 15]) expect(rcodeOf(header([1, 0, 0, 0], opcode << 11))).toBe('NOTIMP');
  });

  test('of random bytes never throws, never answers more than fits, and an error never more than was asked', () => {
    const holds = (packet: Buffer) => {
      const reply = respond(packet, 'udp', names);
      if (reply === null) return;
      expect(reply.length).toBeLessThanOrEqual(udpBytesMax);
      const { rcode, questions } = packets.decode(reply) as unknown as { rcode: string; questions: unknown[] };
      if (questions.length === 0) expect(reply.length).toBeLessThanOrEqual(packet.length);
      expect(['NOERROR', 'FORMERR', 'NXDOMAIN', 'REFUSED', 'NOTIMP']).toContain(rcode);
    };
    const bytes = fc.uint8Array({ minLength: 0, maxLength: 300 }).map((each) => Buffer.from(each));
    const question = fc
      .tuple(bytes, fc.constantFrom(0, 0x100))
      .map(([rest, flags]) => Buffer.concat([header([1, 0, 0, 0], flags), rest]));
    const bent = fc.tuple(fc.nat(60), fc.nat(255), fc.nat(80)).map(([at, value, end]) => {
      const packet = query('top3.nearest.of.shop.internal', 'AAAA', withEdns);
      packet[Math.min(at, packet.length - 1)] = value;
      return packet.subarray(0, Math.max(packet.length - end, 0));
    });
    fc.assert(fc.property(fc.oneof(bytes, question, bent), holds), { numRuns: 5000, seed: 1 });
  });

  test('every type of question is answered in kind', () => {
    for (let type = 0; type < 65_536; type += 1) {
      const packet = query('shop.internal', 'A');
      packet.writeUInt16BE(type, packet.length - 4);
      const reply = respond(packet, 'udp', names)!;
      expect(reply.subarray(12, packet.length)).toEqual(packet.subarray(12));
    }
  });
});
