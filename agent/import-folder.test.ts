import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { ImportFolder } from './import-folder.ts';

let dir: string;
let folder: ImportFolder;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'ferry-import-'));
  folder = new ImportFolder(join(dir, 'import'));
  await folder.open();
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

it('finds a file by its name and by its whole path; its size is whole blocks, at least a MiB', async () => {
  const path = join(dir, 'import', 'disk.img');
  writeFileSync(path, Buffer.alloc(2_000_000, 1));
  expect(await folder.find('disk.img')).toMatchObject({ path, sizeBytes: 2_002_944 });
  expect(await folder.find(path)).toMatchObject({ path });
  writeFileSync(join(dir, 'import', 'small.img'), 'x');
  expect(await folder.find('small.img')).toMatchObject({ sizeBytes: 1_048_576 });
});

it('finds nothing outside, whatever the path looks like', async () => {
  writeFileSync(join(dir, 'secret'), 'key');
  mkdirSync(join(dir, 'import-other'));
  writeFileSync(join(dir, 'import-other', 'disk.img'), 'x');
  symlinkSync(join(dir, 'secret'), join(dir, 'import', 'link'));
  symlinkSync(dir, join(dir, 'import', 'up'));
  for (const path of ['../secret', 'link', 'up/secret', join(dir, 'secret'), '../import-other/disk.img', '/etc/passwd'])
    await expect(folder.find(path), path).rejects.toMatchObject({ reason: 'invalid_argument' });
  await expect(folder.find('../nothing')).rejects.toThrow('is not in the import folder');
});

it('names the folder when there is no such file, or it is none', async () => {
  mkdirSync(join(dir, 'import', 'folder'));
  writeFileSync(join(dir, 'import', 'empty'), '');
  for (const [path, what] of [
    ['none.img', 'does not exist'],
    ['folder', 'is no regular file'],
    ['empty', 'is empty'],
    ['a\0b', 'is "a'],
  ] as const) {
    await expect(folder.find(path)).rejects.toThrow(what);
    await expect(folder.find(path)).rejects.toThrow(join(dir, 'import'));
  }
});
