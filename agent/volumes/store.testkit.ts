import * as files from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { onTestFinished } from 'vitest';
import { probeCapabilities, type VolumeCapabilities } from './capabilities.ts';
import { commandRunner } from './command.ts';
import type { MountTools } from './mount.ts';
import { parseMountinfo } from './mountinfo.ts';
import { VolumeStore, type VolumeStoreOptions } from './store.ts';

export const run = commandRunner({ searchPath: process.env.PATH });
export const tools: MountTools = { files, run, sleep, agentPid: process.pid, timeoutMs: 60_000 };
export const volumeA = 'vol_aaaaaaaaaaaaaaa1';
export const volumeB = 'vol_bbbbbbbbbbbbbbb2';
export const mebibyteBytes = 1024 * 1024;

/** Runs a program that must succeed; returns what it printed. */
export async function succeed(program: string, ...args: string[]): Promise<string> {
  const result = await run(program, args, { timeoutMs: 60_000 });
  if (result.exitCode !== 0) throw new Error(`${program} ${args.join(' ')}: ${result.stderr}`);
  return result.stdout;
}

/** A temporary folder; whatever is mounted in it or attached to its files when the test ends goes first. */
export async function temporaryFolder(): Promise<string> {
  const folder = await files.realpath(await files.mkdtemp(join(tmpdir(), 'ferry-volumes-')));
  onTestFinished(async () => {
    await releaseAll(folder);
    await files.rm(folder, { recursive: true, force: true });
  });
  return folder;
}

/** Unmounts everything below a folder, innermost first, and detaches the loop devices of its files. */
export async function releaseAll(folder: string): Promise<void> {
  const mounts = parseMountinfo(await files.readFile('/proc/self/mountinfo', 'utf8'));
  const inside = mounts.filter((mount) => mount.mountPoint.startsWith(`${folder}/`)).reverse();
  for (const { mountPoint } of inside) await run('umount', [mountPoint], { timeoutMs: 60_000 });
  for (const name of await files.readdir('/sys/block')) {
    const backing = await files.readFile(`/sys/block/${name}/loop/backing_file`, 'utf8').catch(() => '');
    if (backing.startsWith(`${folder}/`)) await run('losetup', ['--detach', `/dev/${name}`], { timeoutMs: 60_000 });
  }
}

/** What this machine can do in the temporary folder; tests that need more are skipped. */
export async function capabilitiesHere(): Promise<VolumeCapabilities> {
  const folder = await files.mkdtemp(join(tmpdir(), 'ferry-volumes-'));
  try {
    return await probeCapabilities(folder, tools);
  } finally {
    await files.rm(folder, { recursive: true, force: true });
  }
}

/** A store in a temporary folder, opened, that can do what this machine can. */
export async function temporaryStore(
  capabilities: VolumeCapabilities,
  overrides: Partial<VolumeStoreOptions> = {},
): Promise<{ store: VolumeStore; dir: string }> {
  const dir = overrides.dir ?? (await temporaryFolder());
  const owner = { uid: process.getuid!(), gid: process.getgid!() };
  const store = new VolumeStore({ ...tools, dir, capabilities, owner, ...overrides });
  await store.open();
  return { store, dir };
}
