import { once } from 'node:events';
import { createServer } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { describe, expect, test } from 'vitest';
import { ManualClock, systemClock } from '../../shared/clock.ts';
import { type CheckResult, HealthChecks, type ProbeResult, probeNetwork } from './checks.ts';
import type { CheckSettings } from './config.ts';

function settings(over: Partial<CheckSettings> = {}): CheckSettings {
  const times = { intervalMs: 2_000, timeoutMs: 1_000, gracePeriodMs: 1_000 };
  return { name: 'web', type: 'http', port: 80, method: 'GET', path: '/', ...times, ...over };
}

/** A check whose answers the test gives one by one, on a clock that the test moves. */
function stepped(check = settings()) {
  const clock = new ManualClock();
  const stop = new AbortController();
  let changed = Promise.withResolvers<void>();
  let asked = Promise.withResolvers<(result: ProbeResult) => void>();
  const checks = new HealthChecks({
    checks: [check],
    address: '127.0.0.1',
    startedAtMs: clock.nowMs(),
    clock,
    onChange: () => {
      changed.resolve();
      changed = Promise.withResolvers<void>();
    },
    probe: (_check, _address, signal) =>
      new Promise((resolve, reject) => {
        signal.addEventListener('abort', () => reject(signal.reason));
        asked.resolve(resolve);
      }),
  });
  const running = checks.run(stop.signal);
  return {
    clock,
    checks,
    status: (): CheckResult => checks.results[0]!,
    async answer(ok: boolean, output = '') {
      const resolve = await asked.promise;
      asked = Promise.withResolvers();
      const then = changed.promise;
      resolve({ ok, output });
      return then;
    },
    async untilAsked() {
      await asked.promise;
    },
    async change(action: () => void) {
      const then = changed.promise;
      action();
      await then;
    },
    async [Symbol.asyncDispose]() {
      stop.abort();
      await running;
    },
  };
}

describe('statuses', () => {
  test('nothing known is a warning, an answer passes, a failure is critical', async () => {
    await using check = stepped();
    expect(check.status()).toMatchObject({ status: 'warning', output: 'no result yet' });
    await check.answer(true, '200 OK: fine\n\n');
    expect(check.status()).toMatchObject({ status: 'passing', output: '200 OK: fine' });
    expect(check.checks.healthy).toBe(true);
    await expect.poll(() => check.clock.sleeping).toBe(1);
    check.clock.advance(2_000);
    await check.answer(false, 'refused');
    expect(check.status()).toMatchObject({ status: 'critical', output: 'refused' });
    expect(check.checks.healthy).toBe(false);
  });

  test('before the first pass it is repeated sooner; within the grace period a failure is a warning', async () => {
    await using check = stepped(settings({ gracePeriodMs: 100 }));
    void check.answer(false, 'not yet');
    await expect.poll(() => check.status().output).toBe('not yet');
    expect(check.status().status).toBe('warning');
    await expect.poll(() => check.clock.sleeping).toBe(1);
    check.clock.advance(100);
    await check.answer(false, 'still not');
    expect(check.status().status).toBe('critical');
  });

  test('no answer in time is a failure', async () => {
    await using check = stepped(settings({ gracePeriodMs: 0 }));
    await check.untilAsked();
    await check.change(() => check.clock.advance(1_000));
    expect(check.status()).toMatchObject({ status: 'critical', output: 'no answer within 1000 ms' });
  });

  test('without checks: healthy after 5 s', async () => {
    const clock = new ManualClock();
    const stop = new AbortController();
    const { promise, resolve } = Promise.withResolvers<void>();
    const options = { checks: [], address: '', startedAtMs: clock.nowMs() - 2_000, clock, onChange: resolve };
    const checks = new HealthChecks(options);
    const running = checks.run(stop.signal);
    clock.advance(2_999);
    expect(checks.healthy).toBe(false);
    clock.advance(1);
    await promise;
    expect(checks.healthy).toBe(true);
    await running;
  });
});

describe('over the network', () => {
  const never = new AbortController().signal;

  test('HTTP: 2xx passes with the first bytes of the answer, others do not', async () => {
    const server = createServer((request, response) => {
      response.statusCode = request.url === '/up' && request.method === 'HEAD' ? 204 : request.url === '/' ? 200 : 302;
      response.end('x'.repeat(10_000));
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const look = (over: Partial<CheckSettings>) => probeNetwork(settings({ port, ...over }), '127.0.0.1', never);
    const ok = await look({});
    expect(ok).toMatchObject({ ok: true, output: expect.stringMatching(/^200 OK: xxx/) });
    expect(ok.output.length).toBeLessThan(70_000);
    expect(await look({ method: 'HEAD', path: '/up' })).toMatchObject({ ok: true });
    expect(await look({ path: '/elsewhere' })).toMatchObject({ ok: false });
    server.close();
  });

  test('TCP: a listening port passes, a closed one is named', async () => {
    const server = createTcpServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const check = settings({ type: 'tcp', port });
    expect(await probeNetwork(check, '127.0.0.1', never)).toMatchObject({ ok: true });
    server.close();
    await once(server, 'close');
    await expect(probeNetwork(check, '127.0.0.1', never)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  });

  test('a server that never answers is given up', async () => {
    const server = createTcpServer(() => {}).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const { promise, resolve } = Promise.withResolvers<void>();
    const check = settings({ port, timeoutMs: 100, gracePeriodMs: 0 });
    const options = { checks: [check], address: '127.0.0.1', startedAtMs: Date.now(), clock: systemClock };
    const checks = new HealthChecks({ ...options, onChange: resolve });
    const stop = new AbortController();
    const running = checks.run(stop.signal);
    await promise;
    expect(checks.results[0]).toMatchObject({ status: 'critical', output: 'no answer within 100 ms' });
    stop.abort();
    await running;
    server.close();
  });
});
