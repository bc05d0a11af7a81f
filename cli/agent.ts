import type { Command } from 'commander';
import { agentFlags, parseAgentConfig } from '../agent/config.ts';
import { describeFlags } from '../shared/flags.ts';
import type { Outcome, Terminal } from './context.ts';

/** Registers `ferry agent`, whose flags are the daemon's own. */
export function registerAgent(program: Command, terminal: Terminal, _outcome: Outcome): void {
  program
    .command('agent [flags...]')
    .description('run the agent of this host (a daemon; logs on standard error)')
    .passThroughOptions()
    .allowUnknownOption()
    .addHelpText(
      'after',
      `\nFlags, each also as FERRY_AGENT_NAME in the environment:\n${describeFlags(agentFlags)}\n\nExample: ferry agent --host host-1 --data-dir /var/lib/ferry --coordinator 127.0.0.1:7400`,
    )
    .action(async (argv: string[]) => {
      const config = parseAgentConfig(argv, terminal.env);
      const { runAgent } = await import('../agent/main.ts');
      await runAgent(config, terminal.interrupted());
    });
}
