import type { Command } from 'commander';
import { coordinatorFlags, parseCoordinatorConfig } from '../coordinator/config.ts';
import { describeFlags } from '../shared/flags.ts';
import type { Outcome, Terminal } from './context.ts';

/** Registers `ferry coordinator`, whose flags are the daemon's own. */
export function registerCoordinator(program: Command, terminal: Terminal, _outcome: Outcome): void {
  program
    .command('coordinator [flags...]')
    .description('run a coordinator (a daemon; logs on standard error)')
    .passThroughOptions()
    .allowUnknownOption()
    .addHelpText(
      'after',
      `\nFlags, each also as FERRY_COORDINATOR_NAME in the environment:\n${describeFlags(coordinatorFlags)}\n\nExample: ferry coordinator --data-dir /var/lib/ferry --listen 127.0.0.1:7400`,
    )
    .action(async (argv: string[]) => {
      const config = parseCoordinatorConfig(argv, terminal.env);
      const { runCoordinator } = await import('../coordinator/main.ts');
      await runCoordinator(config, terminal.interrupted());
    });
}
