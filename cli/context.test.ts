import { once } from 'node:events';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { DrainService, HostService } from '../proto/gen/ferry/v1/coordinator_pb.ts';
import { FerryError } from '../shared/error.ts';
import type { RpcServer } from '../shared/rpc/server.ts';
import { Session } from './context.ts';
import { runningDrain } from './drain.fixture.ts';
import { type FakeCoordinator, FakeTerminal, fakeCoordinator, movedMigration } from './fake-coordinator.fixture.ts';

const servers: RpcServer[] = [];
const sleepers: Server[] = [];
/** Nobody listens there. */
const nobody = '127.0.0.1:1';

afterEach(async () => {
  for (const server of sleepers.splice(0)) server.close();
  await Promise.all(servers.splice(0).map((server) => server.close()));
});

async function coordinator(fake: FakeCoordinator): Promise<string> {
  const server = fakeCoordinator(fake);
  servers.push(server);
  return server.listen();
}

/** A call that hears nothing, though it may have arrived. */
function lost(): never {
  throw new FerryError('unreachable', 'the connection broke');
}

test('a call goes on to the next coordinator, and later calls stay with the one that answered', async () => {
  const good = await coordinator({ hosts: { listHosts: () => ({}) } });
  const terminal = new FakeTerminal();
  const session = new Session(terminal, { coordinator: `${nobody},${good}` });
  await session.call((call) => session.client(HostService).listHosts({}, call));
  expect(session.coordinator).toBe(good);
  expect(terminal.stderr).toMatch(/^ferry: the coordinator at 127\.0\.0\.1:1: .*; asking 127\.0\.0\.1:\d+\n$/);
  terminal.stderr = '';
  await session.call((call) => session.client(HostService).listHosts({}, call));
  expect(terminal.stderr).toBe('');
});

test('a coordinator that has lost its store is passed over, too', async () => {
  const cut = await coordinator({
    hosts: {
      listHosts: () => {
        throw new FerryError('store_unreachable', 'Redis does not answer');
      },
    },
  });
  const good = await coordinator({ hosts: { listHosts: () => ({}) } });
  const terminal = new FakeTerminal();
  terminal.env.FERRY_COORDINATOR = `${cut},${good}`;
  expect(await terminal.run('host', 'list')).toBe(0);
});

test('an order that reached nobody goes on to the next coordinator', async () => {
  const good = await coordinator({ drains: { drainHost: () => ({ drain: runningDrain() }) } });
  const session = new Session(new FakeTerminal(), { coordinator: `${nobody},${good}` });
  const { drain } = await session.order((call) => session.client(DrainService).drainHost({ hostId: 'host-1' }, call));
  expect(drain?.id).toBe(runningDrain().id);
});

test('an order that may have arrived is never made twice: whether it was done is unknown', async () => {
  let second = 0;
  const first = await coordinator({ drains: { drainHost: lost } });
  const other = await coordinator({
    drains: {
      drainHost: () => {
        second += 1;
        return {};
      },
    },
  });
  const terminal = new FakeTerminal();
  terminal.env.FERRY_COORDINATOR = `${first},${other}`;
  expect(await terminal.run('host', 'drain', 'host-1')).toBe(4);
  expect(second).toBe(0);
  expect(terminal.stderr).toContain(`the coordinator at ${first} went silent before it answered`);
  expect(terminal.stderr).toContain('whether it was done is unknown [deadline]');
});

test('a connection that breaks after the order was sent leaves it unknown', async () => {
  const torn = createServer((socket) => socket.once('data', () => socket.destroy()));
  torn.listen(0, '127.0.0.1');
  await once(torn, 'listening');
  const terminal = new FakeTerminal();
  const { port } = torn.address() as AddressInfo;
  expect(await terminal.run('host', 'drain', 'host-1', '--coordinator', `127.0.0.1:${port}`)).toBe(4);
  torn.close();
  expect(terminal.stderr).toContain('whether it was done is unknown [deadline]');
});

test('when none answers, all are named', async () => {
  const terminal = new FakeTerminal();
  expect(await terminal.run('host', 'list', '--coordinator', `${nobody},127.0.0.1:2`)).toBe(4);
  expect(terminal.stderr).toContain(`ferry: none of the coordinators ${nobody}, 127.0.0.1:2 answers`);
});

test('with --json nothing but the document is on either stream', async () => {
  const good = await coordinator({ hosts: { listHosts: () => ({}) } });
  const terminal = new FakeTerminal();
  expect(await terminal.run('host', 'list', '--json', '--coordinator', `${nobody},${good}`)).toBe(0);
  expect(terminal.stderr).toBe('');
  expect(JSON.parse(terminal.stdout)).toEqual({ hosts: [] });
});

test('logs and watches go on to the next coordinator, too', async () => {
  const good = await coordinator({
    machines: {
      async *machineLogs() {
        yield { line: 'hello' };
      },
    },
    migrations: {
      async *watchMigration() {
        yield { migration: movedMigration() };
      },
    },
  });
  const terminal = new FakeTerminal();
  terminal.env.FERRY_COORDINATOR = `${nobody},${good}`;
  expect(await terminal.run('machine', 'logs', 'd8dd625fed5568')).toBe(0);
  expect(terminal.stdout).toBe('hello\n');
  expect(await terminal.run('migration', 'watch', movedMigration().id)).toBe(0);
});

/** Takes connections and says nothing, as a process does that was stopped. */
async function frozen(): Promise<string> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  sleepers.push(server);
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

test.each([
  ['a look', ['host', 'list']],
  ['an order', ['host', 'drain', 'host-1']],
  ['a watch', ['migration', 'watch', movedMigration().id]],
])(
  '%s is not kept waiting by a coordinator that stands still: after 1.5 s the next one is asked',
  async (_what, argv) => {
    const good = await coordinator({
      hosts: { listHosts: () => ({}) },
      drains: { drainHost: () => ({ drain: runningDrain() }) },
      migrations: {
        async *watchMigration() {
          yield { migration: movedMigration() };
        },
      },
    });
    const still = await frozen();
    const terminal = new FakeTerminal();
    terminal.env.FERRY_COORDINATOR = `${still},${good}`;
    const done = terminal.run(...argv);
    await terminal.clock.untilSleeping();
    terminal.clock.advance(1499);
    expect(terminal.stderr).toBe('');
    terminal.clock.advance(1);
    expect(await done).toBe(0);
    expect(terminal.stderr).toBe(`ferry: the coordinator at ${still}: it has said nothing for 1.5 s; asking ${good}\n`);
  },
);

test('ctrl-C ends a watch that has not found a coordinator yet', async () => {
  const terminal = new FakeTerminal();
  terminal.env.FERRY_COORDINATOR = `${await frozen()},${await frozen()}`;
  const watching = terminal.run('migration', 'watch', movedMigration().id);
  await terminal.clock.untilSleeping();
  terminal.ctrlC.abort();
  expect(await watching).toBe(130);
});

test.each(['', 'a:1,', 'a:1,b', 'a:1,b:0', Array.from({ length: 17 }, (_, index) => `a:${index + 1}`).join(',')])(
  'no list of coordinators: %j',
  (coordinators) => {
    expect(() => new Session(new FakeTerminal(), { coordinator: coordinators })).toThrow('--coordinator: is');
  },
);
