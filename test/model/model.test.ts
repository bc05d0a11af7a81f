/** The hand-over's promises I1–I7, I9, I10 over every reachable state, and one mutant for each rule. Traces: `main.ts --traces`. */
import { afterAll, describe, expect, it } from 'vitest';
import { breakLine, breaks, proofLine, proofs, told } from './run.ts';

const depth = process.env.FERRY_MODEL === 'deep' ? 'deep' : 'quick';
const lines: string[] = [];

afterAll(() => {
  process.stdout.write(`\n${lines.join('\n')}\n`);
});

describe('with every rule in place', () => {
  it.each(proofs(depth))('$name holds', { timeout: 3_600_000 }, (proof) => {
    const found = proof.run();
    lines.push(proofLine(proof.name, found));
    expect(found.kind, told(found)).toBe('holds');
  });
});

describe('with one rule taken out, the model finds the break', () => {
  it.each(breaks())('$name', { timeout: 300_000 }, (mutant) => {
    const found = mutant.run();
    lines.push(breakLine(mutant, found));
    if (found.kind === 'broken') lines.push(told(found));
    expect(found.kind).toBe('broken');
  });
});
