import fc from 'fast-check';
import { expect, it } from 'vitest';
import { Bitmap } from './bitmap.ts';

it('does what a list of booleans does', () => {
  const step = fc.record({ from: fc.nat(199), length: fc.nat(120), value: fc.boolean() });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 200 }), fc.array(step, { maxLength: 8 }), (length, steps) => {
      const bitmap = new Bitmap(length);
      const list = Array.from({ length }, () => false);
      for (const { from, length: count, value } of steps) {
        const start = Math.min(from, length);
        const end = Math.min(start + count, length);
        bitmap.fill(start, end, value);
        list.fill(value, start, end);
      }
      expect(list.map((_, index) => bitmap.has(index))).toEqual(list);
      expect(bitmap.count()).toBe(list.filter(Boolean).length);
      for (let at = 0; at <= length; at += 1) {
        for (const value of [true, false]) {
          const expected = list.indexOf(value, at);
          expect(bitmap.next(at, value)).toBe(expected < 0 ? length : expected);
        }
      }
      const fromRuns = Array.from({ length }, () => false);
      for (const [from, to] of bitmap.runs()) fromRuns.fill(true, from, to);
      expect(fromRuns).toEqual(list);
    }),
  );
});
