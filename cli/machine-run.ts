import { readFile } from 'node:fs/promises';
import { create } from '@bufbuild/protobuf';
import type { Command } from 'commander';
import { MachineService, RunMachineResponseSchema, VolumeService } from '../proto/gen/ferry/v1/coordinator_pb.ts';
import { type Machine, type MachineConfig, MachineState, MountSchema } from '../proto/gen/ferry/v1/machine_pb.ts';
import { invalidArgument } from '../shared/error.ts';
import { checkId } from '../shared/ids.ts';
import { type MachineFile, parseFlyToml, parseMachineJson } from '../shared/machine-config.ts';
import { type CommonOptions, type Outcome, Session, type Terminal, withCommonOptions } from './context.ts';
import { present, tell } from './machine-answer.ts';
import { exitCodes } from './output/errors.ts';
import { jsonDocument } from './output/json.ts';

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

/** Registers `ferry machine run`. */
export function registerMachineRun(noun: Command, terminal: Terminal, outcome: Outcome): void {
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
