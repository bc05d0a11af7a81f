import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { connect } from 'node:net';
import packets, { type OptAnswer } from 'dns-packet';
import { afterEach, expect, test } from 'vitest';
import { ManualClock, systemClock } from '../../shared/clock.ts';
import { silentLog } from '../../shared/log.ts';
import { QueryRate } from './rate.ts';
import { DnsServer } from './server.ts';
import { namesOf, row } from './testkit.ts';

const many = Array.from({ length: 90 }, (_, index) => row((4096 + index).toString(16), { app: 'many' }));
const names = namesOf(row('a1'), ...many);
let server: DnsServer;
afterEach(() => server?.close());

async function start(): Promise<number> {
  server = new DnsServer({ names: () => names, clock: systemClock, log: silentLog });
  const address = await server.listen({ host: '127.0.0.1', port: 0 });
  return Number(address.split(':')[1]);
}

const query = (name: string) =>
  packets.encode({ type: 'query', id: 9, questions: [{ name, type: 'AAAA', class: 'IN' }] });

test('UDP and TCP answer on one port; what is too long for one comes by the other', async () => {
  const port = await start();
  const udp = createSocket('udp4');
  const tcp = connect({ host: '127.0.0.1', port });
  try {
    udp.send('', port, '127.0.0.1');
    udp.send(query('many.internal'), port, '127.0.0.1');
    const [datagram] = await once(udp, 'message');
    expect(packets.decode(datagram)).toMatchObject({ id: 9, flag_tc: true, answers: [] });
    const framed = packets.streamEncode({ type: 'query', id: 8, questions: [{ name: 'many.internal', type: 'AAAA' }] });
    tcp.write(framed.subarray(0, 5));
    tcp.end(Buffer.concat([framed.subarray(5), framed]));
    const pieces: Buffer[] = [];
    for await (const piece of tcp) pieces.push(piece as Buffer);
    const bytes = Buffer.concat(pieces);
    const first = packets.streamDecode(bytes);
    expect(first.answers).toHaveLength(90);
    expect(packets.streamDecode(bytes.subarray(2 + bytes.readUInt16BE(0)))).toMatchObject({ id: 8 });
  } finally {
    udp.close();
    tcp.destroy();
  }
});

const padding = { code: 'PADDING', length: 5000 };
const option = { type: 'OPT', name: '.', udpPayloadSize: 512, extendedRcode: 0, ednsVersion: 0, flags: 0 };
const padded = { ...option, flag_do: false, options: [padding] } as unknown as OptAnswer;

test.each([
  [
    'a query that is too long',
    packets.streamEncode({ questions: [{ name: 'shop.internal', type: 'AAAA' }], additionals: [padded] }),
  ],
  ['an answer instead of a query', Buffer.concat([Buffer.from([0, 12]), Buffer.from([0, 1, 0x80]), Buffer.alloc(9)])],
])('a connection that sends %s is closed without an answer, and the next one is served', async (_, bytes) => {
  const port = await start();
  const bad = connect({ host: '127.0.0.1', port });
  bad.on('error', () => {});
  bad.on('data', () => expect.unreachable());
  bad.write(bytes);
  await once(bad, 'close');
  const good = connect({ host: '127.0.0.1', port });
  good.end(packets.streamEncode({ type: 'query', id: 1, questions: [{ name: 'shop.internal', type: 'AAAA' }] }));
  const [reply] = await once(good, 'data');
  expect(packets.streamDecode(reply).answers).toHaveLength(1);
  good.destroy();
});

test('whoever hoards connections locks nobody out', async () => {
  const port = await start();
  const hoard = Array.from({ length: 64 }, () => connect({ host: '127.0.0.1', port }).on('error', () => {}));
  await Promise.all(hoard.map((each) => once(each, 'connect')));
  const closed = once(hoard[0]!.resume(), 'close');
  const one = connect({ host: '127.0.0.1', port });
  one.write(packets.streamEncode({ type: 'query', id: 1, questions: [{ name: 'shop.internal', type: 'AAAA' }] }));
  const [reply] = await once(one, 'data');
  expect(packets.streamDecode(reply).answers).toHaveLength(1);
  await closed;
  for (const each of [...hoard, one]) each.destroy();
});

test('a port that is taken is said', async () => {
  const port = await start();
  const second = new DnsServer({ names: () => names, clock: systemClock, log: silentLog });
  await expect(second.listen({ host: '127.0.0.1', port })).rejects.toMatchObject({
    reason: 'invalid_argument',
    field: '--dns-listen',
  });
});

test('one client gets so many answers at once, so many a second after that, and does not use up those of others', () => {
  const clock = new ManualClock();
  const rate = new QueryRate(clock, 10, 5);
  const allowed = (client: string, tries: number) =>
    Array.from({ length: tries }, () => rate.allows(client)).filter(Boolean).length;
  expect(allowed('a', 20)).toBe(5);
  expect(allowed('b', 1)).toBe(1);
  clock.advance(200);
  expect(allowed('a', 20)).toBe(2);
  clock.advance(60_000);
  expect(allowed('a', 20)).toBe(5);
});
