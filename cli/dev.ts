import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { MachineService } from '../proto/gen/ferry/v1/coordinator_pb.ts';
import { invalidArgument, toFerryError } from '../shared/error.ts';
import { ClientPool } from '../shared/rpc/client.ts';
import { Cluster, freePort } from './cluster.ts';
import { defaultCoordinator, type Outcome, type Terminal } from './context.ts';
import { wholeNumber } from './options.ts';
import { exitCodes } from './output/errors.ts';

const hostsMax = 8;
const coordinatorsMax = 4;
const startMsMax = 60_000;

interface DevOptions {
  readonly hosts: string;
  readonly coordinators: string;
  readonly store?: string;
  readonly dataDir?: string;
}

/** What a cluster over a data directory remembers from run to run. */
interface DevState {
  /** Of its coordinators. */
  readonly ports: readonly number[];
  /** Machines that ran when it was stopped; they are started again. */
  readonly machineIds: readonly string[];
}

/** Registers `ferry dev`. */
export function registerDev(program: Command, terminal: Terminal, outcome: Outcome): void {
  program
    .command('dev')
    .description('a whole cluster on this machine, until ctrl-C: coordinators and agents, each a process of its own')
    .option('--hosts <count>', `agents to start, 1 to ${hostsMax}`, '2')
    .option(
      '--coordinators <count>',
      `coordinators to start, 1 to ${coordinatorsMax}; several need a Redis (--store)`,
      '1',
    )
    .option(
      '--store <url>',
      'a Redis that runs already, for the state of the coordinators (or FERRY_COORDINATOR_STORE; default: their disk)',
    )
    .option('--data-dir <dir>', 'keep everything here, to go on with it next time (default: a temporary folder)')
    .addHelpText(
      'after',
      '\nExample: ferry dev --hosts 3 --data-dir .ferry\nExample: ferry dev --coordinators 2 --store redis://127.0.0.1:6379',
    )
    .action(async (options: DevOptions) => {
      outcome.exitCode = await dev(options, terminal);
    });
}

async function dev(options: DevOptions, terminal: Terminal): Promise<number> {
  const count = wholeNumber(options.hosts, '--hosts', 1, hostsMax);
  const coordinators = wholeNumber(options.coordinators, '--coordinators', 1, coordinatorsMax);
  const store = options.store ?? (terminal.env.FERRY_COORDINATOR_STORE || undefined);
  if (coordinators > 1 && store === undefined) {
    throw invalidArgument(
      '--coordinators',
      `is ${coordinators} without --store`,
      '--store redis://HOST:PORT beside it',
    );
  }
  if (store !== undefined && !/^rediss?:\/\/\S+$/.test(store)) {
    throw invalidArgument('--store', `is ${JSON.stringify(store)}`, 'an address such as redis://127.0.0.1:6379');
  }
  const interrupted = terminal.interrupted();
  const keep = options.dataDir !== undefined;
  if (options.dataDir !== undefined) mkdirSync(options.dataDir, { recursive: true, mode: 0o700 });
  const dataDir = realpathSync(keep ? resolve(options.dataDir!) : mkdtempSync(join(tmpdir(), 'ferry-dev-')));
  const before = readState(dataDir);
  const ports: number[] = [];
  while (ports.length < coordinators) {
    const port = await freePort(before.ports[ports.length]);
    if (!ports.includes(port)) ports.push(port);
  }
  const hosts = Array.from({ length: count }, (_, index) => `host-${index + 1}`);
  const cluster = new Cluster({
    dataDir,
    hosts,
    ports,
    ...(store === undefined ? {} : { store }),
    onDeath: (name, how) => terminal.err(`ferry: ${name} ended (${how}); its log: ${join(dataDir, `${name}.log`)}\n`),
  });
  // A second ctrl-C ends this process at once; the daemons and Machines go with it.
  const killAll = () => {
    cluster.kill();
    if (!keep) rmSync(dataDir, { recursive: true, force: true });
  };
  process.once('exit', killAll);
  let machineIds = before.machineIds;
  try {
    await cluster.start(interrupted);
    terminal.out(`${greeting(cluster.coordinators, hosts, dataDir)}\n`);
    await startAgain(cluster.coordinator, before.machineIds, terminal);
    await new Promise((resolve) => interrupted.addEventListener('abort', resolve, { once: true }));
  } catch (error) {
    if (!interrupted.aborted) throw error;
  } finally {
    terminal.err('\nferry: stopping the Machines, then the daemons (ctrl-C again kills them)\n');
    await cluster.endMachines(keep ? 'stop' : 'destroy').then(
      (ran) => {
        machineIds = ran;
      },
      (error) => terminal.err(`ferry: ${toFerryError(error).message}\n`),
    );
    await cluster.stop();
    process.off('exit', killAll);
    if (keep) writeState(dataDir, { ports, machineIds });
    else rmSync(dataDir, { recursive: true, force: true });
  }
  terminal.err(keep ? `ferry: stopped; everything is kept in ${dataDir}\n` : 'ferry: stopped; nothing is left\n');
  return exitCodes.done;
}

async function startAgain(coordinator: string, machineIds: readonly string[], terminal: Terminal): Promise<void> {
  const client = new ClientPool().client(MachineService, coordinator);
  for (const machineId of machineIds) {
    await client.startMachine({ machineId }, { timeoutMs: startMsMax }).then(
      () => terminal.out(`Machine ${machineId} runs again.\n`),
      (error) => terminal.err(`ferry: Machine ${machineId} does not run again: ${toFerryError(error).message}\n`),
    );
  }
}

function greeting(coordinators: readonly string[], hosts: readonly string[], dataDir: string): string {
  const addresses = coordinators.join();
  const exportLine = addresses === defaultCoordinator ? '' : `  export FERRY_COORDINATOR=${addresses}\n`;
  const who = coordinators.length === 1 ? 'a coordinator' : `${coordinators.length} coordinators`;
  return (
    `Ready: ${who} at ${addresses} and the hosts ${hosts.join(', ')}; data and logs in ${dataDir}\n\n` +
    `In another terminal:\n${exportLine}` +
    `  ferry status\n` +
    `  ferry machine run examples/clock.json    (a Machines API config; a fly.toml does as well)\n` +
    `  ferry machine migrate ID\n` +
    `  ferry host drain host-1 --dry-run\n\n` +
    `ctrl-C stops everything.`
  );
}

function readState(dataDir: string): DevState {
  try {
    const state: Partial<DevState> & { port?: number } = JSON.parse(readFileSync(join(dataDir, 'dev.json'), 'utf8'));
    return { ports: state.ports ?? [Number(state.port)], machineIds: state.machineIds ?? [] };
  } catch {
    return { ports: [Number(defaultCoordinator.split(':')[1])], machineIds: [] };
  }
}

function writeState(dataDir: string, state: DevState): void {
  writeFileSync(join(dataDir, 'dev.json'), `${JSON.stringify(state)}\n`, { mode: 0o600 });
}
