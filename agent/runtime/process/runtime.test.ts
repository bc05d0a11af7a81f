// Past 300 lines: the whole port on real processes, with one way to start and to look at them.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { link, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '../../../shared/clock.ts';
import { newMachineId, ulid } from '../../../shared/ids.ts';
import { systemRandom } from '../../../shared/random.ts';
import type { StartSpec } from '../runtime.ts';
import { parseIdentity, readBootId, readStat } from './identity.ts';
import { Instance } from './instance.ts';
import { ProcessRuntime } from './runtime.ts';

const NODE = process.execPath;
const isRoot = process.getuid?.() === 0;

let directory: string;
let runtime: ProcessRuntime;
let machineId: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'ferry-runtime-'));
  runtime = await ProcessRuntime.open({
    directory: join(directory, 'machines'),
    clock: systemClock,
    path: process.env.PATH!,
  });
  machineId = newMachineId(systemRandom);
});

afterEach(async () => {
  await runtime.kill(machineId, [directory]);
  await runtime.forget(machineId);
  await rm(directory, { recursive: true, force: true });
});

const forever = new AbortController().signal;

function spec(command: readonly string[], over: Partial<StartSpec> = {}): StartSpec {
  const instanceId = ulid(Date.now(), systemRandom);
  return { machineId, instanceId, command, env: { PATH: process.env.PATH! }, cwd: '/', memoryMb: null, ...over };
}

/** Starts a program and waits until it ended. */
async function run(command: readonly string[], over: Partial<StartSpec> = {}) {
  const started = spec(command, over);
  await runtime.start(started);
  const ending = await runtime.waitExit(machineId, started.instanceId, forever);
  if (ending.kind !== 'exited') throw new Error(ending.reason);
  return ending.exit;
}

/** The first line that the Machine's program wrote. */
async function firstLine(): Promise<string> {
  const stop = new AbortController();
  for await (const line of runtime.readLog(machineId, { tailLines: 100, follow: true, signal: stop.signal }))
    return line;
  throw new Error('the log ended');
}

async function log(tailLines = 100): Promise<string[]> {
  const lines: string[] = [];
  for await (const line of runtime.readLog(machineId, { tailLines, follow: false, signal: forever })) lines.push(line);
  return lines;
}

function instancePath(instanceId: string, name = ''): string {
  return join(directory, 'machines', machineId, instanceId, name);
}

async function identityIn(instanceId: string, record: 'shim' | 'main') {
  return parseIdentity(await readFile(instancePath(instanceId, record), 'utf8'))!;
}

/** Resolves when a process that need not be ours is gone. */
async function gone(pid: number): Promise<void> {
  for (;;) {
    const stat = await readStat(pid);
    if (stat === undefined || stat.dead) return;
    await systemClock.sleep(5);
  }
}

describe('a program', () => {
  test('its exit code is recorded', async () => {
    expect(await run(['sh', '-c', 'exit 7'])).toMatchObject({ exitCode: 7, signal: null });
    expect(await run(['/bin/true'])).toMatchObject({ exitCode: 0, signal: null });
  });

  test('gets its arguments, environment and working directory unchanged', async () => {
    const env = { PATH: '/nowhere', dir: 'd', pid: 'p', stat: 's', IFS_: 'x y', EMPTY: '' };
    const script = 'console.log(JSON.stringify([process.argv.slice(1), process.env, process.cwd()]))';
    await run([NODE, '-e', script, 'a b', '', '$x*'], { env, cwd: directory });
    const [args, seen, cwd] = JSON.parse((await log())[0]!);
    expect(args).toEqual(['a b', '', '$x*']);
    expect(seen).toMatchObject(env);
    const added = Object.keys(seen).filter((name) => !(name in env));
    expect(added.sort()).toEqual(['FERRY_RUNTIME_TAG', 'PWD']);
    expect(cwd).toBe(directory);
  });

  test('the default stop signal arrives, once, at the main process', async () => {
    const started = spec([
      NODE,
      '-e',
      `process.on('SIGINT', () => { console.log('got SIGINT'); setTimeout(() => process.exit(3), 50); });
       setInterval(() => {}, 1000); console.log('ready');`,
    ]);
    await runtime.start(started);
    expect(await firstLine()).toBe('ready');
    await runtime.signal(machineId, started.instanceId, 'SIGINT');
    expect(await runtime.waitExit(machineId, started.instanceId, forever)).toMatchObject({
      kind: 'exited',
      exit: { exitCode: 3, signal: null },
    });
    expect(await log()).toEqual(['ready', 'got SIGINT']);
  });

  test.each(['SIGINT', 'SIGTERM', 'SIGUSR1'] as const)('that does nothing about %s is ended by it', async (name) => {
    const started = spec(['sleep', '1000']);
    await runtime.start(started);
    await runtime.signal(machineId, started.instanceId, name);
    const ending = await runtime.waitExit(machineId, started.instanceId, forever);
    expect(ending).toMatchObject({ kind: 'exited', exit: { exitCode: null, signal: name } });
    expect(await log()).toEqual([]);
  });

  test('that ignores its signal is killed, and the kill is recorded', async () => {
    const started = spec(['sh', '-c', 'trap "" INT; echo ready; while :; do sleep 1000; done']);
    await runtime.start(started);
    await firstLine();
    await runtime.signal(machineId, started.instanceId, 'SIGINT');
    expect(await runtime.inspect(machineId, started.instanceId)).toMatchObject({ kind: 'running' });
    await runtime.kill(machineId, []);
    const ending = await runtime.waitExit(machineId, started.instanceId, forever);
    expect(ending).toMatchObject({ kind: 'exited', exit: { exitCode: null, signal: 'SIGKILL' } });
    expect(await runtime.survivors(machineId, [])).toEqual([]);
  });

  test('that signals its whole process group does not hinder the record', async () => {
    expect(await run(['sh', '-c', 'trap "exit 5" TERM; kill -TERM 0; sleep 1000'])).toMatchObject({ exitCode: 5 });
  });
});

describe('refusals', () => {
  test('a missing program or working directory is named, and nothing is spawned', async () => {
    await expect(runtime.start(spec(['no-such-program']))).rejects.toMatchObject({ reason: 'cannot_run' });
    await expect(runtime.start(spec(['./relative']))).rejects.toMatchObject({ reason: 'cannot_run' });
    await expect(runtime.start(spec(['sleep', '1'], { cwd: '/no/such' }))).rejects.toMatchObject({
      reason: 'cannot_run',
    });
    await expect(runtime.canRun(['sleep'], {}, '/')).resolves.toBeUndefined();
  });

  test('IDs that are not IDs', async () => {
    await expect(runtime.inspect('../../etc', 'x')).rejects.toMatchObject({ reason: 'invalid_argument' });
  });

  test('a second start while any process of the Machine lives', async () => {
    await runtime.start(spec(['sleep', '1000']));
    await expect(runtime.start(spec(['true']))).rejects.toMatchObject({ reason: 'process_alive' });
    await expect(runtime.forget(machineId)).rejects.toMatchObject({ reason: 'process_alive' });
  });

  test('the same start again answers with what became of it', async () => {
    const started = spec(['sleep', '1000']);
    const first = await runtime.start(started);
    expect(first.kind).toBe('running');
    expect(await runtime.start(started)).toEqual(first);
  });
});

describe('survivors', () => {
  const daemon = (keep: string) => `
    const { spawn } = require('node:child_process');
    const inner = "require('node:fs').openSync(process.argv[1], 'r+'); console.log('daemon ' + process.pid); setInterval(() => {}, 1000)";
    const outer = "require('node:child_process').spawn(process.execPath, ['-e', process.argv[1], process.argv[2]], { detached: true, stdio: 'inherit', env: process.env }).unref()";
    spawn(process.execPath, ['-e', outer, inner, process.argv[1]], { detached: true, stdio: 'inherit', env: ${keep} });`;

  async function startDaemon(env: string) {
    const volume = join(directory, 'volume.img');
    await writeFile(volume, 'data');
    const started = spec([NODE, '-e', daemon(env), volume]);
    await runtime.start(started);
    const pid = Number((await firstLine()).split(' ')[1]);
    expect(await runtime.waitExit(machineId, started.instanceId, forever)).toMatchObject({ exit: { exitCode: 0 } });
    return { pid, volume };
  }

  test('a daemon that left session and parent is seen, and killed', async () => {
    const { pid } = await startDaemon('process.env');
    await expect.poll(() => runtime.survivors(machineId, [])).toMatchObject([{ pid, why: isRoot ? 'cgroup' : 'tag' }]);
    await runtime.kill(machineId, []);
    await gone(pid);
    expect(await runtime.survivors(machineId, [])).toEqual([]);
  });

  test('a daemon with a clean environment is seen by its cgroup or by the volume that it keeps open', async () => {
    const { pid, volume } = await startDaemon('{}');
    await expect
      .poll(() => runtime.survivors(machineId, [volume]))
      .toMatchObject([{ pid, why: isRoot ? 'cgroup' : 'open-file' }]);
    await runtime.kill(machineId, [volume]);
    await gone(pid);
  });

  test('a stranger that keeps the volume open is named, by another name of the file too', async () => {
    const volume = join(directory, 'volume.img');
    await writeFile(volume, 'data');
    await link(volume, join(directory, 'other-name'));
    // Its parent ends, so that it is not the agent's own child.
    const parent = spawn(
      '/bin/sh',
      // It tells its PID once it has the file open.
      ['-c', 'sh -c "echo \\$\\$; exec sleep 1000 >/dev/null" <"$1" &', 'sh', join(directory, 'other-name')],
      {
        stdio: ['ignore', 'pipe', 'ignore'],
      },
    );
    const [[line]] = await Promise.all([once(parent.stdout!, 'data'), once(parent, 'exit')]);
    const pid = Number(line);
    expect(await runtime.survivors(machineId, [volume])).toMatchObject([{ pid, why: 'open-file' }]);
    await runtime.kill(machineId, [volume]);
    await gone(pid);
  });

  test("the agent's own tools at work on the volume are none", async () => {
    const volume = join(directory, 'volume.img');
    await writeFile(volume, 'data');
    const tool = spawn('/bin/sh', ['-c', 'exec <"$1"; echo ready; exec sleep 1000', 'sh', volume]);
    await once(tool.stdout, 'data');
    expect(await runtime.survivors(machineId, [volume])).toEqual([]);
    tool.kill('SIGKILL');
    await once(tool, 'exit');
  });

  test('the shim that records the exit, and its tools, are none; a kill does not lose the record', async () => {
    const [tools, fifo] = [join(directory, 'tools'), join(directory, 'fifo')];
    await mkdir(tools);
    await once(spawn('mkfifo', [fifo]), 'exit');
    const slow = `#!/bin/sh\nPATH=\${PATH#*:}; case $2 in */exit) read line <${fifo};; esac; exec mv "$@"\n`;
    await writeFile(join(tools, 'mv'), slow, { mode: 0o755 });
    const path = `${tools}:${process.env.PATH}`;
    const slowly = await ProcessRuntime.open({ directory: join(directory, 'machines'), clock: systemClock, path });
    const started = spec(['sleep', '1000']);
    const status = await slowly.start(started);
    await slowly.kill(machineId, []);
    if (status.kind === 'running') await gone(status.pid);
    expect(await slowly.survivors(machineId, [])).toEqual([]);
    await slowly.kill(machineId, []);
    await writeFile(fifo, 'go\n');
    const ending = await slowly.waitExit(machineId, started.instanceId, forever);
    expect(ending).toMatchObject({ kind: 'exited', exit: { signal: 'SIGKILL' } });
  });

  test("another agent's Machine of the same ID is none of ours", async () => {
    const other = await ProcessRuntime.open({
      directory: join(directory, 'other'),
      clock: systemClock,
      path: process.env.PATH!,
    });
    await other.start(spec(['sleep', '1000']));
    expect(await runtime.survivors(machineId, [])).toEqual([]);
    await other.kill(machineId, []);
    await other.forget(machineId);
  });
});

describe('adoption', () => {
  const agentScript = join(import.meta.dirname, 'agent.fixture.ts');
  const agents: ChildProcess[] = [];

  afterEach(() => {
    for (const agent of agents.splice(0)) agent.kill('SIGKILL');
  });

  /** An agent of its own process that starts a Machine, says so, and lives on until it is killed. */
  async function startInAgent(started: StartSpec): Promise<ChildProcess> {
    const agent = spawn(NODE, [agentScript, join(directory, 'machines'), JSON.stringify(started)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    agents.push(agent);
    await once(agent.stdout!, 'data');
    return agent;
  }

  async function killed(agent: ChildProcess): Promise<void> {
    agent.kill('SIGKILL');
    await once(agent, 'exit');
  }

  test('a killed agent never kills its Machine; the next one adopts it and learns its exit', async () => {
    const started = spec([
      NODE,
      '-e',
      "process.on('SIGINT', () => process.exit(9)); setInterval(() => {}, 1000); console.log('ready')",
    ]);
    const agent = await startInAgent(started);
    await firstLine();
    await killed(agent);
    const main = await identityIn(started.instanceId, 'main');
    expect(await runtime.adopt(machineId, started.instanceId)).toMatchObject({ kind: 'running', pid: main.pid });
    await runtime.signal(machineId, started.instanceId, 'SIGINT');
    const ending = await runtime.waitExit(machineId, started.instanceId, forever);
    expect(ending).toMatchObject({ kind: 'exited', exit: { exitCode: 9 } });
  });

  test('an exit while no agent was there is found', async () => {
    const started = spec(['sh', '-c', 'read line <"$0"; exit 4', join(directory, 'fifo')]);
    await once(spawn('mkfifo', [join(directory, 'fifo')]), 'exit');
    const agent = await startInAgent(started);
    const shim = await identityIn(started.instanceId, 'shim');
    await killed(agent);
    await writeFile(join(directory, 'fifo'), 'go\n');
    await gone(shim.pid);
    expect(await runtime.adopt(machineId, started.instanceId)).toMatchObject({ kind: 'exited', exit: { exitCode: 4 } });
  });

  test('a killed shim leaves the program running; its end is seen, its exit code unknown', async () => {
    const started = spec(['sleep', '1000']);
    await runtime.start(started);
    process.kill((await identityIn(started.instanceId, 'shim')).pid, 'SIGKILL');
    expect(await runtime.adopt(machineId, started.instanceId)).toMatchObject({ kind: 'running' });
    const ending = runtime.waitExit(machineId, started.instanceId, forever);
    await runtime.signal(machineId, started.instanceId, 'SIGKILL');
    expect(await ending).toMatchObject({ kind: 'lost' });
  });

  test('an intent without a spawn is fenced: a shim that comes late runs nothing', async () => {
    const { instanceId } = spec([]);
    const instance = new Instance(instancePath(instanceId));
    await instance.intend({ machineId, instanceId, command: ['true'], bootId: await readBootId(), oomKills: null });
    expect(await runtime.inspect(machineId, instanceId)).toEqual({ kind: 'starting' });
    expect(await runtime.adopt(machineId, instanceId)).toMatchObject({ kind: 'lost' });
    const ran = join(directory, 'ran');
    expect(await shim(instance, ['touch', ran])).toBe(125);
    await expect(readFile(ran)).rejects.toMatchObject({ code: 'ENOENT' });
    expect(await runtime.adopt(machineId, instanceId)).toMatchObject({ kind: 'lost' });
  });

  test('of many shims for one start only one runs the program', async () => {
    const { instanceId } = spec([]);
    const instance = new Instance(instancePath(instanceId));
    await instance.intend({ machineId, instanceId, command: ['sh'], bootId: await readBootId(), oomKills: null });
    const ran = join(directory, 'ran');
    const program = ['sh', '-c', `echo once >>${ran}`];
    const codes = await Promise.all(Array.from({ length: 8 }, () => shim(instance, program)));
    expect(codes.filter((code) => code === 0)).toHaveLength(1);
    expect(await readFile(ran, 'utf8')).toBe('once\n');
    expect(await runtime.adopt(machineId, instanceId)).toMatchObject({ kind: 'exited', exit: { exitCode: 0 } });
  });

  test('records of an earlier boot, or of a PID that is used again, name no living process', async () => {
    const started = spec(['sleep', '1000']);
    await runtime.start(started);
    const main = await identityIn(started.instanceId, 'main');
    await writeFile(instancePath(started.instanceId, 'main'), `${main.bootId} ${process.pid} ${main.startTicks}\n`);
    await writeFile(instancePath(started.instanceId, 'shim'), `${main.bootId} ${process.pid} 1\n`);
    expect(await runtime.inspect(machineId, started.instanceId)).toMatchObject({ kind: 'lost' });
    const intent = JSON.parse(await readFile(instancePath(started.instanceId, 'intent'), 'utf8'));
    const earlier = { ...intent, bootId: '00000000-0000-0000-0000-000000000000' };
    await writeFile(instancePath(started.instanceId, 'intent'), JSON.stringify(earlier));
    await writeFile(instancePath(started.instanceId, 'main'), `${earlier.bootId} ${main.pid} ${main.startTicks}\n`);
    expect(await runtime.adopt(machineId, started.instanceId)).toEqual({
      kind: 'lost',
      reason: 'the host restarted',
      began: true,
    });
  });

  /** Runs shim.sh as the runtime does; answers its exit code. */
  async function shim(instance: Instance, command: string[]): Promise<number> {
    const args = [join(import.meta.dirname, 'shim.sh'), instance.directory, process.env.PATH!, '', '/', ...command];
    const [code] = await once(spawn('/bin/sh', args, { stdio: 'ignore' }), 'exit');
    return code;
  }
});

describe('the log', () => {
  test('holds the output of all starts', async () => {
    await run(['sh', '-c', 'echo one; echo two >&2']);
    await run(['sh', '-c', 'echo three; printf four']);
    expect(await log()).toEqual(['one', 'two', 'three', 'four']);
    expect(await log(2)).toEqual(['three', 'four']);
  });
});

describe('memory', () => {
  test.skipIf(!isRoot)(
    'a program beyond its limit is killed and says so (needs root and a memory cgroup)',
    async (context) => {
      if (!runtime.limitsMemory) context.skip('no memory cgroup here');
      const hog = 'const all = []; for (;;) all.push(Buffer.alloc(8 << 20, 1));';
      const exit = await run([NODE, '-e', hog], { memoryMb: 96 });
      expect(exit).toMatchObject({ signal: 'SIGKILL', oomKilled: true });
      expect(await run(['true'], { memoryMb: 96 })).toMatchObject({ exitCode: 0, oomKilled: false });
    },
  );
});

describe('without privileges', () => {
  test.skipIf(!isRoot)('a Machine starts, is adopted, stopped and gone (needs root to drop it)', async () => {
    const home = join(directory, 'home');
    await mkdir(home);
    await once(spawn('chown', ['65534:65534', directory, home]), 'exit');
    const script = join(import.meta.dirname, 'unprivileged.fixture.ts');
    const child = spawn(NODE, [script, home, machineId], {
      stdio: ['ignore', 'pipe', 'inherit'],
      uid: 65534,
      gid: 65534,
    });
    const output: Buffer[] = [];
    child.stdout!.on('data', (bytes) => output.push(bytes));
    expect(await once(child, 'exit')).toEqual([0, null]);
    expect(JSON.parse(Buffer.concat(output).toString())).toMatchObject({
      limitsMemory: false,
      running: 'running',
      survivors: ['main'],
      daemon: ['open-file'],
      after: [],
      ending: { kind: 'exited', exit: { signal: 'SIGKILL', oomKilled: null } },
    });
  });
});
