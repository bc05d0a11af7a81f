import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { copyFileSync, existsSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { freePort } from '../../cli/cluster.ts';
import { type Machine, MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { seededRandom } from '../../shared/random.ts';
import { TestCluster } from '../harness/cluster.ts';
import { dig, hasDig } from '../harness/dig.ts';
import { handoverAt } from '../harness/drive.ts';
import { listenerConfig } from '../harness/listener.ts';

const hosts = ['host-a', 'host-b', 'host-c'];
const regions: Readonly<Record<string, string>> = { 'host-a': 'ams', 'host-b': 'fra', 'host-c': 'fra' };
const directoryFiles = ['directory.db', 'directory.db-wal', 'directory.db-shm'];
/** Takes a second to end, so that a move can be looked at. */
const slow = listenerConfig({ stopMs: 1000 });

let cluster: TestCluster;
let resolvers: Record<string, string>;
beforeEach(async () => {
  resolvers = {};
  for (const host of hosts) resolvers[host] = `127.0.0.1:${await freePort()}`;
  cluster = await TestCluster.start({
    hosts,
    agentFlags: (host) => ({ region: regions[host]!, 'dns-listen': resolvers[host]!, 'driver-silence': '60s' }),
  });
});
afterEach(async () => cluster?.[Symbol.asyncDispose]());

/** The address that a Machine's program has: 6PN as root, else 127.x.y.z. */
function addressOf({ privateIp, bindIp }: Machine): { type: 'AAAA' | 'A'; address: string } {
  return bindIp === privateIp ? { type: 'AAAA', address: plain(privateIp) } : { type: 'A', address: bindIp };
}

/** As tools write it: the longest run of zeros left out. */
function plain(address: string): string {
  return new URL(`http://[${address}]`).hostname.slice(1, -1);
}

/** Waits until each agent answers for the Machine as it is now. */
async function untilKnown(machine: Machine, at: readonly string[] = hosts): Promise<void> {
  const { type, address } = addressOf(machine);
  for (const host of at) {
    await cluster.until(`${host} answers where ${machine.id} is`, async () => {
      const { answers } = await dig(resolvers[host]!, `${machine.id}.vm.${machine.app}.internal`, type);
      return answers.length === 1 && answers[0] === address;
    });
  }
}

const answersAt = async (host: string, name: string, type: string) => (await dig(resolvers[host]!, name, type)).answers;

describe.skipIf(!hasDig)('names (needs dig)', () => {
  test('every name, at every agent, before, during and after a move', async () => {
    const metadata = { process_group: 'web', role: 'primary' };
    const one = await cluster.run({ ...slow, metadata }, { host: 'host-a', app: 'shop' });
    const two = await cluster.run(slow, { host: 'host-b', app: 'shop' });
    const off = await cluster.run(slow, { host: 'host-b', app: 'shop' });
    await cluster.run({ ...slow, dns: { skipRegistration: true } }, { host: 'host-b', app: 'hidden' });
    await cluster.machines.stopMachine({ machineId: off.id }, { timeoutMs: 20_000 });
    await cluster.until('it is stopped', async () => (await cluster.machine(off.id)).state === MachineState.STOPPED);
    for (const machine of [one, two]) await untilKnown(machine);
    for (const host of hosts)
      await cluster.until(
        'the stopped one is known',
        async () => (await answersAt(host, `${off.id}.vm.shop.internal`, addressOf(off).type)).length === 0,
      );
    const pairs = (...of: [string, string][]) =>
      of
        .map((each) => each.join(' '))
        .sort()
        .join(',');
    const check = async (at: Machine) => {
      const { type, address } = addressOf(at);
      const second = addressOf(two).address;
      const both = [address, second].sort();
      for (const host of hosts) {
        const ask = (name: string, of: string = type) => answersAt(host, name, of);
        for (const name of ['shop.internal', 'global.shop.internal', 'ShOp.InTeRnAl'])
          expect(await ask(name)).toEqual(both);
        expect(await ask('ams.shop.internal')).toEqual(at.region === 'ams' ? [address] : []);
        expect(await ask('fra.shop.internal')).toEqual(at.region === 'ams' ? [second] : both);
        const isNearest = at.region === 'ams' ? regions[host] === 'ams' : at.id < two.id;
        expect(await ask('top1.nearest.of.shop.internal')).toEqual([isNearest ? address : second]);
        expect(await ask('top2.nearest.of.shop.internal')).toEqual(both);
        expect(await ask(`${one.id}.vm.shop.internal`)).toEqual([address]);
        expect(await ask('web.process.shop.internal')).toEqual([address]);
        expect(await ask('app.process.shop.internal')).toEqual([second]);
        expect(await ask('primary.role.kv._metadata.shop.internal')).toEqual([address]);
        expect(await ask('vms.shop.internal', 'TXT')).toEqual([pairs([one.id, at.region], [two.id, 'fra'])]);
        expect(await ask('all.vms.shop.internal', 'TXT')).toEqual([
          pairs([one.id, at.region], [two.id, 'fra'], [off.id, 'fra']),
        ]);
        expect(await ask('regions.shop.internal', 'TXT')).toEqual([at.region === 'ams' ? 'ams,fra' : 'fra']);
        expect(await ask('_apps.internal', 'TXT')).toEqual(['shop']);
        const [instances] = await ask('_instances.internal', 'TXT');
        expect(instances!.split(';').map((each) => each.split(',')[0]!.slice('instance='.length))).toEqual(
          [one.id, two.id].sort(),
        );
        expect(instances).toContain(`instance=${one.id},app=shop,ip=`);
      }
    };
    await check(one);

    const migrationId = await cluster.migrate(one.id, 'host-c');
    await cluster.until(
      'it is being stopped',
      async () => (await handoverAt(cluster, 'host-a', migrationId))?.step === 'stopping',
    );
    const { type } = addressOf(one);
    expect(await dig(resolvers['host-a']!, `${one.id}.vm.shop.internal`, type)).toMatchObject({
      status: 'NOERROR',
      answers: [],
    });
    expect(await answersAt('host-a', 'shop.internal', type)).toEqual([addressOf(two).address]);
    expect(await cluster.ended(migrationId)).toMatchObject({ state: MigrationState.MOVED });
    // All three hold Machines of the network or took part: no waiting for heartbeats.
    const moved = await cluster.machine(one.id);
    expect(moved).toMatchObject({ hostId: 'host-c', region: 'fra' });
    expect(addressOf(moved).address).not.toBe(addressOf(one).address);
    await check(moved);

    const resolver = resolvers['host-b']!;
    const known = await dig(resolver, 'SHOP.internal', type);
    expect(known.flags).toEqual(expect.arrayContaining(['qr', 'aa']));
    expect(known.kept).toContainEqual({ name: 'SHOP.internal.', ttlSeconds: expect.any(Number) });
    for (const [name, status] of [
      ['nobody.internal', 'NXDOMAIN'],
      ['hidden.internal', 'NXDOMAIN'],
      ['vms.shop.internal', 'NOERROR'],
      ['vm.shop.internal', 'NOERROR'],
    ] as const) {
      const dug = await dig(resolver, name, type);
      expect({ name, ...dug }).toMatchObject({ name, status, answers: [], kept: [{ name: 'internal.' }] });
      for (const { ttlSeconds } of [...dug.kept, ...known.kept]) expect(ttlSeconds).toBeLessThanOrEqual(5);
    }
    expect(await dig(resolver, 'example.com', 'A')).toMatchObject({ status: 'REFUSED', answers: [] });
    expect(await dig(resolver, 'shop.internal', 'ANY')).toMatchObject({ status: 'NOERROR', answers: ['RFC8482'] });
    expect((await dig(resolver, 'shop.internal', type, '+tcp')).answers).toHaveLength(2);
    const { hosts: listed } = await cluster.hosts.listHosts({});
    expect(listed.map(({ dnsAddress }) => dnsAddress).sort()).toEqual(Object.values(resolvers).sort());
  });

  test('with the coordinator dead source and destination both know at once, and all of it after a restart', async () => {
    const one = await cluster.run(slow, { host: 'host-a', app: 'shop' });
    const two = await cluster.run(slow, { host: 'host-c', app: 'db', network: 'other' });
    for (const machine of [one, two]) await untilKnown(machine);
    const migrationId = await cluster.migrate(one.id, 'host-b');
    await cluster.until(
      'the destination owns it',
      async () => (await handoverAt(cluster, 'host-b', migrationId))?.step === 'owner',
    );
    await cluster.kill('coordinator');
    const moved = (await cluster.agent('host-b').agentGetMachine({ machineId: one.id })).machine!;
    await untilKnown(moved, ['host-a', 'host-b']);
    for (const host of ['host-a', 'host-b']) {
      await cluster.kill(host);
      cluster.spawn(host);
    }
    for (const machine of [moved, two]) await untilKnown(machine, ['host-a', 'host-b']);
    cluster.spawn('coordinator');
    await untilKnown(moved);
  });

  test('an older copy of the directory: the own journal overrides it, what was given up is not answered, the rest arrives', async () => {
    const one = await cluster.run(slow, { host: 'host-a', app: 'shop' });
    const two = await cluster.run(slow, { host: 'host-b', app: 'shop' });
    for (const machine of [one, two]) await untilKnown(machine);
    const path = (file: string) => join(cluster.dataDir('host-b'), file);
    await cluster.kill('host-b');
    for (const file of directoryFiles) if (existsSync(path(file))) copyFileSync(path(file), `${path(file)}.older`);
    cluster.spawn('host-b');
    await cluster.untilHostsAnswer();
    await cluster.until('it answers', async () => (await answersAt('host-b', '_apps.internal', 'TXT')).length === 1);
    for (const [machine, to] of [
      [one, 'host-b'],
      [two, 'host-a'],
    ] as const)
      expect(await cluster.ended(await cluster.migrate(machine.id, to))).toMatchObject({ state: MigrationState.MOVED });
    const [here, away] = [await cluster.machine(one.id), await cluster.machine(two.id)];
    for (const machine of [here, away]) await untilKnown(machine);
    await cluster.kill('coordinator');
    await cluster.kill('host-b');
    for (const file of directoryFiles) {
      rmSync(path(file), { force: true });
      if (existsSync(`${path(file)}.older`)) copyFileSync(`${path(file)}.older`, path(file));
    }
    cluster.spawn('host-b');
    await untilKnown(here);
    expect(await answersAt('host-b', `${two.id}.vm.shop.internal`, addressOf(two).type)).toEqual([]);
    await untilKnown(away, ['host-a', 'host-c']);
    cluster.spawn('coordinator');
    await untilKnown(away);
  });

  test('hostile packets, by UDP and TCP, change nothing', async () => {
    const one = await cluster.run(slow, { host: 'host-a', app: 'shop' });
    await untilKnown(one);
    const port = Number(resolvers['host-a']!.split(':')[1]);
    const random = seededRandom(3);
    const pid = cluster.pid('host-a');
    const udp = createSocket('udp4');
    for (let count = 0; count < 2000; count += 1) {
      const packet = random.bytes(count % 300);
      // Every other one looks like a query at first.
      if (count % 2 === 0) packet.set([0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0].slice(0, packet.length));
      await new Promise((resolve) => udp.send(packet, port, '127.0.0.1', resolve));
    }
    udp.close();
    for (let count = 0; count < 100; count += 1) {
      const tcp = connect({ host: '127.0.0.1', port }).on('error', () => {});
      tcp.end(random.bytes(1 + count * 7));
      await once(tcp.resume(), 'close');
    }
    await untilKnown(one);
    expect(cluster.pid('host-a')).toBe(pid);
    expect(cluster.log('host-a')).not.toContain('a DNS query was not answered');
  });
});
