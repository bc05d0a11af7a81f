import type { Command } from 'commander';
import {
  ExplainLockResponseSchema,
  ListLocksResponseSchema,
  LockService,
} from '../proto/gen/ferry/v1/coordinator_pb.ts';
import { checkId } from '../shared/ids.ts';
import { type CommonOptions, type Outcome, Session, type Terminal, withCommonOptions } from './context.ts';
import { jsonDocument } from './output/json.ts';
import { renderLockExplanation, renderLockList } from './output/lock.ts';

/** Registers `ferry lock ...`. */
export function registerLock(program: Command, terminal: Terminal, _outcome: Outcome): void {
  const noun = program.command('lock').description('see which migration holds which network, and who waits');

  withCommonOptions(noun.command('list'))
    .description('held locks, one a line')
    .addHelpText('after', '\nExample: ferry lock list')
    .action(async (options: CommonOptions) => {
      const session = new Session(terminal, options);
      const response = await session.call((call) => session.client(LockService).listLocks({}, call));
      if (session.json) terminal.out(jsonDocument(ListLocksResponseSchema, response));
      else terminal.out(renderLockList(response.locks));
    });

  withCommonOptions(noun.command('explain <network>'))
    .description('who holds a network, since when, doing what, and what would free it')
    .addHelpText('after', '\nExample: ferry lock explain default')
    .action(async (network: string, options: CommonOptions) => {
      const session = new Session(terminal, options);
      const request = { network: checkId('name', network, 'NETWORK') };
      const response = await session.call((call) => session.client(LockService).explainLock(request, call));
      if (session.json) terminal.out(jsonDocument(ExplainLockResponseSchema, response));
      else terminal.out(renderLockExplanation(network, response));
    });
}
