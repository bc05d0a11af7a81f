import fc from 'fast-check';
import { expect, it } from 'vitest';
import { AllocationMap } from './extents.ts';

it('a map answers any question as its bytes would', () => {
  const range = fc.tuple(fc.nat(50), fc.integer({ min: 1, max: 20 }));
  fc.assert(
    fc.property(
      fc.array(range, { maxLength: 8 }),
      fc.nat(99),
      fc.integer({ min: 1, max: 100 }),
      (ranges, from, count) => {
        const bytes = Array.from({ length: 100 }, () => false);
        const map = new AllocationMap(100, { kind: 'extents' });
        let start = 0;
        for (const [gap, length] of ranges) {
          start += gap;
          map.add(start, start + length);
          if (start < 100) bytes.fill(true, start, Math.min(start + length, 100));
          start += length;
        }
        const end = Math.min(from + count, 100);
        const extents = map.extents(from, count);
        expect(extents.flatMap(({ length, flags }) => Array(length).fill(flags === 0))).toEqual(bytes.slice(from, end));
        expect(extents[0]?.offset).toBe(from);
        expect(map.isHole(from, count)).toBe(!bytes.slice(from, end).includes(true));
        expect(map.extents(from, count, 1).length).toBe(1);
      },
    ),
  );
});
