import { spawn } from 'node:child_process';
import { once } from 'node:events';
import * as files from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { capabilitiesHere, run, succeed, temporaryFolder, temporaryStore, volumeA } from './store.testkit.ts';

const fixture = fileURLToPath(new URL('./store.fixture.ts', import.meta.url));
const capabilities = await capabilitiesHere();
const canBeNobody =
  process.getuid!() === 0 && (await run('setpriv', ['--version'], { timeoutMs: 10_000 }).catch(() => null));

test('killed between the temporary folder and the rename: nothing looks like a volume, and it is swept', async () => {
  const dir = await temporaryFolder();
  const child = spawn(process.execPath, [fixture, 'hang', dir], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exit = once(child, 'exit');
  await once(child.stdout, 'data');
  child.kill('SIGKILL');
  await exit;
  const left = join(dir, 'volumes', `.creating-${volumeA}`);
  expect(await files.readdir(left)).toEqual(['owned-e1.img']);

  const { store } = await temporaryStore(capabilities, { dir });
  expect(await files.readdir(join(dir, 'volumes'))).toEqual([]);
  expect(await store.list()).toEqual({ volumes: [], strange: [] });
  expect(await store.create({ volumeId: volumeA, sizeBytes: 1024 * 1024, epoch: 1 })).toMatchObject({ state: 'owned' });
});

test.skipIf(!canBeNobody)(
  'an unprivileged agent creates and hands out raw volumes (needs root and setpriv)',
  async () => {
    const dir = await temporaryFolder();
    await files.chown(dir, 65534, 65534);
    const args = ['--reuid', '65534', '--regid', '65534', '--clear-groups', process.execPath, fixture, 'use', dir];
    const report = JSON.parse(await succeed('setpriv', ...args));
    expect(report.capabilities.mount).toBe(false);
    expect(report.capabilities.reasons.mount).toContain('mount');
    expect(report.created).toMatchObject({ state: 'owned', epoch: 1, allocatedBytes: 0, filesystem: { kind: 'raw' } });
    expect(report.mounted).toEqual({ path: join(dir, 'volumes', volumeA, 'owned-e1.img'), kind: 'raw' });
    expect(report.holders).toMatchObject([{ how: 'fd', isAgent: true }]);
    expect(report.unmounted).toEqual({ filesystem: { kind: 'raw' } });
    expect(report.relinquished).toMatchObject({ state: 'relinquished', epoch: 1 });
    if (capabilities.mkfs) expect(report.formatted).toMatchObject({ filesystem: { kind: 'ext4', wasMounted: false } });
  },
);
