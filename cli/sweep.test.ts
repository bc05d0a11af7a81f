import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { loopsUnder, machineProcesses, mountsUnder, sweepLeftovers } from './sweep.ts';

test("kills the processes of the given Machines and of the data directory, and nobody else's", async () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'sweep-test-'));
  const start = async (env: Record<string, string>) => {
    const child = spawn('/bin/sleep', ['300'], { env, stdio: 'ignore' });
    await once(child, 'spawn');
    return child;
  };
  const byId = await start({ FERRY_RUNTIME_TAG: 'agent.aaaaaaaaaaaaaa.01J' });
  const byPath = await start({ FERRY_RUNTIME_TAG: 'agent.bbbbbbbbbbbbbb.01J', FERRY_VOLUME_PATH: `${dataDir}/image` });
  const other = await start({ FERRY_RUNTIME_TAG: 'agent.cccccccccccccc.01J', FERRY_VOLUME_PATH: `${dataDir}-2/image` });
  const untagged = await start({ FERRY_VOLUME_PATH: `${dataDir}/image` });
  try {
    const known = [{ id: 'aaaaaaaaaaaaaa', privateIp: 'fdaa:0:1:0:1:0:1:0' }];
    expect(new Set(machineProcesses(dataDir, known))).toEqual(new Set([byId.pid, byPath.pid]));
    const ended = Promise.all([once(byId, 'exit'), once(byPath, 'exit')]);
    sweepLeftovers(dataDir, known);
    expect((await ended).map(([, signal]) => signal)).toEqual(['SIGKILL', 'SIGKILL']);
    expect([other.exitCode, other.signalCode, untagged.exitCode, untagged.signalCode]).toEqual([
      null,
      null,
      null,
      null,
    ]);
    expect(mountsUnder(dataDir)).toEqual([]);
    expect(loopsUnder(dataDir)).toEqual([]);
  } finally {
    for (const child of [byId, byPath, other, untagged]) child.kill('SIGKILL');
    rmSync(dataDir, { recursive: true });
  }
});
