// Run by tests as a process of its own. `hang <dir>`: creates a volume but stops for ever just before the rename, for the
// test to kill it there. `use <dir>`: probes, creates and mounts a volume, and prints what it found as JSON.
import * as files from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { probeCapabilities } from './capabilities.ts';
import { commandRunner } from './command.ts';
import { VolumeStore } from './store.ts';

const [mode, dir] = process.argv.slice(2) as ['hang' | 'use', string];
const run = commandRunner({ searchPath: process.env.PATH });
const tools = { files, run, sleep, agentPid: process.pid, timeoutMs: 60_000 };
const owner = { uid: process.getuid!(), gid: process.getgid!() };
const volumeId = 'vol_aaaaaaaaaaaaaaa1';
const sizeBytes = 64 * 1024 * 1024;

async function hang(): Promise<void> {
  const rename = () => {
    process.stdout.write('before the rename\n');
    setInterval(() => {}, 1e6);
    return new Promise<void>(() => {});
  };
  const capabilities = { mount: false, reflink: false, fiemap: false, mkfs: false, punch: false, reasons: {} };
  const store = new VolumeStore({ ...tools, files: { ...files, rename }, dir, capabilities, owner });
  await store.open();
  await store.create({ volumeId, sizeBytes, epoch: 1 });
}

async function use(): Promise<void> {
  const capabilities = await probeCapabilities(dir, tools);
  const store = new VolumeStore({ ...tools, dir, capabilities, owner });
  await store.open();
  const created = await store.create({ volumeId, sizeBytes, epoch: 1 });
  const mounted = await store.mount(volumeId);
  await files.writeFile(mounted.path, 'written by the Machine', { flag: 'r+' });
  const file = await files.open(mounted.path, 'r');
  const holders = await store.holders(volumeId);
  await file.close();
  const unmounted = await store.unmount(volumeId);
  const relinquished = await store.relinquish(volumeId, 1);
  const formatted = await store.create({ volumeId: 'vol_bbbbbbbbbbbbbbb2', sizeBytes, epoch: 1, filesystem: 'ext4' });
  const report = { capabilities, created, mounted, holders, unmounted, relinquished, formatted };
  process.stdout.write(JSON.stringify(report));
}

await (mode === 'hang' ? hang() : use());
