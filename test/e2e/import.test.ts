import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { TestCluster } from '../harness/cluster.ts';
import { listenerConfig } from '../harness/listener.ts';

const mib = 1024 ** 2;
const isRoot = process.getuid?.() === 0;

let cluster: TestCluster;
let folder: string;
afterEach(async () => {
  await cluster?.[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

/** An ext4 image of 32 MiB and some with one file in it. */
function makeImage(): string {
  folder = mkdtempSync(join(tmpdir(), 'ferry-import-'));
  mkdirSync(join(folder, 'files'));
  writeFileSync(join(folder, 'files', 'greeting'), 'brought along\n');
  const image = join(folder, 'disk.img');
  execFileSync('mkfs.ext4', ['-q', '-F', '-d', join(folder, 'files'), image, '33M'], { stdio: 'ignore' });
  return image;
}

/** Prints the greeting from the mounted volume, or from the raw image, and stays. */
const reader = (volume: string) => ({
  ...listenerConfig({
    first: `
      const { FERRY_VOLUME_KIND, FERRY_VOLUME_PATH } = process.env;
      const file = FERRY_VOLUME_KIND === 'ext4' ? FERRY_VOLUME_PATH + '/greeting' : FERRY_VOLUME_PATH;
      if (require('fs').readFileSync(file).includes('brought along')) console.log('brought along');`,
  }),
  mounts: [{ name: 'disk', path: '/data', volume }],
});

test(`a disk image becomes a volume, a Machine takes it and moves with it${isRoot ? '' : ' (raw: needs root to mount)'}`, async () => {
  const image = makeImage();
  cluster = await TestCluster.start();
  cpSync(image, join(cluster.dataDir('host-a'), 'import', 'disk.img'));
  const { volume } = await cluster.volumes.createVolume({ name: 'disk', hostId: 'host-a', fromPath: 'disk.img' });
  expect(volume).toMatchObject({ hostId: 'host-a', sizeBytes: BigInt(33 * mib), machineId: '' });
  expect(volume!.filesystem).toBe('ext4');
  const machine = await cluster.run(reader(volume!.id));
  expect(machine).toMatchObject({ hostId: 'host-a', volumeId: volume!.id });
  const migration = await cluster.ended(await cluster.migrate(machine.id, 'host-b'));
  expect(migration, migration.reason).toMatchObject({ state: MigrationState.MOVED, settled: true });
  await cluster.until('it has read its volume there', async () => {
    const lines: string[] = [];
    const asked = { machineId: machine.id, tailLines: 10 };
    for await (const { line } of cluster.machines.machineLogs(asked, { timeoutMs: 5000 })) lines.push(line);
    return lines.includes('brought along');
  });
  // It belongs to the Machine now.
  await expect(cluster.run(reader(volume!.id), { host: 'host-a' })).rejects.toThrow(volume!.id);
});
