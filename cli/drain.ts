import type { Command } from 'commander';
import {
  CancelDrainResponseSchema,
  DrainService,
  GetDrainResponseSchema,
  ListDrainsResponseSchema,
  PauseDrainResponseSchema,
  ResumeDrainResponseSchema,
} from '../proto/gen/ferry/v1/coordinator_pb.ts';
import { type Drain, DrainState } from '../proto/gen/ferry/v1/drain_pb.ts';
import { FerryError } from '../shared/error.ts';
import { checkId } from '../shared/ids.ts';
import { type CommonOptions, type Outcome, Session, type Terminal, withCommonOptions } from './context.ts';
import { wholeNumber } from './options.ts';
import { drainState, renderDrainList, renderDrainStatus } from './output/drain.ts';
import { exitCodes } from './output/errors.ts';
import { jsonDocument } from './output/json.ts';
import { watchDrain } from './watch.ts';

/** A cancel waits for the answers of sources. */
const cancelMsMax = 60_000;
const example = 'drn_01J08P60K8NK33K9P5MQ5M4QN8';

/** Registers `ferry drain ...`; a drain is ordered with `ferry host drain`. */
export function registerDrain(program: Command, terminal: Terminal, outcome: Outcome): void {
  const noun = program
    .command('drain')
    .description('look at, follow and steer the emptying of hosts (ordered with "ferry host drain HOST")');

  withCommonOptions(noun.command('list'))
    .description('drains, newest first')
    .option('--open', 'only those that have not ended')
    .option('--limit <count>', 'at most this many, 1 to 1000', '100')
    .addHelpText('after', '\nExample: ferry drain list --open')
    .action(async (options: CommonOptions & { open?: boolean; limit: string }) => {
      const session = new Session(terminal, options);
      const request = { openOnly: options.open === true, limit: wholeNumber(options.limit, '--limit', 1, 1000) };
      const response = await session.call((call) => session.client(DrainService).listDrains(request, call));
      if (session.json) terminal.out(jsonDocument(ListDrainsResponseSchema, response));
      else terminal.out(renderDrainList(response.drains));
    });

  withCommonOptions(noun.command('status <drain>'))
    .description('one drain and its Machines: what was predicted beside what happened (exit code 3 when blocked)')
    .addHelpText('after', `\nDRAIN is a drain ID, or a host: then its newest.\n\nExample: ferry drain status host-1`)
    .action(async (which: string, options: CommonOptions) => {
      const session = new Session(terminal, options);
      const request = { drainId: drainId(which) };
      const response = await session.call((call) => session.client(DrainService).getDrain(request, call));
      const drain = present(response.drain);
      if (drain.state === DrainState.BLOCKED) outcome.exitCode = exitCodes.blocked;
      if (session.json) terminal.out(jsonDocument(GetDrainResponseSchema, response));
      else terminal.out(renderDrainStatus(drain));
    });

  withCommonOptions(noun.command('watch <drain>'))
    .description('follow a drain to its end (exit code 0 done, 1 cancelled, 3 blocked)')
    .addHelpText('after', `\nDRAIN is a drain ID, or a host: then its newest.\n\nExample: ferry drain watch ${example}`)
    .action(async (which: string, options: CommonOptions) => {
      outcome.exitCode = await watchDrain(new Session(terminal, options), drainId(which));
    });

  withCommonOptions(noun.command('pause <drain>'))
    .description('begin no further moves; those under way go on to their end')
    .addHelpText('after', '\nExample: ferry drain pause host-1')
    .action(async (which: string, options: CommonOptions) => {
      const session = new Session(terminal, options);
      const request = { drainId: drainId(which) };
      const response = await session.call((call) => session.client(DrainService).pauseDrain(request, call));
      if (session.json) return terminal.out(jsonDocument(PauseDrainResponseSchema, response));
      tell(session, present(response.drain), 'moves under way go on to their end');
      session.line(`  go on with it: ferry drain resume ${which}`);
    });

  withCommonOptions(noun.command('resume <drain>'))
    .description('go on with a drain, also with the Machines that were parked')
    .addHelpText('after', '\nExample: ferry drain resume host-1')
    .action(async (which: string, options: CommonOptions) => {
      const session = new Session(terminal, options);
      const request = { drainId: drainId(which) };
      const response = await session.call((call) => session.client(DrainService).resumeDrain(request, call));
      if (session.json) return terminal.out(jsonDocument(ResumeDrainResponseSchema, response));
      tell(session, present(response.drain), 'Machines that were parked are tried again');
      session.line(`  follow it: ferry drain watch ${which}`);
    });

  withCommonOptions(noun.command('cancel <drain>'))
    .description('end a drain: moves that can be taken back are, others end; the host stays cordoned')
    .option('--uncordon', 'take the cordon off too, if this drain put it on')
    .addHelpText('after', '\nExample: ferry drain cancel host-1 --uncordon')
    .action(async (which: string, options: CommonOptions & { uncordon?: boolean }) => {
      const session = new Session(terminal, options);
      const request = { drainId: drainId(which), uncordon: options.uncordon === true };
      const response = await session.call(
        (call) => session.client(DrainService).cancelDrain(request, call),
        cancelMsMax,
      );
      if (session.json) return terminal.out(jsonDocument(CancelDrainResponseSchema, response));
      const drain = present(response.drain);
      const isOver = drain.state === DrainState.CANCELLED;
      tell(session, drain, isOver ? 'what had moved stays where it is' : 'moves under way are taken back, or end');
      if (!isOver) session.line(`  follow it: ferry drain watch ${drain.id}`);
      const { hostId } = drain;
      if (!options.uncordon || !drain.cordonedByDrain) {
        const why = options.uncordon ? ', because it was before the drain' : '';
        session.line(`  ${hostId} stays cordoned${why}; to end that: ferry host uncordon ${hostId}`);
      }
    });
}

/** "Drain drn_... of host-1 is paused: moves under way go on to their end." */
function tell(session: Session, drain: Drain, meaning: string): void {
  session.line(`Drain ${drain.id} of ${drain.hostId} is ${drainState(drain)}: ${meaning}.`);
}

/** A drain ID, or the name of a host. */
function drainId(text: string): string {
  return checkId(text.startsWith('drn_') ? 'drain' : 'name', text, 'DRAIN');
}

function present(drain: Drain | undefined): Drain {
  if (drain === undefined) throw new FerryError('internal', 'the coordinator answered without the drain');
  return drain;
}
