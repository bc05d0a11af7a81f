import { expect, test } from 'vitest';
import { ManualClock } from '../../shared/clock.ts';
import { type StopRequest, stopProcess } from './stop.ts';
import { exited, FakeRuntime, killed, MACHINE_ID } from './supervisor.testkit.ts';

const never = new AbortController().signal;
const daemon = { pid: 7, command: 'daemon', why: 'tag' } as const;

/** A running program, and a stop of it that began at 1,000,000 ms with a timeout of 5 s. */
async function running(over: Partial<StopRequest> = {}) {
  const clock = new ManualClock(1_000_000);
  const runtime = new FakeRuntime([]);
  const ids = { machineId: MACHINE_ID, instanceId: 'I' };
  await runtime.start({ ...ids, command: [], env: {}, cwd: '/', memoryMb: null });
  runtime.trace.length = 0;
  const request: StopRequest = {
    ...ids,
    signal: 'SIGTERM',
    timeoutMs: 5_000,
    signalSentAtMs: null,
    openPaths: [],
    onSignalSent: (atMs) => void runtime.trace.push(`record ${atMs}`),
    ...over,
  };
  return { clock, runtime, stop: (abort = never) => stopProcess(runtime, clock, request, abort) };
}

test('a program that obeys', async () => {
  const { runtime, stop } = await running();
  const result = { ending: exited(0), signalSentAtMs: 1_000_000, goneAtMs: 1_000_000, killed: false, survivors: [] };
  expect(await stop()).toEqual(result);
  expect(runtime.trace).toEqual(['record 1000000', 'signal SIGTERM', 'program ends: SIGTERM']);
});

test('a program that has ended before gets no signal', async () => {
  const { runtime, stop } = await running();
  runtime.end('I', exited(3));
  expect(await stop()).toMatchObject({ ending: exited(3), signalSentAtMs: null, killed: false });
  expect(runtime.trace).toEqual(['program ends: exit']);
});

test('a signal that cannot be recorded is not sent', async () => {
  const { runtime, stop } = await running({ onSignalSent: () => Promise.reject(new Error('disk full')) });
  await expect(stop()).rejects.toThrow('disk full');
  expect(runtime.trace).toEqual([]);
});

test('a deaf program is killed after the timeout; of an earlier signal only the rest is waited for', async () => {
  const { clock, runtime, stop } = await running({ signalSentAtMs: 998_000 });
  const stopped = stop();
  await expect.poll(() => clock.sleeping).toBe(1);
  clock.advance(2_999);
  expect(runtime.trace).toEqual([]);
  clock.advance(1);
  expect(await stopped).toMatchObject({ ending: killed(), killed: true, signalSentAtMs: 998_000, goneAtMs: 1_003_000 });
});

test('a clock that was set back does not stretch the wait', async () => {
  const { clock, stop } = await running({ signalSentAtMs: 9_000_000 });
  const stopped = stop();
  await expect.poll(() => clock.sleeping).toBe(1);
  clock.advance(5_000);
  expect(await stopped).toMatchObject({ killed: true });
});

test('a daemon that outlives the program has the rest of the timeout, then it is killed and named', async () => {
  const { clock, runtime, stop } = await running();
  runtime.others = [daemon];
  const stopped = stop();
  await expect.poll(() => clock.sleeping).toBe(2);
  clock.advance(5_000);
  expect(await stopped).toMatchObject({ ending: exited(0), killed: false, survivors: [daemon] });
  expect(runtime.others).toEqual([]);
});

test('a daemon that ends by itself is waited for', async () => {
  const { clock, runtime, stop } = await running();
  runtime.others = [daemon];
  const stopped = stop();
  await expect.poll(() => clock.sleeping).toBe(2);
  runtime.others = [];
  clock.advance(50);
  expect(await stopped).toMatchObject({ survivors: [], goneAtMs: 1_000_050 });
});

test('aborted, it leaves the program as it is', async () => {
  const { clock, runtime, stop } = await running();
  runtime.onSignal = () => {};
  const abort = new AbortController();
  const stopped = stop(abort.signal);
  await expect.poll(() => clock.sleeping).toBe(1);
  abort.abort(new Error('the agent is stopping'));
  await expect(stopped).rejects.toThrow('the agent is stopping');
  expect(runtime.trace).toEqual(['record 1000000', 'signal SIGTERM']);
});
