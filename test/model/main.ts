/**
 * The model from the command line.
 *
 *     node test/model/main.ts            what the tests prove: every world holds, every mutant breaks
 *     node test/model/main.ts --deep     larger worlds, for minutes
 *     node test/model/main.ts --traces   with the shortest trace of each mutant
 */
import { breakLine, breaks, proofLine, proofs, told } from './run.ts';

const { argv } = process;
let failed = false;

console.log('With every rule in place');
for (const proof of proofs(argv.includes('--deep') ? 'deep' : 'quick')) {
  const found = proof.run();
  failed ||= found.kind !== 'holds';
  console.log(proofLine(proof.name, found));
}
console.log('\nWith one rule taken out: steps to the first break');
for (const mutant of breaks()) {
  const found = mutant.run();
  failed ||= found.kind !== 'broken';
  console.log(breakLine(mutant, found));
  if (argv.includes('--traces')) console.log(`${told(found)}\n`);
}
process.exitCode = failed ? 1 : 0;
