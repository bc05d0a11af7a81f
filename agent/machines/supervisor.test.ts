import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { ManualClock, systemClock } from '../../shared/clock.ts';
import { durationFromMs } from '../../shared/duration.ts';
import { FerryError } from '../../shared/error.ts';
import { ProcessRuntime } from '../runtime/process/runtime.ts';
import { type Life, newLife } from './lifecycle.ts';
import { exited, MACHINE_ID, machine } from './supervisor.testkit.ts';
import type { Supervisor } from './supervisor.ts';

const never = new AbortController().signal;
const open: Supervisor[] = [];

afterEach(async () => {
  for (const supervisor of open.splice(0)) await supervisor.close();
});

async function run(from: Promise<Supervisor>): Promise<Supervisor> {
  const supervisor = await from;
  open.push(supervisor);
  await supervisor.run();
  return supervisor;
}

function reaches(supervisor: Supervisor, state: Life['status']['state']): Promise<void> {
  return supervisor.until(({ life }) => life.status.state === state, never);
}

describe('start and stop', () => {
  test('each decision is durable before it is acted on', async () => {
    const it = machine(newLife('started'), new ManualClock(), { env: { A: '1' } });
    const supervisor = await run(it.open());
    await reaches(supervisor, 'started');
    expect(it.runtime.last).toMatchObject({
      command: ['program'],
      cwd: '/mnt/v',
      env: { A: '1', FERRY_VOLUME_PATH: '/mnt/v' },
    });
    await supervisor.stop();
    await reaches(supervisor, 'stopped');
    expect(it.trace).toEqual([
      'save starting',
      'attach',
      'start',
      'save started',
      'save stopping',
      'save stopping signal-sent',
      'signal SIGINT',
      'program ends: SIGINT',
      'detach',
      'save stopped',
    ]);
    expect(it.store.events.map(({ type, status, source }) => `${status} ${type} ${source}`)).toEqual([
      'starting launch agent',
      'started start agent',
      'stopping stop user',
      'stopped exit agent',
    ]);
    expect(it.store.events.at(-1)!.exitEvent).toMatchObject({ exitCode: 0, requestedStop: true, restarting: false });
  });

  test('an order that cannot be recorded changes nothing', async () => {
    const it = machine(newLife('started'), new ManualClock());
    const supervisor = await run(it.open());
    await reaches(supervisor, 'started');
    it.store.broken = true;
    await expect(supervisor.stop()).rejects.toMatchObject({ reason: 'no_space' });
    expect(supervisor.life).toMatchObject({ desired: 'started', status: { state: 'started' } });
    expect(it.trace).not.toContain('signal SIGINT');
  });

  test('a program that ignores its signal is killed after the timeout', async () => {
    const clock = new ManualClock();
    const it = machine(newLife('started'), clock);
    it.runtime.onSignal = () => {};
    const supervisor = await run(it.open());
    await reaches(supervisor, 'started');
    await supervisor.stop({ signal: 'SIGTERM', timeoutMs: 60_000 });
    await expect.poll(() => it.trace.includes('signal SIGTERM') && clock.sleeping > 0).toBe(true);
    clock.advance(59_999);
    expect(supervisor.life.status.state).toBe('stopping');
    clock.advance(1);
    await reaches(supervisor, 'stopped');
    expect(supervisor.life.status).toMatchObject({ stop: { killed: true } });
    expect(it.store.events.at(-1)!.exitEvent).toMatchObject({ guestSignal: 'SIGKILL', oomKilled: false });
  });

  test('a program that cannot run fails at once, with the reason', async () => {
    const it = machine(newLife('started'), new ManualClock());
    it.runtime.refusal = new FerryError('cannot_run', 'no such program');
    const supervisor = await run(it.open());
    await expect(supervisor.waitHealthy(never)).rejects.toMatchObject({
      reason: 'start_failed',
      message: 'no such program',
    });
    expect(supervisor.reason).toBe('no such program');
    expect(it.trace.at(-2)).toBe('detach');
  });

  test('destroy leaves nothing', async () => {
    const it = machine(newLife('started'), new ManualClock());
    const supervisor = await run(it.open());
    await reaches(supervisor, 'started');
    await expect(supervisor.destroy(false)).rejects.toMatchObject({ reason: 'machine_running' });
    await supervisor.destroy(true);
    await reaches(supervisor, 'destroyed');
    expect(it.trace.slice(-3)).toEqual(['detach', 'forget', 'save destroyed']);
  });
});

describe('restart policy', () => {
  test('what the program left behind is killed and its volume detached before the exit is recorded', async () => {
    const it = machine(newLife('started'), new ManualClock());
    const supervisor = await run(it.open());
    await reaches(supervisor, 'started');
    it.runtime.others = [{ pid: 7, command: 'daemon', why: 'tag' }];
    it.runtime.end(it.runtime.last.instanceId, exited(0));
    await reaches(supervisor, 'stopped');
    expect(it.runtime.others).toEqual([]);
    expect(it.trace.slice(-3)).toEqual(['program ends: exit', 'detach', 'save stopped']);
  });

  test('a failure starts a new instance after the backoff', async () => {
    const clock = new ManualClock();
    const it = machine(newLife('started'), clock);
    const supervisor = await run(it.open());
    await reaches(supervisor, 'started');
    const first = it.runtime.last.instanceId;
    it.runtime.end(first, exited(1));
    await reaches(supervisor, 'restarting');
    expect(supervisor.reason).toBe('exit code 1');
    await expect.poll(() => clock.sleeping).toBe(1);
    clock.advance(250);
    await reaches(supervisor, 'started');
    expect(it.runtime.last.instanceId).not.toBe(first);
    expect(supervisor.life.restartCount).toBe(1);
  });
});

describe('a new agent', () => {
  /** A Machine whose agent ended in some status. */
  async function restarted(status: Life['status'], prepare: (it: ReturnType<typeof machine>) => void = () => {}) {
    const clock = new ManualClock(10_000);
    const it = machine({ ...newLife('started'), status, instanceId: 'I' }, clock);
    it.runtime.specs.push({ machineId: MACHINE_ID, instanceId: 'I', command: [], env: {}, cwd: '/', memoryMb: null });
    prepare(it);
    return { ...it, clock, supervisor: await run(it.open()) };
  }

  test('adopts a running program', async () => {
    const { supervisor, trace } = await restarted({ state: 'starting', instanceId: 'I' });
    await reaches(supervisor, 'started');
    expect(trace).toEqual(['save started']);
  });

  test('learns of an exit', async () => {
    const started = { state: 'started', instanceId: 'I', startedAtMs: 1 } as const;
    const { supervisor } = await restarted(started, ({ runtime }) => runtime.endings.set('I', exited(0)));
    await reaches(supervisor, 'stopped');
  });

  test('starts what was decided and not begun; another instance if the first can never begin', async () => {
    const none = await restarted({ state: 'starting', instanceId: 'I' }, ({ runtime }) => runtime.specs.pop());
    await reaches(none.supervisor, 'started');
    expect(none.runtime.last.instanceId).toBe('I');
    const fenced = await restarted({ state: 'starting', instanceId: 'I' }, ({ runtime }) =>
      runtime.endings.set('I', { kind: 'lost', reason: 'fenced', began: false }),
    );
    await reaches(fenced.supervisor, 'started');
    expect(fenced.runtime.last.instanceId).not.toBe('I');
    expect(fenced.supervisor.life.restartCount).toBe(0);
  });

  test('never signals twice: it waits for the rest of the timeout, then kills', async () => {
    const stopping = { state: 'stopping', instanceId: 'I', signal: 'SIGINT', timeoutMs: 5_000 } as const;
    const { supervisor, clock, trace } = await restarted({ ...stopping, signalSentAtMs: 8_000 });
    await supervisor.stop();
    await expect.poll(() => clock.sleeping).toBe(1);
    clock.advance(2_999);
    expect(supervisor.life.status.state).toBe('stopping');
    clock.advance(1);
    await reaches(supervisor, 'stopped');
    expect(trace.filter((line) => line.startsWith('signal'))).toEqual([]);
    expect(trace).toContain('program ends: SIGKILL');
    expect(supervisor.life.status).toMatchObject({ stop: { signalSentAtMs: 8_000, killed: true } });
  });

  test('starts nothing that is held', async () => {
    const it = machine(newLife('started'), new ManualClock());
    const held = await it.open();
    await held.hold('migration mig_1');
    await run(Promise.resolve(held));
    const other = await run(it.open());
    expect(other.life.status.state).toBe('created');
    expect(other.reason).toBe('migration mig_1');
    await other.release();
    await reaches(other, 'started');
  });
});

describe('a migration', () => {
  async function held() {
    const it = machine(newLife('started'), new ManualClock(100));
    const supervisor = await run(it.open());
    await reaches(supervisor, 'started');
    await supervisor.hold('migration mig_1');
    return { ...it, supervisor };
  }

  test('records the signal before it is sent, once, and learns when all is gone', async () => {
    const { supervisor, trace } = await held();
    trace.length = 0;
    const onSignalSent = (atMs: number) => void trace.push(`migration records ${atMs}`);
    const stop = { signalSentAtMs: null, onSignalSent };
    const times = await supervisor.stopHeld(stop, never);
    expect(times).toEqual({ signalSentAtMs: 100, exitedAtMs: 2, goneAtMs: 100, killed: false });
    expect(trace).toEqual([
      'save stopping',
      'migration records 100',
      'save stopping signal-sent',
      'signal SIGINT',
      'program ends: SIGINT',
      'detach',
      'save stopped',
    ]);
    expect(await supervisor.stopHeld(stop, never)).toEqual(times);
    expect(supervisor.life.desired).toBe('started');
    expect(await supervisor.start()).toContain('mig_1');
    await supervisor.handOver('host-b');
    await expect(supervisor.start()).rejects.toMatchObject({ reason: 'not_owner' });
  });

  test('a volume that stays held is named, and the stop goes on when it is free', async () => {
    const { supervisor, volume } = await held();
    volume.held = new FerryError('volume_busy', 'process 7 holds it');
    const stop = { signalSentAtMs: null, onSignalSent: () => {} };
    await expect(supervisor.stopHeld(stop, never)).rejects.toMatchObject({ reason: 'volume_busy' });
    expect(supervisor.reason).toBe('process 7 holds it');
    expect(supervisor.life.status.state).toBe('stopping');
    volume.held = undefined;
    await supervisor.close();
  });

  test('aborted, the Machine starts again', async () => {
    const { supervisor } = await held();
    await supervisor.stopHeld({ signalSentAtMs: null, onSignalSent: () => {} }, never);
    await supervisor.release();
    await reaches(supervisor, 'started');
  });

  test('a stopped Machine stays stopped', async () => {
    const it = machine(newLife('stopped'), new ManualClock());
    const supervisor = await run(it.open());
    await supervisor.hold('migration mig_1');
    expect(await supervisor.stopHeld({ signalSentAtMs: null, onSignalSent: () => {} }, never)).toBeNull();
    await supervisor.release();
    expect(supervisor.life.status.state).toBe('created');
  });
});

test('real processes: started, checked, killed when deaf to its signal, seen by a second agent', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'ferry-supervisor-'));
  const runtime = await ProcessRuntime.open({ directory, clock: systemClock, path: process.env.PATH! });
  const script = `process.on('SIGTERM', () => console.log('deaf'));
    require('node:net').createServer().listen(0, process.env.FERRY_BIND_IP, function () { console.log(this.address().port); });`;
  const it = machine(newLife('started'), systemClock, {
    init: { exec: [process.execPath, '-e', script] },
    stopConfig: { signal: 'SIGTERM', timeout: durationFromMs(300) },
  });
  it.volume.attach = async () => ({ path: directory, kind: 'raw' }) as never;
  it.volume.openPaths = () => [];
  const first = await run(it.open({ runtime }));
  await reaches(first, 'started');
  await first.close();
  const second = await run(it.open({ runtime }));
  for await (const line of runtime.readLog(MACHINE_ID, { tailLines: 1, follow: true, signal: never })) {
    expect(Number(line)).toBeGreaterThan(0);
    break;
  }
  expect(second.life.instanceId).toBe(first.life.instanceId);
  await second.stop();
  await reaches(second, 'stopped');
  expect(second.life.status).toMatchObject({ stop: { killed: true } });
  expect(it.store.events.at(-1)!.exitEvent).toMatchObject({ guestSignal: 'SIGKILL', requestedStop: true });
  await second.destroy(false);
  await reaches(second, 'destroyed');
  await rm(directory, { recursive: true });
});
