/** Runs the searches and writes down what they found, for the test and for the command line. */
import { handover } from './handover.ts';
import { asking, lockMutants, moving } from './lock-mutants.ts';
import { mutants } from './mutants.ts';
import { lock } from './permits.ts';
import { asBuilt } from './rules.ts';
import { deep, quick } from './scopes.ts';
import { type Found, search } from './search.ts';

/** One search: a world with all rules, or with one taken out. */
export interface Search {
  readonly name: string;
  readonly world: string;
  run(): Found;
}

/** Worlds with every rule in place: each must hold. */
export function proofs(depth: 'quick' | 'deep'): readonly Search[] {
  const statesMax = depth === 'quick' ? 1_000_000 : 12_000_000;
  const machines = (depth === 'quick' ? quick : deep).map((scope) => ({
    name: scope.name,
    world: scope.name,
    run: () => search(handover(scope, asBuilt), statesMax),
  }));
  const more = depth === 'quick' ? [] : [{ ...moving, lateGrants: true }];
  const locks = [asking, moving, ...more].map((bounds) => ({
    name: `network lock, ${bounds.fenceMax} fences${bounds.lateGrants ? ', late grants' : ''}${bounds.moves ? ', two moves' : ''}`,
    world: 'network lock',
    run: () => search(lock(asBuilt, bounds), statesMax),
  }));
  return [...machines, ...locks];
}

/** Worlds with one rule taken out: each must break. */
export function breaks(): readonly Search[] {
  const machines = mutants.map(({ rule, scope, rules }) => ({
    name: rule,
    world: scope.name,
    run: () => search(handover(scope, rules), 1_000_000),
  }));
  const locks = lockMutants.map(({ rule, rules, bounds }) => ({
    name: rule,
    world: 'network lock',
    run: () => search(lock(rules, bounds), 1_000_000),
  }));
  return [...machines, ...locks];
}

export function proofLine(name: string, found: Found): string {
  const number = found.states.toLocaleString('en').padStart(11);
  if (found.kind === 'holds') {
    return `${number} states  ${found.steps.toLocaleString('en').padStart(11)} steps  depth ${String(found.depth).padStart(2)}  ${name}: holds`;
  }
  return `${number} states  ${name}: ${found.kind === 'broken' ? `BROKEN\n${told(found)}` : 'NOT FINISHED'}`;
}

export function breakLine({ name, world }: Search, found: Found): string {
  if (found.kind !== 'broken') return `  NOT FOUND  ${name} (${world})`;
  return `${String(found.trace.length).padStart(3)} steps  ${name.padEnd(62)} ${found.what}`;
}

/** A trace to read: its steps, numbered, then the world at its end. */
export function told(found: Found): string {
  if (found.kind !== 'broken') return '';
  const steps = found.trace.map((step, index) => `  ${String(index + 1).padStart(2)}. ${step}`);
  return [`  ${found.what}`, ...steps, found.picture].filter((line) => line !== '').join('\n');
}
