import type { Command } from 'commander';
import {
  DestroyMachineResponseSchema,
  GetMachineResponseSchema,
  ListMachinesResponseSchema,
  MachineLogsResponseSchema,
  MachineService,
  MigrateMachineResponseSchema,
  MigrationService,
  RestartMachineResponseSchema,
  StartMachineResponseSchema,
  StopMachineResponseSchema,
} from '../proto/gen/ferry/v1/coordinator_pb.ts';
import { durationFromMs, parseDurationMs } from '../shared/duration.ts';
import { FerryError } from '../shared/error.ts';
import { checkId } from '../shared/ids.ts';
import { type CommonOptions, type Outcome, Session, type Terminal, withCommonOptions } from './context.ts';
import { present, tell } from './machine-answer.ts';
import { registerMachineRun } from './machine-run.ts';
import { type MoveOptions, parseMoveOptions, wholeNumber } from './options.ts';
import { exitCodes } from './output/errors.ts';
import { jsonDocument, jsonLine } from './output/json.ts';
import { renderMachineList, renderMachineStatus } from './output/machine.ts';
import { watchMigration } from './watch.ts';

/** Longest stop of a Machine (300 s) and some room. */
const stopMsMax = 330_000;
const logsMsMax = 3_000_000;

interface MigrateOptions extends CommonOptions, MoveOptions {
  readonly to?: string;
  readonly detach?: boolean;
  readonly startDeadline?: string;
  readonly overrideHost: string[];
}

/** Registers `ferry machine ...`. */
export function registerMachine(program: Command, terminal: Terminal, outcome: Outcome): void {
  const noun = program.command('machine').description('run, look at and move Machines');

  registerMachineRun(noun, terminal, outcome);

  withCommonOptions(noun.command('list'))
    .description('Machines, one a line')
    .option('--app <name>', 'only those of this app')
    .option('--host <name>', 'only those of this host')
    .addHelpText('after', '\nExample: ferry machine list --host host-1')
    .action(async (options: CommonOptions & { app?: string; host?: string }) => {
      const session = new Session(terminal, options);
      const request = { app: options.app ?? '', hostId: options.host ?? '' };
      const response = await session.call((call) => session.client(MachineService).listMachines(request, call));
      if (session.json) terminal.out(jsonDocument(ListMachinesResponseSchema, response));
      else terminal.out(renderMachineList(response.machines));
    });

  withCommonOptions(noun.command('status <id>'))
    .description('one Machine with its checks and events')
    .addHelpText('after', '\nExample: ferry machine status d8dd625fed5568')
    .action(async (id: string, options: CommonOptions) => {
      const session = new Session(terminal, options);
      const request = { machineId: machineId(id) };
      const response = await session.call((call) => session.client(MachineService).getMachine(request, call));
      if (session.json) terminal.out(jsonDocument(GetMachineResponseSchema, response));
      else terminal.out(renderMachineStatus(present(response.machine)));
    });

  withCommonOptions(noun.command('logs <id>'))
    .description("the end of a Machine's output")
    .option('-n, --lines <count>', 'lines from the end, 1 to 10000', '100')
    .option('-f, --follow', 'go on with what comes, until ctrl-C')
    .addHelpText('after', '\nExample: ferry machine logs d8dd625fed5568 --lines 20 --follow')
    .action(async (id: string, options: CommonOptions & { lines: string; follow?: boolean }) => {
      outcome.exitCode = await logs(machineId(id), options, new Session(terminal, options));
    });

  withCommonOptions(noun.command('start <id>'))
    .description('start a stopped Machine')
    .addHelpText('after', '\nExample: ferry machine start d8dd625fed5568')
    .action(async (id: string, options: CommonOptions) => {
      const session = new Session(terminal, options);
      const request = { machineId: machineId(id) };
      const response = await session.call((call) => session.client(MachineService).startMachine(request, call), 60_000);
      if (session.json) terminal.out(jsonDocument(StartMachineResponseSchema, response));
      else tell(session, response.machine, response.note);
    });

  withCommonOptions(noun.command('stop <id>'))
    .description('stop a Machine: its signal, its timeout, then SIGKILL')
    .option('--signal <name>', "another signal than the config's, for example SIGTERM")
    .option('--timeout <time>', "another time until SIGKILL than the config's, at most 300s")
    .addHelpText('after', '\nExample: ferry machine stop d8dd625fed5568 --signal SIGTERM --timeout 30s')
    .action(async (id: string, options: CommonOptions & { signal?: string; timeout?: string }) => {
      const session = new Session(terminal, options);
      const timeout =
        options.timeout === undefined ? undefined : durationFromMs(parseDurationMs(options.timeout, '--timeout'));
      const request = { machineId: machineId(id), signal: options.signal ?? '', timeout };
      const response = await session.call(
        (call) => session.client(MachineService).stopMachine(request, call),
        stopMsMax,
      );
      if (session.json) terminal.out(jsonDocument(StopMachineResponseSchema, response));
      else tell(session, response.machine, response.note);
    });

  withCommonOptions(noun.command('restart <id>'))
    .description('stop and start a Machine')
    .addHelpText('after', '\nExample: ferry machine restart d8dd625fed5568')
    .action(async (id: string, options: CommonOptions) => {
      const session = new Session(terminal, options);
      const request = { machineId: machineId(id) };
      const response = await session.order(
        (call) => session.client(MachineService).restartMachine(request, call),
        stopMsMax,
      );
      if (session.json) terminal.out(jsonDocument(RestartMachineResponseSchema, response));
      else tell(session, response.machine, response.note);
    });

  withCommonOptions(noun.command('migrate <id>'))
    .description('move a Machine with its volume to another host, and follow it')
    .option('--to <host>', 'destination (default: chosen)')
    .option('--detach', 'answer as soon as the migration is claimed')
    .option('--reason <why>', 'overcrowded, deprecated, maintenance or failing; kept in its event log')
    .option('--by <who>', 'who orders it, kept there too (default: $SUDO_USER or $USER)')
    .option('--downtime-budget <time>', 'longest time that the last copy may take (default: 300ms)')
    .option('--strategy <how>', 'precopy (copy while it runs, the default) or cold (stop first)')
    .option('--priority <number>', 'higher goes first in line for the network, -100 to 100', '0')
    .option('--start-deadline <time>', 'time to become healthy there before it is moved back', '60s')
    .option(
      '--override-host <host>',
      'do not wait for the permit of this host, of which you know that it stops nothing (can be repeated)',
      (host: string, hosts: string[]) => [...hosts, checkId('name', host, '--override-host')],
      [],
    )
    .addHelpText('after', '\nExample: ferry machine migrate d8dd625fed5568 --to host-2')
    .action(async (id: string, options: MigrateOptions) => {
      outcome.exitCode = await migrate(machineId(id), options, new Session(terminal, options));
    });

  withCommonOptions(noun.command('destroy <id>'))
    .description('destroy a Machine and its volume')
    .option('--force', 'stop it first if it runs')
    .addHelpText('after', '\nExample: ferry machine destroy d8dd625fed5568 --force')
    .action(async (id: string, options: CommonOptions & { force?: boolean }) => {
      const session = new Session(terminal, options);
      const request = { machineId: machineId(id), force: options.force === true };
      const response = await session.order(
        (call) => session.client(MachineService).destroyMachine(request, call),
        stopMsMax,
      );
      if (session.json) terminal.out(jsonDocument(DestroyMachineResponseSchema, response));
      else session.line(`Machine ${id} is destroyed.`);
    });
}

function machineId(text: string): string {
  return checkId('machine', text, 'ID');
}

async function logs(id: string, options: { lines: string; follow?: boolean }, session: Session): Promise<number> {
  const tailLines = wholeNumber(options.lines, '--lines', 1, 10_000);
  const { terminal } = session;
  const interrupted = options.follow ? terminal.interrupted() : undefined;
  const request = { machineId: id, tailLines, follow: options.follow === true };
  const call = { timeoutMs: options.follow ? logsMsMax : 30_000, signal: interrupted };
  try {
    for await (const response of session.stream(() => session.client(MachineService).machineLogs(request, call))) {
      terminal.out(session.json ? jsonLine(MachineLogsResponseSchema, response) : `${response.line}\n`);
    }
  } catch (error) {
    if (interrupted?.aborted) return exitCodes.done;
    throw session.typed(error);
  }
  return exitCodes.done;
}

async function migrate(id: string, options: MigrateOptions, session: Session): Promise<number> {
  const { downtimeBudgetMs, ...move } = parseMoveOptions(options, session.terminal.env);
  const request = {
    machineId: id,
    destination: options.to ?? '',
    startDeadline: durationFromMs(parseDurationMs(options.startDeadline ?? '60s', '--start-deadline')),
    overrideHosts: options.overrideHost,
    ...move,
    ...(downtimeBudgetMs === undefined ? {} : { downtimeBudget: durationFromMs(downtimeBudgetMs) }),
  };
  // From here on: ctrl-C while the migration is being claimed must not leave one behind that nobody was told of.
  const interrupted = options.detach ? undefined : session.terminal.interrupted();
  const response = await session.order((call) => session.client(MigrationService).migrateMachine(request, call));
  const { migration } = response;
  if (migration === undefined) throw new FerryError('internal', 'the coordinator answered without the migration');
  if (!options.detach) return watchMigration(session, migration.id, interrupted);
  if (session.json) session.terminal.out(jsonDocument(MigrateMachineResponseSchema, response));
  session.line(`Migration ${migration.id} is on its way from ${migration.source} to ${migration.destination}.`);
  session.line(`  follow it: ferry migration watch ${migration.id}`);
  return exitCodes.done;
}
