import type { Command } from 'commander';
import { DrainHostResponseSchema, DrainService } from '../proto/gen/ferry/v1/coordinator_pb.ts';
import type { Drain } from '../proto/gen/ferry/v1/drain_pb.ts';
import { FerryError, invalidArgument } from '../shared/error.ts';
import { checkId } from '../shared/ids.ts';
import { type CommonOptions, type Outcome, Session, type Terminal, withCommonOptions } from './context.ts';
import { hostList, type MoveOptions, parseMoveOptions, wholeNumber } from './options.ts';
import { isBlocked, renderDrainPlan } from './output/drain-plan.ts';
import { exitCodes } from './output/errors.ts';
import { jsonDocument } from './output/json.ts';
import { orderText } from './output/migration.ts';
import { formatBytes, formatRoughMs, plural } from './output/units.ts';
import { watchDrain } from './watch.ts';

/** A plan asks every host; with many Machines that takes a moment. */
const planMsMax = 60_000;
const concurrencyMax = 64;
const attemptsMax = 20;

interface DrainOptions extends CommonOptions, MoveOptions {
  readonly dryRun?: boolean;
  readonly wait?: boolean;
  readonly verbose?: boolean;
  readonly to?: string[];
  readonly exclude?: string[];
  readonly concurrency?: string;
  readonly attempts?: string;
  readonly partial?: boolean;
}

/** Registers `ferry host drain`. */
export function registerHostDrain(noun: Command, terminal: Terminal, outcome: Outcome): void {
  withCommonOptions(noun.command('drain <host>'))
    .description('empty a host: cordon it and move all its Machines away')
    .option('--dry-run', 'only say what would happen, Machine by Machine; nothing is changed')
    .option('--verbose', 'with --dry-run: every reason for which a host was refused for a Machine')
    .option('--wait', 'follow it to its end (exit code 0 done, 1 cancelled, 3 blocked)')
    .option('--to <hosts>', 'only to these hosts, with commas', hostList('--to'))
    .option('--exclude <hosts>', 'not to these hosts, with commas', hostList('--exclude'))
    .option('--concurrency <count>', `Machines that move at once, 1 to ${concurrencyMax}`)
    .option('--attempts <count>', `tries a Machine before it is parked, 1 to ${attemptsMax}`)
    .option('--reason <why>', 'overcrowded, deprecated, maintenance or failing; kept in the event log of each Machine')
    .option('--by <who>', 'who orders it, kept there too (default: $SUDO_USER or $USER)')
    .option('--downtime-budget <time>', 'longest time that the last copy of a Machine may take, such as 300ms')
    .option('--strategy <how>', 'precopy (copy while it runs) or cold (stop first)')
    .option('--partial', 'begin although not every Machine has a place; those without one are parked')
    .option('--priority <number>', 'higher goes first in line for networks, -100 to 100')
    .addHelpText(
      'after',
      '\nExample: ferry host drain host-1 --dry-run\nExample: ferry host drain host-1 --reason maintenance --wait',
    )
    .action(async (host: string, options: DrainOptions) => {
      outcome.exitCode = await drainHost(checkId('name', host, 'HOST'), options, new Session(terminal, options));
    });
}

async function drainHost(hostId: string, options: DrainOptions, session: Session): Promise<number> {
  const { terminal } = session;
  const dryRun = options.dryRun === true;
  if (dryRun && options.wait) throw invalidArgument('--wait', 'is given with --dry-run', 'one of the two');
  if (!dryRun && options.verbose) throw invalidArgument('--verbose', 'is given without --dry-run', 'both, or neither');
  const request = { hostId, dryRun, ...requestOf(options, terminal.env) };
  // From here on: ctrl-C while the drain is being ordered must not leave one behind that nobody was told of.
  const interrupted = options.wait ? terminal.interrupted() : undefined;
  if (dryRun) {
    const response = await session.call((call) => session.client(DrainService).drainHost(request, call), planMsMax);
    const plan = present(response.drain);
    if (session.json) terminal.out(jsonDocument(DrainHostResponseSchema, response));
    else terminal.out(renderDrainPlan(plan, commandOf(hostId, options), options.verbose === true));
    return isBlocked(plan) ? exitCodes.blocked : exitCodes.done;
  }
  const response = await session.order((call) => session.client(DrainService).drainHost(request, call), planMsMax);
  const drain = present(response.drain);
  if (options.wait) return watchDrain(session, drain.id, interrupted);
  if (session.json) terminal.out(jsonDocument(DrainHostResponseSchema, response));
  else tell(session, drain);
  return exitCodes.done;
}

/** The options as the request has them. Throws invalid_argument naming the option. */
function requestOf(options: DrainOptions, env: Terminal['env']) {
  const { reason, orderedBy, downtimeBudgetMs, priority, strategy } = parseMoveOptions(options, env);
  const { concurrency, attempts, to = [], exclude = [] } = options;
  const both = to.find((host) => exclude.includes(host));
  if (both !== undefined) throw invalidArgument('--exclude', `has ${both}, which --to has too`, 'each host in one');
  return {
    reason,
    orderedBy,
    options: {
      to,
      exclude,
      concurrency: concurrency === undefined ? 0 : wholeNumber(concurrency, '--concurrency', 1, concurrencyMax),
      attemptsMax: attempts === undefined ? 0 : wholeNumber(attempts, '--attempts', 1, attemptsMax),
      downtimeBudgetMs: BigInt(Math.round(downtimeBudgetMs ?? 0)),
      strategy,
      partial: options.partial === true,
      priority,
    },
  };
}

function tell(session: Session, drain: Drain): void {
  const { id, hostId, machinesTotal, bytesTotal, predictedTotalMs } = drain;
  const time = predictedTotalMs === 0n ? '' : `, about ${formatRoughMs(predictedTotalMs)}`;
  const order = orderText(drain.reason, drain.orderedBy);
  session.line(
    `Drain ${id} empties ${hostId}: ${plural(machinesTotal, 'Machine')}, ${formatBytes(bytesTotal)}${time}${order && ` (${order})`}.`,
  );
  session.line(`  ${hostId} takes no new Machines from now on`);
  session.line(`  follow it: ferry drain watch ${id}`);
  session.line(`  end it:    ferry drain cancel ${id}`);
}

/** The command line that does what a dry run showed. */
function commandOf(hostId: string, options: DrainOptions): string {
  const words = ['ferry host drain', hostId];
  const given: [string, string | undefined][] = [
    ['--to', options.to?.join(',')],
    ['--exclude', options.exclude?.join(',')],
    ['--concurrency', options.concurrency],
    ['--attempts', options.attempts],
    ['--reason', options.reason],
    ['--by', options.by],
    ['--downtime-budget', options.downtimeBudget],
    ['--strategy', options.strategy],
    ['--priority', options.priority],
    ['--coordinator', options.coordinator],
  ];
  for (const [name, value] of given) if (value !== undefined) words.push(name, quoted(value));
  if (options.partial) words.push('--partial');
  return [...words, '--wait'].join(' ');
}

/** As a shell takes it for one word. */
function quoted(text: string): string {
  return /^[\w.,:@%+=/-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

function present(drain: Drain | undefined): Drain {
  if (drain === undefined) throw new FerryError('internal', 'the coordinator answered without the drain');
  return drain;
}
