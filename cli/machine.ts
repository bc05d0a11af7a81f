import { readFile } from 'node:fs/promises';
import { create } from '@bufbuild/protobuf';
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
  RunMachineResponseSchema,
  StartMachineResponseSchema,
  StopMachineResponseSchema,
  VolumeService,
} from '../proto/gen/ferry/v1/coordinator_pb.ts';
import { type Machine, type MachineConfig, MachineState, MountSchema } from '../proto/gen/ferry/v1/machine_pb.ts';
import { durationFromMs, parseDurationMs } from '../shared/duration.ts';
import { FerryError, invalidArgument } from '../shared/error.ts';
import { checkId } from '../shared/ids.ts';
import { type MachineFile, parseFlyToml, parseMachineJson } from '../shared/machine-config.ts';
import { type CommonOptions, type Outcome, Session, type Terminal, withCommonOptions } from './context.ts';
import { type MoveOptions, parseMoveOptions, wholeNumber } from './options.ts';
import { exitCodes } from './output/errors.ts';
import { jsonDocument, jsonLine } from './output/json.ts';
import { renderMachineList, renderMachineStatus, stateOf } from './output/machine.ts';
import { watchMigration } from './watch.ts';

/** Longest stop of a Machine (300 s) and some room. */
const stopMsMax = 330_000;
const logsMsMax = 3_000_000;
const startMsMax = 60_000;
const startPollMs = 100;
/** Where a Machine whose file mounts nothing finds the volume of --volume. */
const volumePathDefault = '/data';

interface RunOptions extends CommonOptions {
  readonly app?: string;
  readonly name?: string;
  readonly network?: string;
  readonly host?: string;
  readonly region?: string;
  readonly volume?: string;
  readonly processGroup?: string;
  readonly start: boolean;
  readonly detach?: boolean;
}

interface MigrateOptions extends CommonOptions, MoveOptions {
  readonly to?: string;
  readonly detach?: boolean;
  readonly startDeadline?: string;
  readonly overrideHost: string[];
}

/** Registers `ferry machine ...`. */
export function registerMachine(program: Command, terminal: Terminal, outcome: Outcome): void {
  const noun = program.command('machine').description('run, look at and move Machines');

  withCommonOptions(noun.command('run <file>'))
    .description('run a Machine from a Machines API config (JSON) or a fly.toml')
    .option('--app <name>', 'app that it belongs to (default: the one that the file names)')
    .option('--name <name>', 'name of the Machine (default: the one that the file names, or made up)')
    .option('--network <name>', 'private network of the app')
    .option('--host <name>', 'host to run it on (default: chosen)')
    .option('--region <name>', 'region to run it in (default: the one that the file names, or any)')
    .option('--volume <id>', 'a volume that exists already, instead of the one that the file would create')
    .option('--process-group <name>', 'which of the [processes] of a fly.toml')
    .option('--no-start', 'create it without starting it')
    .option('--detach', 'answer without waiting until it has started')
    .addHelpText('after', '\nExample: ferry machine run ledger.json --app shop --host host-1')
    .action(async (file: string, options: RunOptions) => {
      outcome.exitCode = await run(file, options, new Session(terminal, options));
    });

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

function present(machine: Machine | undefined): Machine {
  if (machine === undefined) throw new FerryError('internal', 'the coordinator answered without the Machine');
  return machine;
}

/** "Machine d8dd625fed5568 (web-1) is started on host-1". */
function tell(session: Session, machine: Machine | undefined, note = ''): void {
  const { id, name, hostId, reason } = present(machine);
  session.line(`Machine ${id} (${name}) is ${stateOf(present(machine))} on ${hostId}.`);
  if (note !== '') session.line(`  note: ${note}`);
  if (reason !== '') session.line(`  why:  ${reason}`);
}

async function run(file: string, options: RunOptions, session: Session): Promise<number> {
  const { app, name, region, config } = await readMachineFile(file, options.processGroup ?? '');
  if (options.volume !== undefined) useVolume(config, checkId('volume', options.volume, '--volume'));
  const hostId = options.host ?? (await hostOfVolume(config.mounts[0]?.volume ?? '', session));
  const request = {
    app: options.app ?? app,
    name: options.name ?? name,
    network: options.network ?? '',
    hostId,
    region: options.region ?? region,
    skipLaunch: !options.start,
    config,
  };
  if (request.app === '') throw invalidArgument('--app', 'is missing, and the file names none', 'the name of an app');
  const response = await session.order((call) => session.client(MachineService).runMachine(request, call), 60_000);
  if (options.start && !options.detach) response.machine = await untilStarted(session, present(response.machine));
  const machine = present(response.machine);
  const code = machine.state === MachineState.FAILED ? exitCodes.failed : exitCodes.done;
  if (session.json) {
    session.terminal.out(jsonDocument(RunMachineResponseSchema, response));
    return code;
  }
  tell(session, machine);
  session.line(
    `  private IP ${machine.privateIp}, bound to ${machine.bindIp}${machine.volumeId && `, volume ${machine.volumeId}`}`,
  );
  session.line(`  look at it: ferry machine status ${machine.id}`);
  return code;
}

/** Gives a Machine a volume that exists, at the path where the file mounts one. */
function useVolume(config: MachineConfig, volumeId: string): void {
  const mount = config.mounts[0] ?? create(MountSchema, { path: volumePathDefault });
  config.mounts = [Object.assign(mount, { volume: volumeId, sizeGb: 0 })];
}

/** Where a volume is, which is where its Machine must run; "" without one: then the host is chosen. */
async function hostOfVolume(volumeId: string, session: Session): Promise<string> {
  if (volumeId === '') return '';
  const request = { volumeId };
  const { volume } = await session.call((call) => session.client(VolumeService).getVolume(request, call));
  return volume?.hostId ?? '';
}

/** The Machine once it has started, or could not, or after a minute. */
async function untilStarted(session: Session, machine: Machine): Promise<Machine> {
  const { clock } = session.terminal;
  const deadlineMs = clock.monotonicMs() + startMsMax;
  const request = { machineId: machine.id };
  let latest = machine;
  while (latest.state === MachineState.CREATED || latest.state === MachineState.STARTING) {
    if (clock.monotonicMs() > deadlineMs) break;
    await clock.sleep(startPollMs);
    const response = await session.call((call) => session.client(MachineService).getMachine(request, call));
    latest = present(response.machine);
  }
  return latest;
}

async function readMachineFile(file: string, processGroup: string): Promise<MachineFile> {
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw invalidArgument('FILE', `cannot be read (${error.code}: ${file})`, 'a JSON config or a fly.toml');
  });
  if (file.endsWith('.toml')) return parseFlyToml(text, processGroup);
  if (processGroup !== '')
    throw invalidArgument('--process-group', 'is given', 'a fly.toml with it; JSON has no groups');
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw invalidArgument(
      'FILE',
      `is no JSON (${(error as Error).message})`,
      'a Machines API config, or a name in .toml',
    );
  }
  return parseMachineJson(json);
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
