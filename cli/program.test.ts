// Longer than usual: one table of command lines, against one fake coordinator, for all nouns.
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, test } from 'vitest';
import type {
  CreateVolumeRequest,
  MigrateMachineRequest,
  RunMachineRequest,
} from '../proto/gen/ferry/v1/coordinator_pb.ts';
import { DrainState } from '../proto/gen/ferry/v1/drain_pb.ts';
import type { CopyLimits } from '../proto/gen/ferry/v1/host_pb.ts';
import { MachineState } from '../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationState, MigrationStep } from '../proto/gen/ferry/v1/migration_pb.ts';
import { durationToMs } from '../shared/duration.ts';
import { FerryError } from '../shared/error.ts';
import type { RpcServer } from '../shared/rpc/server.ts';
import { version } from '../shared/version.ts';
import {
  at,
  copyingMigration,
  type FakeCoordinator,
  FakeTerminal,
  fakeCoordinator,
  machineId,
  migrationId,
  movedMachine,
  movedMigration,
} from './fake-coordinator.fixture.ts';
import { exitCodeOf } from './output/errors.ts';

const servers: RpcServer[] = [];
const oldNode = '/usr/bin/node';

afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.close()));
});

async function terminalFor(fake: FakeCoordinator): Promise<FakeTerminal> {
  const server = fakeCoordinator(fake);
  servers.push(server);
  const terminal = new FakeTerminal();
  terminal.env.FERRY_COORDINATOR = await server.listen();
  return terminal;
}

test.each([
  ['invalid_argument', 2],
  ['same_host', 2],
  ['unknown_machine', 1],
  ['machine_busy', 1],
  ['no_space', 1],
  ['permit_refused', 3],
  ['io_error', 3],
  ['journal_went_back', 3],
  ['unreachable', 4],
  ['host_unreachable', 4],
  ['deadline', 4],
] as const)('%s ends with %i', (reason, code) => {
  expect(exitCodeOf(new FerryError(reason, 'x'))).toBe(code);
});

test('every command has a help text with an example', async () => {
  const nouns = ['machine', 'migration', 'host', 'drain', 'volume', 'lock'];
  const terminal = new FakeTerminal();
  expect(await terminal.run('--help')).toBe(0);
  for (const name of ['dev', 'status', 'agent', 'coordinator', ...nouns])
    expect(terminal.stdout).toContain(`  ${name} `);
  const verbs = nouns.flatMap((noun) => verbsOf(noun).map((verb) => [noun, verb]));
  expect(verbs.length).toBeGreaterThan(33);
  for (const line of [['dev'], ['status'], ['agent'], ['coordinator'], ...verbs]) {
    const help = new FakeTerminal();
    expect(await help.run(...line, '--help')).toBe(0);
    expect(help.stdout).toContain(`Example: ferry ${line.join(' ')}`);
  }
});

function verbsOf(noun: string): string[] {
  const verbs: Record<string, string> = {
    machine: 'run list status logs start stop restart migrate destroy',
    migration: 'list status watch cancel retry accept-down override-host',
    host: 'list status cordon uncordon drain limit remove',
    drain: 'list status watch pause resume cancel',
    volume: 'create list show export destroy',
    lock: 'list explain',
  };
  return verbs[noun]!.split(' ');
}

test.each([
  [['machine', 'status'], "missing required argument 'id'"],
  [['machine', 'fly'], "unknown command 'fly'"],
  [['machine', 'list', '--jsn'], "unknown option '--jsn'"],
  [['machine', 'status', 'D8'], 'ID: is "D8"; expected 14 characters of 0-9 and a-f'],
  [['migration', 'watch', 'mig_1'], 'expected "mig_" and a ULID'],
  [['machine', 'logs', machineId, '-n', '0'], '--lines: is "0"; expected a whole number from 1 to 10000'],
  [
    ['machine', 'migrate', machineId, '--start-deadline', '60'],
    '--start-deadline: is "60"; expected a time such as "10s"',
  ],
  [['machine', 'run', '/nowhere/x.json'], 'FILE: cannot be read (ENOENT: /nowhere/x.json)'],
  [['volume', 'create', 'data', '--host', 'host-1'], '--size: is missing; expected a size such as "10GiB", or --from'],
  [
    ['volume', 'create', 'data', '--host', 'host-1', '--size', 'big'],
    '--size: is "big"; expected a size such as "10GiB"',
  ],
  [['lock', 'explain', 'A_B'], 'NETWORK: is "A_B"'],
  [['status', '--coordinator', 'nowhere'], '--coordinator: is "nowhere"'],
  [['dev', '--hosts', '0'], '--hosts: is "0"; expected a whole number from 1 to 8'],
  [
    ['dev', '--coordinators', '2'],
    '--coordinators: is 2 without --store; expected --store redis://HOST:PORT beside it',
  ],
  [['dev', '--store', 'here'], '--store: is "here"; expected an address such as redis://127.0.0.1:6379'],
  [['host', 'limit', 'host-1'], '--send, --receive: are both missing'],
  [['host', 'limit', 'host-1', '--send', '50'], '--send: is "50"; expected bytes a second, such as "50MB" or "1GiB"'],
  [['drain', 'status', 'drn_1'], 'DRAIN: is "drn_1"; expected "drn_" and a ULID'],
  [['drain', 'pause', 'Host_1'], 'DRAIN: is "Host_1"'],
  [['drain', 'list', '--limit', '0'], '--limit: is "0"; expected a whole number from 1 to 1000'],
  [['volume', 'create', 'data', '--host', 'host-1', '--from', ''], '--from: is empty'],
  [['host', 'drian', 'host-1'], '(Did you mean drain?)'],
  [['agent', '--hots', 'x'], 'only these flags: --host'],
  [['coordinator', '--lisen', 'x'], 'only these flags: --data-dir'],
])('wrong usage %j ends with 2 and says what is expected', async (argv, text) => {
  const terminal = new FakeTerminal();
  expect(await terminal.run(...argv)).toBe(2);
  expect(terminal.stderr).toContain(text);
  expect(terminal.stdout).toBe('');
});

test('a coordinator that is not there ends with 4 and says what to do', async () => {
  const terminal = new FakeTerminal();
  expect(await terminal.run('host', 'list', '--coordinator', '127.0.0.1:1')).toBe(4);
  expect(terminal.stderr).toContain('ferry: the coordinator at 127.0.0.1:1 does not answer');
  expect(terminal.stderr).toContain('next: Start it, or name its address with --coordinator or FERRY_COORDINATOR.');
});

test("a coordinator's refusal is printed with what was expected and what to do; as JSON with --json", async () => {
  const refuse = () => {
    throw new FerryError('unknown_machine', `no Machine ${machineId}`, {
      field: 'machine_id',
      expected: 'a known one',
    });
  };
  const terminal = await terminalFor({ machines: { getMachine: refuse } });
  expect(await terminal.run('machine', 'status', machineId)).toBe(1);
  expect(terminal.stderr).toBe(
    `ferry: no Machine ${machineId} [unknown_machine]\n  expected: a known one\n  next: Look the ID up with "ferry machine list".\n`,
  );
  terminal.stderr = '';
  expect(await terminal.run('machine', 'status', machineId, '--json')).toBe(1);
  expect(JSON.parse(terminal.stderr)).toMatchObject({
    error: { reason: 'unknown_machine', field: 'machine_id' },
    exitCode: 1,
  });
});

test('--json prints one document with protobuf names and unset fields', async () => {
  const terminal = await terminalFor({ machines: { getMachine: () => ({ machine: movedMachine() }) } });
  expect(await terminal.run('machine', 'status', machineId, '--json')).toBe(0);
  const { machine } = JSON.parse(terminal.stdout);
  expect(machine).toMatchObject({
    id: machineId,
    state: 'MACHINE_STATE_STARTED',
    privateIp: 'fdaa:0:1:2::3',
    epoch: '2',
    reason: '',
  });
  expect(machine.events[3].migration).toMatchObject({ migrated: true, downtime: { totalMs: '1234' } });
});

/** Runs `machine run` on a file; answers the exit code, the request and the terminal. */
async function runFile(name: string, text: string, ...options: string[]) {
  const directory = mkdtempSync(join(tmpdir(), 'cli-test-'));
  const file = join(directory, name);
  writeFileSync(file, text);
  const requests: RunMachineRequest[] = [];
  const terminal = await terminalFor({
    machines: {
      runMachine: (asked) => {
        requests.push(asked);
        return { machine: movedMachine() };
      },
    },
  });
  const code = await terminal.run('machine', 'run', file, ...options);
  rmSync(directory, { recursive: true });
  return { code, request: requests[0], stdout: terminal.stdout, stderr: terminal.stderr };
}

test('machine run sends a JSON config with what the options say', async () => {
  const config = JSON.stringify({ image: '/bin/sleep', init: { cmd: ['60'] }, guest: { memory_mb: 64 } });
  const ran = await runFile('machine.json', config, '--app', 'shop', '--host', 'host-1', '--no-start');
  expect(ran).toMatchObject({ code: 0, stderr: '' });
  expect(ran.request).toMatchObject({ app: 'shop', hostId: 'host-1', region: '', skipLaunch: true });
  expect(ran.request?.config).toMatchObject({ image: '/bin/sleep', init: { cmd: ['60'] }, guest: { memoryMb: 64 } });
  expect(ran.stdout).toContain(`Machine ${machineId} (ledger) is started on host-2.\n`);
});

test("machine run with a volume that exists: it replaces what the file would create, and its host is the Machine's", async () => {
  const directory = mkdtempSync(join(tmpdir(), 'cli-test-'));
  const file = join(directory, 'machine.json');
  writeFileSync(file, JSON.stringify({ image: '/bin/sleep', mounts: [{ path: '/srv', name: 'data', size_gb: 5 }] }));
  const requests: RunMachineRequest[] = [];
  const terminal = await terminalFor({
    machines: {
      runMachine: (asked) => {
        requests.push(asked);
        return { machine: movedMachine() };
      },
    },
    volumes: { getVolume: ({ volumeId }) => ({ volume: { id: volumeId, hostId: 'host-3' } }) },
  });
  const volume = 'vol_0123456789abcdef';
  expect(await terminal.run('machine', 'run', file, '--app', 'shop', '--volume', volume)).toBe(0);
  expect(requests[0]?.hostId).toBe('host-3');
  expect(requests[0]?.config?.mounts).toMatchObject([{ volume, path: '/srv', name: 'data', sizeGb: 0 }]);
  expect(await terminal.run('machine', 'run', file, '--app', 'shop', '--volume', volume, '--host', 'host-1')).toBe(0);
  expect(requests[1]?.hostId).toBe('host-1');
  writeFileSync(file, '{"image": "/bin/sleep"}');
  expect(await terminal.run('machine', 'run', file, '--app', 'shop', '--volume', volume)).toBe(0);
  expect(requests[2]?.config?.mounts).toMatchObject([{ volume, path: '/data' }]);
  rmSync(directory, { recursive: true });
});

test('volume create --from sends the path, and no size unless one is given', async () => {
  const requests: CreateVolumeRequest[] = [];
  const terminal = await terminalFor({
    volumes: {
      createVolume: (asked) => {
        requests.push(asked);
        return { volume: { id: 'vol_0123456789abcdef', hostId: asked.hostId } };
      },
    },
  });
  expect(await terminal.run('volume', 'create', 'data', '--host', 'host-1', '--from', 'old.img')).toBe(0);
  expect(requests[0]).toMatchObject({ name: 'data', hostId: 'host-1', fromPath: 'old.img', sizeBytes: 0n });
  const sized = ['--from', '/import/old.img', '--size', '1GiB'];
  expect(await terminal.run('volume', 'create', 'data', '--host', 'host-1', ...sized)).toBe(0);
  expect(requests[1]).toMatchObject({ fromPath: '/import/old.img', sizeBytes: 1n << 30n });
});

test('host limit changes what is named, and keeps the other limit', async () => {
  let limits: CopyLimits | undefined;
  const copyLimits = { sendBytesPerSecond: 1n << 20n, receiveBytesPerSecond: 2n << 20n };
  const terminal = await terminalFor({
    hosts: {
      getHostStatus: () => ({ host: { id: 'host-1', copyLimits } }),
      setCopyLimitsOfHost: (asked) => {
        limits = asked.limits;
        return { host: { id: 'host-1', ...(limits && { copyLimits: limits }) } };
      },
    },
  });
  expect(await terminal.run('host', 'limit', 'host-1', '--send', '50MB')).toBe(0);
  expect(limits).toMatchObject({ sendBytesPerSecond: 50n << 20n, receiveBytesPerSecond: 2n << 20n });
  expect(terminal.stdout).toBe('Copies of host host-1: out 50.0 MiB/s, in 2.0 MiB/s.\n');
  expect(await terminal.run('host', 'limit', 'host-1', '--receive', 'off')).toBe(0);
  expect(limits).toMatchObject({ sendBytesPerSecond: 1n << 20n, receiveBytesPerSecond: 0n });
});

test('machine run waits until the Machine has started, and ends with 1 when it could not', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'cli-test-'));
  const file = join(directory, 'machine.json');
  writeFileSync(file, '{"image": "/bin/false"}');
  let asked = () => {};
  const looked = new Promise<void>((resolve) => {
    asked = resolve;
  });
  const terminal = await terminalFor({
    machines: {
      runMachine: () => ({ machine: movedMachine({ state: MachineState.STARTING }) }),
      getMachine: () => {
        asked();
        return { machine: movedMachine({ state: MachineState.FAILED, reason: 'it ended too often' }) };
      },
    },
  });
  const running = terminal.run('machine', 'run', file, '--app', 'shop');
  await terminal.clock.untilSleeping();
  terminal.clock.advance(100);
  await looked;
  expect(await running).toBe(1);
  expect(terminal.stdout).toContain('is failed on host-2.\n  why:  it ended too often\n');
  rmSync(directory, { recursive: true });
});

test('machine run sends a fly.toml with its app and region', async () => {
  const text =
    'app = "shop"\nprimary_region = "ams"\n[build]\nimage = "/bin/sleep"\n[processes]\nweb = "60"\njob = "90"\n';
  const ran = await runFile('fly.toml', text, '--process-group', 'job');
  expect(ran).toMatchObject({ code: 0, stderr: '' });
  expect(ran.request).toMatchObject({ app: 'shop', region: 'ams', skipLaunch: false });
  expect(ran.request?.config).toMatchObject({ image: '/bin/sleep', init: { cmd: ['90'] } });
});

test.each([
  ['machine.json', '{', ['--app', 'shop'], 'FILE: is no JSON'],
  ['machine.json', '{"image": "/bin/sleep"}', [], '--app: is missing, and the file names none'],
  ['machine.json', '{"imag": "/bin/sleep"}', ['--app', 'shop'], 'imag'],
  ['machine.json', '{"image": "/bin/sleep"}', ['--app', 'shop', '--process-group', 'web'], '--process-group: is given'],
  ['fly.toml', 'app = ', [], 'fly.toml: '],
])('machine run refuses %s with %j', async (name, text, options, message) => {
  const ran = await runFile(name, text, ...options);
  expect(ran).toMatchObject({ code: 2, request: undefined, stdout: '' });
  expect(ran.stderr).toContain(message);
});

test.each([
  [MigrationState.MOVED, 0, 'Moved: '],
  [MigrationState.MOVED_BACK, 1, 'Moved back: '],
  [MigrationState.PARKED, 3, 'Parked: '],
])('machine migrate follows to the end: state %i ends with %i', async (state, code, text) => {
  let request: MigrateMachineRequest | undefined;
  const terminal = await terminalFor({
    migrations: {
      migrateMachine: (asked) => {
        request = asked;
        return { migration: copyingMigration({ step: MigrationStep.PLAN, steps: [], progress: undefined }) };
      },
      async *watchMigration() {
        yield { migration: copyingMigration() };
        yield { migration: movedMigration({ state }) };
      },
    },
  });
  const options = [
    '--to',
    'host-2',
    '--start-deadline',
    '90s',
    '--override-host',
    'host-3',
    '--override-host',
    'host-4',
    ...['--reason', 'failing', '--by', 'alice', '--priority', '-5'],
    ...['--strategy', 'cold', '--downtime-budget', '500ms'],
  ];
  expect(await terminal.run('machine', 'migrate', ...options, machineId)).toBe(code);
  expect(request).toMatchObject({ machineId, destination: 'host-2', overrideHosts: ['host-3', 'host-4'] });
  expect(request).toMatchObject({ reason: 4, orderedBy: 'alice', priority: -5, strategy: 1 });
  expect(durationToMs(request?.downtimeBudget)).toBe(500);
  expect(durationToMs(request?.startDeadline)).toBe(90_000);
  expect(terminal.stdout).toContain('[ 4/10] stop         1.100 s  stopped\n');
  expect(terminal.stdout).toContain(text);
});

test('machine migrate --detach answers at once; --json watches print one document a line', async () => {
  const terminal = await terminalFor({
    migrations: {
      migrateMachine: () => ({ migration: copyingMigration() }),
      async *watchMigration() {
        yield { migration: copyingMigration() };
        yield { migration: movedMigration() };
      },
    },
  });
  expect(await terminal.run('machine', 'migrate', machineId, '--detach')).toBe(0);
  expect(terminal.stdout).toContain(`follow it: ferry migration watch ${migrationId}\n`);
  terminal.stdout = '';
  expect(await terminal.run('migration', 'watch', migrationId, '--json')).toBe(0);
  const states = terminal.stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line).migration.state);
  expect(states).toEqual(['MIGRATION_STATE_RUNNING', 'MIGRATION_STATE_MOVED']);
});

test('ctrl-C while watching says that the migration goes on, and how to follow or cancel it', async () => {
  const terminal = await terminalFor({
    migrations: {
      async *watchMigration(_request, { signal }) {
        yield { migration: copyingMigration() };
        await new Promise((resolve) => signal.addEventListener('abort', resolve));
      },
    },
  });
  const watching = terminal.run('migration', 'watch', migrationId);
  await terminal.until('copying');
  terminal.ctrlC.abort();
  expect(await watching).toBe(130);
  expect(terminal.stderr).toContain('The migration goes on by itself.');
  expect(terminal.stderr).toContain(`ferry migration watch ${migrationId}`);
  expect(terminal.stderr).toContain(`ferry migration cancel ${migrationId}`);
});

test('a coordinator that restarts while watched is waited for', async () => {
  const terminal = await terminalFor({
    migrations: {
      async *watchMigration(_request, { signal }) {
        yield { migration: copyingMigration() };
        await new Promise((resolve) => signal.addEventListener('abort', resolve));
        throw signal.reason;
      },
    },
  });
  const watching = terminal.run('migration', 'watch', migrationId);
  await terminal.until('copying');
  await servers.pop()!.close();
  await terminal.until('went away');
  const port = Number(terminal.env.FERRY_COORDINATOR!.split(':')[1]);
  const again = fakeCoordinator(
    {
      migrations: {
        async *watchMigration() {
          yield { migration: movedMigration() };
        },
      },
    },
    port,
  );
  servers.push(again);
  await again.listen();
  await terminal.clock.untilSleeping();
  terminal.clock.advance(500);
  expect(await watching).toBe(0);
  expect(terminal.stdout.match(/\[ 4\/10\] stop/g)).toHaveLength(1);
  expect(terminal.stdout).toContain('Moved: ');
});

test.each([
  ['aborted', 0, 'Aborted: the Machine stays on host-1.'],
  ['too late', 1, 'The source answers "too late": the migration goes on.'],
])('migration cancel: %s ends with %i', async (outcome, code, text) => {
  const terminal = await terminalFor({
    migrations: { cancelMigration: () => ({ outcome, migration: copyingMigration() }) },
  });
  expect(await terminal.run('migration', 'cancel', migrationId)).toBe(code);
  expect(terminal.stdout).toContain(text);
});

test('status, lists and explanations say when there is nothing', async () => {
  const terminal = await terminalFor({
    hosts: { listHosts: () => ({}) },
    machines: { listMachines: () => ({}) },
    migrations: { listMigrations: () => ({}) },
    volumes: { listVolumes: () => ({}) },
    locks: { listLocks: () => ({}), explainLock: () => ({ explanation: 'Nobody holds it.' }) },
    drains: { listDrains: () => ({}) },
    cluster: { getStatus: () => ({}) },
  });
  expect(await terminal.run('status')).toBe(0);
  for (const text of ['Attention: nothing', 'Machines    = none', 'No hosts.']) expect(terminal.stdout).toContain(text);
  terminal.stdout = '';
  expect(await terminal.run('status', '--json')).toBe(0);
  const empty = { hosts: [], machines: [], migrations: [], locks: [], drains: [], missing: [] };
  expect(JSON.parse(terminal.stdout)).toMatchObject({ ...empty, status: { attention: [], machines: 0 } });
  for (const noun of ['migration', 'drain', 'lock']) {
    terminal.stdout = '';
    expect(await terminal.run(noun, 'list')).toBe(0);
    expect(terminal.stdout).toMatch(/^No (migrations|drains|network is locked)\.\n$/);
  }
  terminal.stdout = '';
  expect(await terminal.run('volume', 'list')).toBe(0);
  expect(await terminal.run('lock', 'explain', 'default')).toBe(0);
  expect(terminal.stdout).toContain('No volumes.\nNetwork: default\nLock: free\n\nNobody holds it.\n');
});

test('status shows what can be had when a part of it cannot', async () => {
  const terminal = await terminalFor({
    hosts: { listHosts: () => ({}) },
    machines: {
      listMachines: () => {
        throw new FerryError('store_unreachable', 'Redis does not answer');
      },
    },
    migrations: { listMigrations: () => ({}) },
    locks: { listLocks: () => ({}) },
    drains: { listDrains: () => ({}) },
    cluster: { getStatus: () => ({ machines: 7, attention: ['Look at Redis.'] }) },
  });
  expect(await terminal.run('status')).toBe(0);
  expect(terminal.stdout).toContain(
    'Attention\n  - could not be asked for: Machines: Redis does not answer [store_unreachable]\n  - Look at Redis.\n',
  );
  expect(terminal.stdout).toContain('  Machines    = 7\n');
});

test('status shows drains that go on, and blocked ones that no newer drain of their host has followed', async () => {
  const older = { state: DrainState.BLOCKED, endedAt: at(0) };
  const drains = [
    { id: 'drn_1', hostId: 'host-1', state: DrainState.RUNNING },
    { id: 'drn_2', hostId: 'host-1', ...older },
    { id: 'drn_3', hostId: 'host-2', ...older },
    { id: 'drn_4', hostId: 'host-3', state: DrainState.DONE, endedAt: at(0) },
    { id: 'drn_5', hostId: 'host-3', ...older },
  ];
  const terminal = await terminalFor({
    hosts: { listHosts: () => ({}) },
    machines: { listMachines: () => ({}) },
    migrations: { listMigrations: () => ({}) },
    locks: { listLocks: () => ({}) },
    drains: { listDrains: () => ({ drains }) },
    cluster: { getStatus: () => ({}) },
  });
  expect(await terminal.run('status')).toBe(0);
  expect(terminal.stdout.match(/^drn_\d/gm)).toEqual(['drn_1', 'drn_3']);
});

describe.skipIf(!existsSync(oldNode) || majorOf(oldNode) >= 24)('an older Node (needs one at /usr/bin/node)', () => {
  const entry = fileURLToPath(new URL('ferry.mjs', import.meta.url));

  test('hands over to the one that the package brings along', () => {
    const { status, stdout } = spawnSync(oldNode, [entry, '--version'], { encoding: 'utf8' });
    expect({ status, stdout }).toEqual({ status: 0, stdout: `${version}\n` });
  });

  test('is refused in one sentence where that is missing', () => {
    const folder = mkdtempSync(join(tmpdir(), 'ferry-alone-'));
    copyFileSync(entry, join(folder, 'ferry.mjs'));
    const { status, stderr } = spawnSync(oldNode, [join(folder, 'ferry.mjs'), 'status'], { encoding: 'utf8' });
    rmSync(folder, { recursive: true });
    expect(status).toBe(2);
    expect(stderr).toMatch(/^ferry: needs Node 24 or newer, and this is Node \d[^\n]*\n$/);
  });
});

function majorOf(node: string): number {
  const { stdout } = spawnSync(node, ['-p', 'process.versions.node'], { encoding: 'utf8' });
  return Number((stdout ?? '0').split('.')[0]);
}
