import { Command, CommanderError } from 'commander';
import { toFerryError } from '../shared/error.ts';
import { version } from '../shared/version.ts';
import { registerAgent } from './agent.ts';
import type { Outcome, Terminal } from './context.ts';
import { registerCoordinator } from './coordinator.ts';
import { registerDev } from './dev.ts';
import { registerDrain } from './drain.ts';
import { registerHost } from './host.ts';
import { registerLock } from './lock.ts';
import { registerMachine } from './machine.ts';
import { registerMigration } from './migration.ts';
import { exitCodeOf, exitCodes, renderError } from './output/errors.ts';
import { registerStatus } from './status.ts';
import { registerVolume } from './volume.ts';

/** Registers the commands of one noun; an action that ends other than well sets `outcome.exitCode` or throws. */
type Register = (program: Command, terminal: Terminal, outcome: Outcome) => void;

const nouns: readonly Register[] = [
  registerDev,
  registerStatus,
  registerMachine,
  registerMigration,
  registerHost,
  registerDrain,
  registerVolume,
  registerLock,
  registerAgent,
  registerCoordinator,
];

/** Runs one command line; answers its exit code: 0 done, 1 failed, 2 wrong usage, 3 parked or blocked, 4 unreachable. */
export async function runCli(argv: readonly string[], terminal: Terminal): Promise<number> {
  const outcome: Outcome = { exitCode: exitCodes.done };
  const program = new Command('ferry')
    .description('Moves running Machines with their volumes from host to host, and proves that nothing was lost.')
    .version(version)
    .enablePositionalOptions()
    .exitOverride()
    .showHelpAfterError('next: add --help to see what is expected')
    .configureOutput({
      writeOut: terminal.out,
      writeErr: terminal.err,
      outputError: (text, write) => write(`ferry: ${text}`),
    })
    .addHelpText(
      'after',
      '\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 parked or blocked, 4 unreachable,\n130 a watch was interrupted (what it showed goes on).\n\nExample: ferry dev    (a whole cluster on this machine; it prints what to type next)',
    );
  for (const register of nouns) register(program, terminal, outcome);
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return outcome.exitCode;
  } catch (thrown) {
    if (thrown instanceof CommanderError) return thrown.exitCode === 0 ? exitCodes.done : exitCodes.usage;
    const error = toFerryError(thrown);
    terminal.err(renderError(error, argv.includes('--json')));
    return exitCodeOf(error);
  }
}
