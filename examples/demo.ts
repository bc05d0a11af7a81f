// npm run demo: a coordinator and three agents, Machines that run the ledger, a client that appends to one of them all the
// time, and one command that empties its host meanwhile. Ends with 0 only if nothing was lost; leaves nothing running.
import { spawn } from 'node:child_process';
import { mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Cluster, freePort } from '../cli/cluster.ts';
import { untilInterrupted } from '../cli/context.ts';
import { addressesLeft, loopsUnder, machineProcesses, mountsUnder } from '../cli/sweep.ts';
import { LedgerClient, locateMachine, readAcknowledgements } from './ledger/client.ts';
import { renderVerdict, verifyLedger } from './ledger/verify.ts';

const cli = fileURLToPath(new URL('../cli/main.ts', import.meta.url));
const ledger = fileURLToPath(new URL('ledger/ledger.ts', import.meta.url));
const hosts = ['host-1', 'host-2', 'host-3'];
const volumeGib = 1;
/** The Machines by name, with what each has on its volume, in MiB; all on one network. The client appends to the first. */
const machines = new Map([
  ['ledger', 128],
  ['archive', 32],
  ['spare', 16],
]);
/** Entries appended before and after the drain. */
const entriesAround = 100;
const entriesMsMax = 90_000;

/** The Machine: Machines API field names. */
function machineConfig(port: number, fillMib: number): object {
  return {
    image: process.execPath,
    init: { cmd: [ledger] },
    env: { PORT: String(port), LEDGER_FILL_MIB: String(fillMib) },
    guest: { cpu_kind: 'shared', cpus: 1, memory_mb: 512 },
    mounts: [{ name: 'ledger', path: '/data', size_gb: volumeGib }],
    services: [{ protocol: 'tcp', internal_port: port }],
    checks: { ledger: { type: 'http', port, path: '/health', interval: '200ms', timeout: '1s', grace_period: '30s' } },
    stop_config: { signal: 'SIGINT', timeout: '5s' },
  };
}

/** The demo's world, with what must be undone at its end. */
class Demo {
  readonly #signal: AbortSignal;
  readonly #startedMs = performance.now();
  readonly #dataDir = realpathSync(mkdtempSync(join(tmpdir(), 'ferry-demo-')));
  readonly #cluster: Cluster;
  readonly #machineIds: string[] = [];

  constructor(port: number, signal: AbortSignal) {
    this.#signal = signal;
    this.#cluster = new Cluster({
      dataDir: this.#dataDir,
      hosts,
      ports: [port],
      onDeath: (name, how) => this.#say(`${name} ended by itself (${how})`),
    });
  }

  #say(text: string): void {
    const seconds = ((performance.now() - this.#startedMs) / 1000).toFixed(1).padStart(5);
    console.log(`${seconds} s  ${text}`);
  }

  /** Runs the real command; answers its output unless `show`, which prints it. Throws when it fails. */
  async #ferry(args: readonly string[], show = false): Promise<string> {
    if (show) console.log(`\n$ ferry ${args.join(' ')}`);
    const child = spawn(process.execPath, [cli, ...args], {
      stdio: ['ignore', show ? 'inherit' : 'pipe', 'inherit'],
      env: { ...process.env, FERRY_COORDINATOR: this.#cluster.coordinator },
      signal: this.#signal,
    });
    let output = '';
    child.stdout?.on('data', (data) => {
      output += data;
    });
    const how = await new Promise<string>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code, signal) => resolve(signal ?? String(code)));
    });
    this.#signal.throwIfAborted();
    if (how !== '0') throw new Error(`"ferry ${args.join(' ')}" ended with ${how}`);
    return output;
  }

  /** The demo itself; answers whether nothing was lost. */
  async run(): Promise<boolean> {
    this.#say(`starting a coordinator and three agents, data in ${this.#dataDir}`);
    await this.#cluster.start(this.#signal);
    const port = await freePort();
    for (const [name, fillMib] of machines) {
      this.#say(`running ${name} on host-1: a ledger with a ${volumeGib} GiB volume, filled with ${fillMib} MiB`);
      const id = await this.#runMachine(name, machineConfig(name === 'ledger' ? port : await freePort(), fillMib));
      this.#machineIds.push(id);
    }

    const ackPath = join(this.#dataDir, 'acknowledged');
    const locate = locateMachine(this.#cluster.coordinator, this.#ledgerId, port);
    const stop = new AbortController();
    const client = new LedgerClient({ locate, ackPath });
    const load = client.run(AbortSignal.any([stop.signal, this.#signal]));
    try {
      await this.#more(client);
      this.#say(`a client appends: ${client.report.acknowledged} entries acknowledged; emptying host-1 meanwhile`);
      await this.#ferry(['host', 'drain', 'host-1', '--dry-run'], true);
      await this.#ferry(['host', 'drain', 'host-1', '--wait', '--reason', 'maintenance'], true);
      await this.#more(client);
    } finally {
      stop.abort();
    }
    const report = await load;

    await this.#ferry(['drain', 'status', 'host-1'], true);
    await this.#ferry(['machine', 'status', this.#ledgerId], true);
    const moved = await this.#proof();
    console.log('');
    this.#say(`the client had no answer for ${Math.round(report.longestGapMs)} ms, from its last one to its next one`);
    const verdict = await verifyLedger(await locate(), readAcknowledgements(ackPath));
    this.#say(renderVerdict(verdict));
    return moved && verdict.problems.length === 0 && verdict.lost === 0;
  }

  async #runMachine(name: string, config: object): Promise<string> {
    const file = join(this.#dataDir, `${name}.json`);
    writeFileSync(file, JSON.stringify(config, undefined, 2));
    const { machine } = JSON.parse(
      await this.#ferry(['machine', 'run', file, '--app', 'shop', '--name', name, '--host', 'host-1', '--json']),
    );
    return machine.id;
  }

  get #ledgerId(): string {
    return this.#machineIds[0] ?? '';
  }

  /** Waits for some more acknowledged entries. Throws with the Machine's output when they do not come. */
  async #more(client: LedgerClient): Promise<void> {
    const deadline = AbortSignal.timeout(entriesMsMax);
    try {
      await client.more(entriesAround, AbortSignal.any([deadline, this.#signal]));
    } catch (error) {
      if (!deadline.aborted) throw error;
      const output = await this.#ferry(['machine', 'logs', this.#ledgerId, '--lines', '20']).catch(() => '');
      throw new Error(
        `the ledger did not take ${entriesAround} entries in ${entriesMsMax / 1000} s; its output:\n${output}`,
      );
    }
  }

  /** What the records must say: each moved, at the next epoch, with equal roots, and its event log knows why. */
  async #proof(): Promise<boolean> {
    const { migrations } = JSON.parse(await this.#ferry(['migration', 'list', '--json']));
    const { host } = JSON.parse(await this.#ferry(['host', 'status', 'host-1', '--json']));
    const problems = [
      host.cordoned !== true && 'host-1 is not cordoned',
      (host.machineCount ?? 0) !== 0 && `host-1 still has ${host.machineCount} Machines`,
    ];
    for (const id of this.#machineIds) {
      const { machine } = JSON.parse(await this.#ferry(['machine', 'status', id, '--json']));
      const migration = migrations.find(({ machineId }: { machineId: string }) => machineId === id);
      const moves = machine.events.filter((event: { migration?: { migrated: boolean } }) => event.migration?.migrated);
      problems.push(
        machine.hostId === 'host-1' && `${machine.name} is still on host-1`,
        machine.state !== 'MACHINE_STATE_STARTED' && `${machine.name} is in ${machine.state}`,
        moves.length !== 1 && `${machine.name} has ${moves.length} events that say migrated=true`,
        moves[0]?.migration.moveReason !== 'maintenance' && `no event of ${machine.name} says why it was moved`,
        (!migration?.sourceRoot || migration.sourceRoot !== migration.destinationRoot) &&
          `the roots of ${machine.name} are not equal`,
        migration?.downtime === undefined && `the downtime of ${machine.name} was not measured`,
      );
    }
    const wrong = problems.filter((problem) => problem !== false);
    for (const problem of wrong) this.#say(`WRONG: ${problem}`);
    return wrong.length === 0;
  }

  /** Takes everything down; answers what is left, which is nothing. */
  async end(): Promise<string[]> {
    const { pids } = this.#cluster;
    if (pids.size > 0) {
      await this.#cluster.endMachines('destroy').catch((error: Error) => {
        if (!this.#signal.aborted) this.#say(`the Machines could not be ended in the ordinary way: ${error.message}`);
      });
    }
    await this.#cluster.stop();
    const known = [...this.#cluster.machines, ...this.#machineIds.map((id) => ({ id, privateIp: '' }))];
    const left = [
      ...[...pids].filter(([, pid]) => isAlive(pid)).map(([name]) => `the process of ${name}`),
      ...machineProcesses(this.#dataDir, known).map((pid) => `process ${pid} of a Machine`),
      ...mountsUnder(this.#dataDir).map((path) => `the mount ${path}`),
      ...addressesLeft(known.map(({ privateIp }) => privateIp)).map((address) => `the address ${address}`),
      ...loopsUnder(this.#dataDir).map((device) => `the loop device ${device}`),
    ];
    rmSync(this.#dataDir, { recursive: true, force: true });
    this.#say(left.length === 0 ? 'nothing is left running' : `LEFT BEHIND: ${left.join(', ')}`);
    return left;
  }

  /** Kills everything at once. */
  kill(): void {
    this.#cluster.kill();
    rmSync(this.#dataDir, { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    return pid > 0 && process.kill(pid, 0);
  } catch {
    return false;
  }
}

const interrupted = untilInterrupted();
const demo = new Demo(await freePort(), interrupted);
// A second ctrl-C ends this process at once; everything goes with it.
const kill = () => demo.kill();
process.once('exit', kill);
let good = false;
try {
  good = await demo.run();
} catch (error) {
  if (interrupted.aborted) console.error('\ninterrupted: cleaning up');
  else console.error(error instanceof Error ? error.message : error);
}
const left = await demo.end();
process.off('exit', kill);
process.exit(interrupted.aborted ? 130 : good && left.length === 0 ? 0 : 1);
