import { create } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { PlacementRowSchema } from '../proto/gen/ferry/v1/host_pb.ts';
import { HostStatus } from '../proto/gen/ferry/v1/machine_pb.ts';
import { Harness, refusal } from './testing/harness.ts';

const machine = 'd8dd625fed5568';

async function twoHosts(): Promise<Harness> {
  const harness = new Harness();
  harness.world.add('h1').give(machine);
  harness.world.add('h2');
  await harness.start();
  return harness;
}

const agent = (harness: Harness, host: string) => harness.world.agents.get(host)!;

test('heartbeats fill roster and directory; the answer tells number, interval and the other hosts', async () => {
  await using harness = await twoHosts();
  const { hosts } = await harness.hosts.listHosts({});
  expect(hosts).toMatchObject([
    { id: 'h1', status: HostStatus.OK, machineCount: 1, region: 'test', reason: '' },
    { id: 'h2', status: HostStatus.OK, machineCount: 0 },
  ]);
  expect(hosts[0]?.number).toBeGreaterThan(0);
  const answer = await harness.hosts.heartbeat(agent(harness, 'h1').heartbeat());
  expect(answer).toMatchObject({ hostNumber: hosts[0]?.number, intervalMs: 2000, journalWentBack: false });
  expect(answer.roster).toMatchObject([{ id: 'h2', address: 'h2:1' }]);
});

test('the roster travels only to agents that do not have it; all hosts are read once for many reports', async () => {
  await using harness = await twoHosts();
  const report = (rosterVersion = '') =>
    harness.hosts.heartbeat(Object.assign(agent(harness, 'h1').heartbeat(), { rosterVersion }));
  let reads = 0;
  const { hosts } = harness.store;
  harness.store.hosts = () => {
    reads += 1;
    return hosts.call(harness.store);
  };
  harness.advance(1000);
  const first = await report();
  expect(first.roster).toHaveLength(1);
  const before = reads;
  for (let times = 0; times < 5; times += 1) {
    expect(await report(first.rosterVersion)).toMatchObject({ roster: [], rosterVersion: first.rosterVersion });
  }
  expect(reads).toBe(before);
  const moved = Object.assign(agent(harness, 'h2').heartbeat(), { address: 'h2:2' });
  await harness.hosts.heartbeat(moved);
  expect((await report(first.rosterVersion)).roster).toMatchObject([{ id: 'h2', address: 'h2:2' }]);
  // What another coordinator has heard is known a moment later.
  await harness.store.recordHeartbeat({
    ...(await harness.store.host('h2'))!,
    id: 'h3',
    address: 'h3:1',
    rememberedNumber: 0,
    atMs: 0,
  });
  harness.advance(250);
  expect((await report(first.rosterVersion)).roster.map(({ id }) => id)).toEqual(['h2', 'h3']);
});

test('a host is unreachable after three missed heartbeats; its Machines are shown as last seen', async () => {
  await using harness = await twoHosts();
  agent(harness, 'h1').silent = true;
  harness.advance(6000);
  expect((await harness.hosts.getHostStatus({ hostId: 'h1' })).host?.status).toBe(HostStatus.OK);
  harness.advance(1);
  const { host, machines } = await harness.hosts.getHostStatus({ hostId: 'h1' });
  expect(host).toMatchObject({ status: HostStatus.UNREACHABLE });
  expect(host?.reason).toContain('no heartbeat since');
  expect(machines).toMatchObject([{ id: machine, hostStatus: HostStatus.UNREACHABLE }]);
  const { machine: seen } = await harness.machines.getMachine({ machineId: machine });
  expect(seen).toMatchObject({ id: machine, hostStatus: HostStatus.UNREACHABLE });
  agent(harness, 'h1').silent = false;
  await harness.beat();
  expect((await harness.machines.listMachines({})).machines).toMatchObject([{ hostStatus: HostStatus.OK }]);
});

test('after a start of the coordinator a silent host is unknown at first, not unreachable', async () => {
  await using harness = await twoHosts();
  await harness.crash();
  for (const each of harness.world.agents.values()) each.silent = true;
  harness.advance(60_000);
  await harness.start();
  expect((await harness.hosts.getHostStatus({ hostId: 'h1' })).host?.status).toBe(HostStatus.UNKNOWN);
  harness.advance(6001);
  expect((await harness.hosts.getHostStatus({ hostId: 'h1' })).host?.status).toBe(HostStatus.UNREACHABLE);
});

test('a journal that went back is told to the agent and the operator, and gets no Machines until it is back', async () => {
  await using harness = await twoHosts();
  const { journalCounter } = agent(harness, 'h2');
  agent(harness, 'h2').journalCounter = 0n;
  const answer = await harness.hosts.heartbeat(agent(harness, 'h2').heartbeat());
  expect(answer).toMatchObject({ journalWentBack: true, knownJournalCounter: journalCounter });
  harness.advance(2000);
  expect(await harness.hosts.heartbeat(agent(harness, 'h2').heartbeat())).toMatchObject({ journalWentBack: true });
  const { host } = await harness.hosts.getHostStatus({ hostId: 'h2' });
  expect(host).toMatchObject({ cordoned: true });
  expect(host?.reason).toContain('went back');
  expect(await refusal(harness.migrate(machine, 'h2'))).toMatchObject({ reason: 'journal_went_back' });
  expect(await refusal(harness.hosts.uncordonHost({ hostId: 'h2' }))).toMatchObject({ reason: 'journal_went_back' });
  agent(harness, 'h2').journalCounter = 100n;
  await harness.beat();
  const { host: back } = await harness.hosts.uncordonHost({ hostId: 'h2' });
  expect(back).toMatchObject({ cordoned: false, reason: '' });
});

test('a single report with an older journal, which waited somewhere while the agent went on, changes nothing', async () => {
  await using harness = await twoHosts();
  const late = agent(harness, 'h2').heartbeat();
  agent(harness, 'h2').journalCounter += 100n;
  await harness.beat();
  for (let tries = 0; tries < 3; tries += 1) {
    expect(await harness.hosts.heartbeat(late)).toMatchObject({ journalWentBack: true });
  }
  await harness.beat();
  harness.advance(2000);
  expect(await harness.hosts.heartbeat(late)).toMatchObject({ journalWentBack: true });
  await harness.beat();
  const { host } = await harness.hosts.getHostStatus({ hostId: 'h2' });
  expect(host).toMatchObject({ cordoned: false, reason: '' });
});

test('a cordon that its host missed is told again', async () => {
  await using harness = await twoHosts();
  agent(harness, 'h2').silent = true;
  await harness.hosts.cordonHost({ hostId: 'h2' });
  expect(agent(harness, 'h2').cordoned).toBe(false);
  agent(harness, 'h2').silent = false;
  await harness.until(async () => agent(harness, 'h2').cordoned || undefined);
});

test('only a host that owns nothing and is gone can be removed; its number stays used', async () => {
  await using harness = await twoHosts();
  const number = (await harness.hosts.getHostStatus({ hostId: 'h2' })).host?.number;
  for (const hostId of ['h1', 'h2']) {
    expect(await refusal(harness.hosts.removeHost({ hostId }))).toMatchObject({
      reason: 'invalid_argument',
      field: 'host_id',
    });
  }
  agent(harness, 'h2').silent = true;
  harness.advance(7000);
  await harness.hosts.removeHost({ hostId: 'h2' });
  expect(await refusal(harness.hosts.getHostStatus({ hostId: 'h2' }))).toMatchObject({ reason: 'unknown_host' });
  agent(harness, 'h2').silent = false;
  await harness.beat();
  expect((await harness.hosts.getHostStatus({ hostId: 'h2' })).host?.number).not.toBe(number);
});

test('the number of a network that only an agent remembers is taken from its addresses', async () => {
  await using harness = new Harness();
  harness.world.add('h1').give(machine).privateIp = 'fdaa:0:1234:0:1:0:1:0';
  await harness.start();
  expect((await harness.store.networks()).get('alpha')).toBe(0x1234);
});

test('the number of a network is recorded once for many reports, and again after a while', async () => {
  await using harness = await twoHosts();
  const recorded: string[] = [];
  const { networkNumber } = harness.store;
  harness.store.networkNumber = (network, remembered) => {
    recorded.push(network);
    return networkNumber.call(harness.store, network, remembered);
  };
  harness.advance(30_000);
  for (let times = 0; times < 3; times += 1) await harness.hosts.heartbeat(agent(harness, 'h1').heartbeat());
  expect(recorded).toEqual(['alpha']);
  harness.advance(30_000);
  await harness.hosts.heartbeat(agent(harness, 'h1').heartbeat());
  expect(recorded).toEqual(['alpha', 'alpha']);
});

test.each([
  ['host_id', { hostId: 'H 1' }],
  ['region', { region: '' }],
  ['address', { address: 'nowhere' }],
  ['journal_id', { journalId: '' }],
  ['placements[0].machine.id', { placements: [create(PlacementRowSchema)] }],
  ['capabilities', { capabilities: Array.from({ length: 65 }, () => 'x') }],
])('a heartbeat with a wrong %s is refused', async (field, changes) => {
  await using harness = await twoHosts();
  const call = harness.hosts.heartbeat(Object.assign(agent(harness, 'h1').heartbeat(), changes));
  expect(await refusal(call)).toMatchObject({ reason: 'invalid_argument', field });
});
