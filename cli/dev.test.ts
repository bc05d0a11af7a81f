import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { machineProcesses, sweepLeftovers } from './sweep.ts';

const entry = fileURLToPath(new URL('main.ts', import.meta.url));
let directory: string;
const clusters: Dev[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'dev-test-'));
});

afterEach(async () => {
  for (const { child, ended } of clusters.splice(0)) {
    // The second one kills whatever it started.
    child.kill('SIGINT');
    child.kill('SIGINT');
    await ended;
  }
  sweepLeftovers(directory, []);
  rmSync(directory, { recursive: true, force: true });
});

/** `ferry dev` as a process of its own, once it says that it is ready. */
class Dev {
  readonly child: ChildProcess;
  readonly ended: Promise<unknown[]>;
  text = '';
  #over = false;

  constructor(...args: string[]) {
    const env = { ...process.env, TMPDIR: directory };
    this.child = spawn(process.execPath, [entry, 'dev', ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    clusters.push(this);
    this.ended = once(this.child, 'close');
    void this.ended.then(() => {
      this.#over = true;
    });
    for (const stream of [this.child.stdout!, this.child.stderr!]) {
      stream.on('data', (data) => {
        this.text += data;
      });
    }
  }

  async until(text: string): Promise<void> {
    while (!this.text.includes(text)) {
      if (this.#over) throw new Error(`ferry dev ended before it said "${text}":\n${this.text}`);
      await Promise.race([once(this.child.stdout!, 'data'), once(this.child.stderr!, 'data'), this.ended]);
    }
  }

  /** Runs a command on this cluster; answers what it printed. Throws unless it ends with 0. */
  async ferry(...args: string[]): Promise<string> {
    const env = { ...process.env, FERRY_COORDINATOR: /coordinator at (\S+)/.exec(this.text)?.[1] };
    const { stdout } = await promisify(execFile)(process.execPath, [entry, ...args], { env });
    return stdout;
  }
}

async function runSleeper(dev: Dev): Promise<string> {
  const file = join(directory, 'sleeper.json');
  writeFileSync(file, JSON.stringify({ image: '/bin/sleep', init: { cmd: ['600'] } }));
  return JSON.parse(await dev.ferry('machine', 'run', file, '--app', 'shop', '--name', 'sleeper', '--json')).machine.id;
}

test('ferry dev: hosts are there when it is ready; ctrl-C leaves no process and no file', async () => {
  const dev = new Dev('--hosts', '2');
  await dev.until('ctrl-C stops everything.');
  expect(await dev.ferry('host', 'list')).toMatch(/host-1 +ok.*\nhost-2 +ok/);
  const machineId = await runSleeper(dev);
  expect(machineProcesses('/nowhere', [{ id: machineId, privateIp: '' }])).not.toEqual([]);

  dev.child.kill('SIGINT');
  expect(await dev.ended).toEqual([0, null]);
  expect(dev.text).toContain('nothing is left');
  expect(machineProcesses('/nowhere', [{ id: machineId, privateIp: '' }])).toEqual([]);
  expect(readdirSync(directory).filter((name) => name.startsWith('ferry-dev-'))).toEqual([]);
});

test('ferry dev --data-dir: Machines that ran are started again the next time', async () => {
  const dataDir = join(directory, 'data');
  const first = new Dev('--hosts', '1', '--data-dir', dataDir);
  await first.until('ctrl-C stops everything.');
  const machineId = await runSleeper(first);
  first.child.kill('SIGINT');
  expect(await first.ended).toEqual([0, null]);
  expect(machineProcesses(dataDir, [{ id: machineId, privateIp: '' }])).toEqual([]);

  const second = new Dev('--hosts', '1', '--data-dir', dataDir);
  await second.until(`Machine ${machineId} runs again.`);
  second.child.kill('SIGINT');
  expect(await second.ended).toEqual([0, null]);
});
