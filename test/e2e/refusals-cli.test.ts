import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Terminal } from '../../cli/context.ts';
import { runCli } from '../../cli/program.ts';
import { type Machine, MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { systemClock } from '../../shared/clock.ts';
import { badIds } from '../harness/attack.ts';
import { TestCluster } from '../harness/cluster.ts';

const sleeper = { init: { exec: ['/bin/sh', '-c', 'trap "exit 0" INT; while :; do sleep 0.1; done'] } };
const nobody = '00000000000000';
const noVolume = 'vol_0000000000000000';
const noDrain = 'drn_01J08P60K8NK33K9P5MQ5M4QN8';
const noMigration = 'mig_01J08P60K8NK33K9P5MQ5M4QN8';

let cluster: TestCluster;
let machine: Machine;
let kept: Machine;

interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** One command line, as an operator types it, run in this process: a new one each would take a minute. */
async function ferry(...args: string[]): Promise<Ran> {
  let [out, err] = ['', ''];
  const terminal: Terminal = {
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
    isTerminal: false,
    columns: () => 80,
    rows: () => 24,
    env: { FERRY_COORDINATOR: cluster.coordinator },
    clock: systemClock,
    interrupted: () => new AbortController().signal,
  };
  const code = await runCli(args, terminal);
  return { code, out, err };
}

/** Everything that operators see, but for the times. */
async function world(): Promise<string> {
  const { machines } = await cluster.machines.listMachines({});
  const { volumes } = await cluster.volumes.listVolumes({});
  const { hosts } = await cluster.hosts.listHosts({});
  const { migrations } = await cluster.migrations.listMigrations({});
  const { drains } = await cluster.drains.listDrains({});
  return JSON.stringify({
    machines: machines.map(({ id, state, instanceId, hostId }) => ({ id, state, instanceId, hostId })),
    volumes: volumes.map(({ id, state }) => ({ id, state })),
    hosts: hosts.map(({ id, cordoned, address, copyLimits }) => ({
      id,
      cordoned,
      address,
      limits: `${copyLimits?.sendBytesPerSecond ?? 0n} ${copyLimits?.receiveBytesPerSecond ?? 0n}`,
    })),
    migrations: migrations.map(({ id }) => id),
    drains: drains.map(({ id }) => id),
  });
}

beforeAll(async () => {
  cluster = await TestCluster.start();
  machine = await cluster.run(sleeper, { host: 'host-a', app: 'plain', network: 'plain', name: 'one' });
  kept = await cluster.run(
    { ...sleeper, mounts: [{ path: '/data', sizeGb: 1, name: 'data' }] },
    { host: 'host-a', app: 'kept', network: 'kept' },
  );
  // The list shows what the last heartbeats told.
  await cluster.until('the list shows both started', async () => {
    const { machines } = await cluster.machines.listMachines({});
    return machines.length === 2 && machines.every(({ state }) => state === MachineState.STARTED);
  });
  const files: Record<string, string> = {
    'good.json': JSON.stringify(sleeper),
    'torn.json': '{"init":',
    'strange.json': JSON.stringify({ ...sleeper, regoin: 'x' }),
    'used.json': JSON.stringify({ config: { ...sleeper, mounts: [{ volume: kept.volumeId, path: '/data' }] } }),
    'torn.toml': 'app = "x',
  };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(cluster.dir, name), text);
});
afterAll(async () => cluster?.[Symbol.asyncDispose]());

/** Command, exit code, reason, and what the text must name. */
type Line = readonly [args: readonly string[], code: number, reason: string, names: string];

const file = (name: string) => join(cluster.dir, name);
const lines = (): Line[] => [
  ...badIds
    .filter((id) => !id.startsWith('-'))
    .flatMap((id): Line[] => [
      [['machine', 'status', id], 2, 'invalid_argument', 'ID'],
      [['machine', 'migrate', id, '--to', 'host-b'], 2, 'invalid_argument', 'ID'],
    ]),
  ...['status', 'logs', 'start', 'stop', 'restart', 'destroy', 'migrate'].flatMap((verb): Line[] => [
    [['machine', verb, 'x'], 2, 'invalid_argument', 'ID'],
    [['machine', verb, nobody], 1, 'unknown_machine', nobody],
  ]),
  [['machine', 'run', '/no/such/file'], 2, 'invalid_argument', '/no/such/file'],
  [['machine', 'run', file('torn.json'), '--app', 'x'], 2, 'invalid_argument', 'JSON'],
  [['machine', 'run', file('torn.toml')], 2, 'invalid_argument', 'fly.toml'],
  [['machine', 'run', file('strange.json'), '--app', 'x'], 2, 'invalid_argument', 'regoin'],
  [['machine', 'run', file('good.json')], 2, 'invalid_argument', '--app'],
  [['machine', 'run', file('good.json'), '--app', '../x'], 2, 'invalid_argument', 'app'],
  [['machine', 'run', file('good.json'), '--app', 'x', '--host', 'host-9'], 1, 'unknown_host', 'host-9'],
  [['machine', 'run', file('good.json'), '--app', 'plain', '--name', 'one'], 1, 'machine_exists', 'one'],
  [['machine', 'run', file('used.json'), '--app', 'x', '--host', 'host-a'], 1, 'volume_in_use', kept.id],
  [['machine', 'list', '--host', 'host-9'], 1, 'unknown_host', 'host-9'],
  [['machine', 'logs', machine.id, '--lines', '0'], 2, 'invalid_argument', '--lines'],
  [['machine', 'stop', machine.id, '--signal', 'KILL'], 2, 'invalid_argument', 'signal'],
  [['machine', 'stop', machine.id, '--timeout', '-1s'], 2, 'invalid_argument', '--timeout'],
  [['machine', 'stop', machine.id, '--timeout', '301s'], 2, 'invalid_argument', 'timeout'],
  [['machine', 'destroy', machine.id], 1, 'machine_running', '--force'],
  [['machine', 'migrate', machine.id, '--to', 'host-a'], 2, 'same_host', 'host-a'],
  [['machine', 'migrate', machine.id, '--to', 'host-9'], 1, 'unknown_host', 'host-9'],
  [
    ['machine', 'migrate', machine.id, '--to', 'host-b', '--start-deadline', 'soon'],
    2,
    'invalid_argument',
    '--start-deadline',
  ],
  [
    ['machine', 'migrate', machine.id, '--to', 'host-b', '--start-deadline', '2h'],
    2,
    'invalid_argument',
    'start_deadline',
  ],
  [['machine', 'migrate', machine.id, '--to', 'host-b', '--override-host', 'host-9'], 1, 'unknown_host', 'host-9'],
  ...['status', 'watch', 'cancel', 'retry', 'accept-down'].flatMap((verb): Line[] => [
    [['migration', verb, '../x'], 2, 'invalid_argument', 'ID'],
    [['migration', verb, noMigration], 1, 'unknown_migration', noMigration],
  ]),
  ...(
    [
      ['--reason', 'boredom'],
      ['--by', ''],
      ['--downtime-budget', 'none'],
      ['--priority', '101'],
      ['--strategy', 'warm'],
    ] as const
  ).flatMap(([option, value]): Line[] => [
    [['machine', 'migrate', machine.id, '--to', 'host-b', option, value], 2, 'invalid_argument', option],
    [['host', 'drain', 'host-a', option, value], 2, 'invalid_argument', option],
  ]),
  [['migration', 'list', '--limit', '1001'], 2, 'invalid_argument', '--limit'],
  [['migration', 'override-host', noMigration, '../x'], 2, 'invalid_argument', 'HOST'],
  [['migration', 'override-host', noMigration, 'host-b'], 1, 'unknown_migration', noMigration],
  ...[['status'], ['cordon'], ['uncordon'], ['remove'], ['drain'], ['limit', '--send', '1GB']].flatMap(
    ([verb, ...options]): Line[] => [
      [['host', verb!, 'Host_1', ...options], 2, 'invalid_argument', 'HOST'],
      [['host', verb!, 'host-9', ...options], 1, 'unknown_host', 'host-9'],
    ],
  ),
  [['host', 'drain', 'host-9', '--dry-run'], 1, 'unknown_host', 'host-9'],
  [['host', 'drain', 'host-a', '--to', 'host-9'], 1, 'unknown_host', 'host-9'],
  [['host', 'drain', 'host-a', '--exclude', 'host-9'], 1, 'unknown_host', 'host-9'],
  [['host', 'drain', 'host-a', '--to', 'host-a'], 2, 'invalid_argument', 'host-a'],
  [['host', 'drain', 'host-a', '--to', 'host-b', '--exclude', 'host-b'], 2, 'invalid_argument', '--exclude'],
  [['host', 'drain', 'host-a', '--to', 'Host_2'], 2, 'invalid_argument', '--to'],
  [['host', 'drain', 'host-a', '--dry-run', '--wait'], 2, 'invalid_argument', '--wait'],
  [['host', 'drain', 'host-a', '--verbose'], 2, 'invalid_argument', '--dry-run'],
  [['host', 'drain', 'host-a', '--concurrency', '0'], 2, 'invalid_argument', '--concurrency'],
  [['host', 'drain', 'host-a', '--attempts', '1.5'], 2, 'invalid_argument', '--attempts'],
  [['host', 'limit', 'host-a'], 2, 'invalid_argument', '--receive'],
  [['host', 'limit', 'host-a', '--send', '50'], 2, 'invalid_argument', '--send'],
  [['host', 'limit', 'host-a', '--receive', '-1MB'], 2, 'invalid_argument', '--receive'],
  ...['status', 'watch', 'pause', 'resume', 'cancel'].flatMap((verb): Line[] => [
    [['drain', verb, '../x'], 2, 'invalid_argument', 'DRAIN'],
    [['drain', verb, 'drn_1'], 2, 'invalid_argument', 'DRAIN'],
    [['drain', verb, noDrain], 1, 'unknown_drain', noDrain],
    [['drain', verb, 'host-a'], 1, 'unknown_drain', 'host-a'],
  ]),
  [['drain', 'list', '--limit', '0'], 2, 'invalid_argument', '--limit'],
  [['host', 'list', '--coordinator', '127.0.0.1:0'], 2, 'invalid_argument', '--coordinator'],
  [['lock', 'list', '--coordinator', ':7400'], 2, 'invalid_argument', '--coordinator'],
  [['host', 'remove', 'host-a'], 2, 'invalid_argument', 'host-a'],
  [['volume', 'create', 'Data!', '--size', '1GiB', '--host', 'host-a'], 2, 'invalid_argument', 'NAME'],
  [['volume', 'create', 'data', '--size', '-1GiB', '--host', 'host-a'], 2, 'invalid_argument', '--size'],
  [['volume', 'create', 'data', '--size', 'huge', '--host', 'host-a'], 2, 'invalid_argument', '--size'],
  [['volume', 'create', 'data', '--host', 'host-a'], 2, 'invalid_argument', '--size'],
  [['volume', 'create', 'data', '--from', '/etc/passwd', '--host', 'host-a'], 2, 'invalid_argument', '/etc/passwd'],
  [['volume', 'create', 'data', '--from', 'no.img', '--host', 'host-a'], 2, 'invalid_argument', 'no.img'],
  [['volume', 'create', 'data', '--from', 'no.img', '--host', 'host-9'], 1, 'unknown_host', 'host-9'],
  [['machine', 'run', file('good.json'), '--app', 'x', '--volume', '../x'], 2, 'invalid_argument', '--volume'],
  [['machine', 'run', file('good.json'), '--app', 'x', '--volume', noVolume], 1, 'unknown_volume', noVolume],
  [['machine', 'run', file('good.json'), '--app', 'x', '--volume', kept.volumeId], 1, 'volume_in_use', kept.id],
  [['volume', 'create', 'data', '--size', '17TiB', '--host', 'host-a'], 2, 'invalid_argument', 'size'],
  [['volume', 'create', 'data', '--size', '1GiB', '--host', 'host-9'], 1, 'unknown_host', 'host-9'],
  [['volume', 'list', '--host', 'host-9'], 1, 'unknown_host', 'host-9'],
  ...['show', 'export', 'destroy'].flatMap((verb): Line[] => [
    [['volume', verb, '../x'], 2, 'invalid_argument', 'ID'],
    [['volume', verb, noVolume], 1, 'unknown_volume', noVolume],
  ]),
  [['volume', 'export', kept.volumeId], 1, 'volume_in_use', kept.id],
  [['volume', 'export', noVolume, '--ttl', '1y'], 2, 'invalid_argument', '--ttl'],
  [['volume', 'destroy', kept.volumeId], 1, 'volume_in_use', kept.id],
  [['lock', 'explain', '../x'], 2, 'invalid_argument', 'NETWORK'],
  [['lock', 'explain', 'nowhere'], 1, 'unknown_network', 'nowhere'],
  [['lock', 'list', '--coordinator', 'nonsense'], 2, 'invalid_argument', '--coordinator'],
  [['status', '--coordinator', '127.0.0.1:1'], 4, 'unreachable', '127.0.0.1:1'],
  [['drain', 'list', '--coordinator', 'a:1,,b:2'], 2, 'invalid_argument', '--coordinator'],
  [['agent', '--host', '../x', '--data-dir', cluster.dir], 2, 'invalid_argument', '--host'],
  [['agent', '--data-dir', cluster.dir], 2, 'invalid_argument', '--host'],
  [['agent', '--host', 'h', '--data-dir', file('new'), '--listen', '0.0.0.0:1'], 2, 'invalid_argument', '0.0.0.0'],
  [['coordinator', '--data-dir', cluster.dataDir('coordinator')], 3, 'store_locked', 'coordinator.db'],
  [['coordinator', '--data-dir', file('new'), '--listen', 'nowhere'], 2, 'invalid_argument', 'listen'],
  [['dev', '--coordinators', '2'], 2, 'invalid_argument', '--store'],
  [['dev', '--store', 'redis'], 2, 'invalid_argument', '--store'],
  [['dev', '--hosts', '0'], 2, 'invalid_argument', '--hosts'],
];

describe('ferry refuses', () => {
  test('each wrong command line with its reason, what was wrong and what to do; nothing changes', async () => {
    const before = await world();
    const failures: string[] = [];
    for (const [args, code, reason, names] of lines()) {
      const ran = await ferry(...args);
      const said = `ferry ${args.join(' ').slice(0, 120)}: ${ran.code}\n${ran.out}${ran.err}`;
      const good =
        ran.code === code &&
        ran.err.includes(`[${reason}]`) &&
        ran.err.includes(names) &&
        ran.err.includes('next: ') &&
        !ran.err.includes('    at ') &&
        ran.out === '';
      if (!good) failures.push(`${said}  (expected ${code}, ${reason}, ${names})`);
      if (process.env.FERRY_TEST_SHOW) writeFileSync(process.env.FERRY_TEST_SHOW, `${said}\n`, { flag: 'a' });
    }
    expect(failures).toEqual([]);
    expect(await world()).toBe(before);
  });

  test('commands that do not exist, and options too many or too few', async () => {
    for (const args of [
      ['machin'],
      ['machine', 'explode'],
      ['machine', 'status'],
      ['host', 'list', '--frob'],
      ['machine', 'status', '-rf'],
    ]) {
      const ran = await ferry(...args);
      expect(ran.code, args.join(' ')).toBe(2);
      expect(ran.err).toContain('--help');
    }
  });

  test('with --json: one document with reason, field and exit code', async () => {
    const ran = await ferry('machine', 'status', nobody, '--json');
    expect(JSON.parse(ran.err)).toMatchObject({
      error: { reason: 'unknown_machine', field: 'machine_id', facts: { machine: nobody } },
      exitCode: 1,
    });
  });
});

test('every command is attacked', async () => {
  const commandsOf = async (...path: string[]) => {
    const { out } = await ferry(...path, '--help');
    const list = out.includes('Commands:') ? out.slice(out.indexOf('Commands:')) : '';
    return [...list.matchAll(/^ {2}([a-z-]+) /gm)].map(([, name]) => name!).filter((name) => name !== 'help');
  };
  const attacked = lines().map(([args]) => args.join(' '));
  const nouns = await commandsOf();
  expect(nouns.length).toBeGreaterThan(8);
  for (const noun of nouns) {
    const verbs = await commandsOf(noun);
    const commands = verbs.length === 0 ? [noun] : verbs.map((verb) => `${noun} ${verb}`);
    for (const command of commands) {
      expect(
        attacked.some((line) => line.startsWith(`${command} `)),
        `ferry ${command}`,
      ).toBe(true);
    }
  }
});
