import { describe, test } from 'vitest';
import { MigrationStep } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { crashDuring, steps, victims } from '../harness/crash.ts';

const long = process.env.FERRY_TEST_LONG === '1';
/** One of each kind here; all thirty in the long suite. */
const short = [
  ['coordinator', MigrationStep.STOP],
  ['host-a', MigrationStep.FORK],
  ['host-b', MigrationStep.FORK],
  ['host-a', MigrationStep.RELINQUISH],
  ['host-b', MigrationStep.START],
] as const;
const cells = long ? victims.flatMap((victim) => steps.map(({ step }) => [victim, step] as const)) : short;

describe('SIGKILL in a step, and start again: the migration ends well and nothing is lost', () => {
  for (const [victim, step] of cells) {
    const name = steps.find((each) => each.step === step)?.name;
    test(`${victim} in ${name}`, async () => {
      await crashDuring(victim, step, long ? 5000 : 1000);
    });
  }
});
