import { setImmediate } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Slots } from './slots.ts';

const never = new AbortController().signal;

test('at most so many at once; the others in their order; giving back twice is harmless', async () => {
  const slots = new Slots(2, 10);
  const first = await slots.take(never);
  await slots.take(never);
  const order: string[] = [];
  const third = slots.take(never).then(() => order.push('third'));
  const fourth = slots.take(never).then(() => order.push('fourth'));
  await setImmediate();
  expect(order).toEqual([]);
  first();
  first();
  await third;
  await setImmediate();
  expect(order).toEqual(['third']);
  expect(slots.full).toBe(true);
  void fourth;
});

test('a full line refuses; one who leaves makes room and takes no place', async () => {
  const slots = new Slots(1, 1);
  const first = await slots.take(never);
  const leaving = new AbortController();
  const second = slots.take(leaving.signal);
  expect(() => slots.requireRoom()).toThrow(expect.objectContaining({ reason: 'overloaded' }));
  leaving.abort(new Error('left'));
  await expect(second).rejects.toThrow('left');
  slots.requireRoom();
  first();
  expect(slots.full).toBe(false);
});
