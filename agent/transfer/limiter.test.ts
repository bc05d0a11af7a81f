import { expect, it } from 'vitest';
import { ManualClock } from '../../shared/clock.ts';
import { RateLimiter } from './limiter.ts';

const signal = new AbortController().signal;

/** Lets everything that can run without time passing run. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 50; turn += 1) await Promise.resolve();
}

/** Takes until `ms` have passed; returns the bytes that came through. */
async function through(limiter: RateLimiter, clock: ManualClock, ms: number): Promise<number> {
  const ending = new AbortController();
  let bytes = 0;
  const taking = (async () => {
    for (;;) {
      await limiter.take(1000, ending.signal);
      bytes += 1000;
    }
  })().catch(() => {});
  for (let passed = 0; passed < ms; passed += 10) {
    await settle();
    clock.advance(10);
  }
  await settle();
  ending.abort();
  await taking;
  return bytes;
}

it('lets the ordered rate through, and a new one from then on', async () => {
  const clock = new ManualClock();
  const limiter = new RateLimiter({ clock, bytesPerSecond: 100_000 });
  expect(await through(limiter, clock, 10_000)).toBeCloseTo(1_000_000, -4);
  limiter.setRate(20_000);
  expect(await through(limiter, clock, 10_000)).toBeCloseTo(200_000, -4);
});

it('shares one rate among many', async () => {
  const clock = new ManualClock();
  const limiter = new RateLimiter({ clock, bytesPerSecond: 100_000 });
  const [one, other] = [through(limiter, clock, 5_000), through(limiter, clock, 5_000)];
  expect((await one) + (await other)).toBeCloseTo(1_000_000, -5);
});

it('lets a waiting one go when the limit is lifted, and rejects it when it is aborted', async () => {
  const clock = new ManualClock();
  const limiter = new RateLimiter({ clock, bytesPerSecond: 1 });
  await limiter.take(1_000_000, signal);
  const controller = new AbortController();
  const aborted = limiter.take(1, controller.signal);
  const lifted = limiter.take(1, signal);
  await settle();
  controller.abort(new Error('enough'));
  await expect(aborted).rejects.toThrow('enough');
  await settle();
  limiter.setRate(null);
  clock.advance(100);
  await lifted;
  for (let i = 0; i < 100; i += 1) await limiter.take(1_000_000, signal);
});
