import { describe, expect, it } from 'vitest';
import { grant, isOver, type Permit, release } from './permit.ts';

const held: Permit = { network: 'n', holder: 'mig1', fence: 5 };
const free: Permit = { network: 'n', holder: null, fence: 5 };
const wish = (holder: string, fence: number) => ({ network: 'n', holder, fence });

describe('grant', () => {
  it('gives a permit nobody has, and answers a repetition alike', () => {
    expect(grant(null, wish('mig1', 1))).toMatchObject({ ok: true, permit: { holder: 'mig1', fence: 1 } });
    expect(grant(held, wish('mig1', 5))).toMatchObject({ ok: true, permit: held });
    expect(grant(held, wish('mig1', 6))).toMatchObject({ ok: true, permit: { holder: 'mig1', fence: 6 } });
  });

  it('refuses another holder and names the one there', () => {
    expect(grant(held, wish('mig2', 9))).toMatchObject({
      ok: false,
      refusal: { reason: 'held_by_other' },
      holder: 'mig1',
    });
  });

  it('refuses a fence below the highest seen, with that number', () => {
    expect(grant(held, wish('mig1', 4))).toMatchObject({ ok: false, refusal: { reason: 'stale_fence', seen: 5 } });
  });

  it('does not bring a released grant to life again', () => {
    expect(grant(free, wish('mig1', 5))).toMatchObject({ ok: false, refusal: { reason: 'stale_fence', seen: 5 } });
    expect(grant(free, wish('mig2', 6))).toMatchObject({ ok: true });
  });
});

describe('release', () => {
  it('frees exactly this grant and keeps the fence', () => {
    expect(release(held, wish('mig1', 5), false)).toMatchObject({ ok: true, permit: free });
  });

  it.each([
    ['another holder', wish('mig2', 5)],
    ['another fence', wish('mig1', 4)],
  ])('changes nothing for %s', (_case, other) => {
    expect(release(held, other, false)).toMatchObject({ ok: true, permit: held, holder: 'mig1' });
  });

  it('is refused while the Machine is down here', () => {
    expect(release(held, wish('mig1', 5), true)).toMatchObject({ ok: false, refusal: { reason: 'in_use' } });
  });
});

it('a lock is over when the source has its Machine back, or the destination has it up', () => {
  expect(isOver('over', 'active')).toBe(true);
  expect(isOver('handed-over', 'up-here')).toBe(true);
  expect(isOver('handed-over', 'active')).toBe(false);
  expect(isOver('handed-over', 'over')).toBe(false);
  expect(isOver('active', 'over')).toBe(false);
});
