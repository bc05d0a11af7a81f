import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Database } from './database.ts';

const schema = ['CREATE TABLE things (name TEXT PRIMARY KEY) STRICT'];
const canTrace = spawnSync('strace', ['-o', '/dev/null', 'true']).status === 0;
let dir: string;
let path: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'ferry-database-'));
  path = join(dir, 'test.db');
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const names = (database: Database) => database.all('SELECT name FROM things ORDER BY name').map((row) => row.name);

test('what was written is there when it is opened again; a transaction is all or nothing', () => {
  const database = new Database(path, schema);
  database.run('INSERT INTO things VALUES (?)', 'one');
  expect(() =>
    database.transaction(() => {
      database.run('INSERT INTO things VALUES (?)', 'two');
      throw new Error('no');
    }),
  ).toThrow('no');
  database.close();
  database.close();
  const again = new Database(path, schema);
  expect(names(again)).toEqual(['one']);
  again.close();
});

test('is open in one process only', () => {
  const database = new Database(path, schema);
  expect(() => new Database(path, schema)).toThrow(expect.objectContaining({ reason: 'store_locked' }));
  database.close();
});

test('goes forward through its schema, and refuses one from a newer Ferry', () => {
  new Database(path, schema).close();
  const newer = new Database(path, [...schema, 'ALTER TABLE things ADD COLUMN size INTEGER NOT NULL DEFAULT 0']);
  newer.run('INSERT INTO things VALUES (?, ?)', 'one', 3);
  newer.close();
  expect(() => new Database(path, schema)).toThrow(expect.objectContaining({ reason: 'unsupported' }));
});

test('keeps a reserve on the disk', () => {
  const database = new Database(path, schema);
  expect(existsSync(`${path}.reserve`)).toBe(true);
  database.close();
});

test.skipIf(!canTrace)('a write has been synced to the disk when it returns (needs strace)', () => {
  const program = `
    import { writeSync } from 'node:fs';
    import { Database } from ${JSON.stringify(join(import.meta.dirname, 'database.ts'))};
    const database = new Database(${JSON.stringify(path)}, ${JSON.stringify(schema)});
    writeSync(1, 'before the write');
    database.run('INSERT INTO things VALUES (?)', 'one');
    writeSync(1, 'after the write');
  `;
  const log = join(dir, 'trace');
  const flags = ['-f', '-y', '-o', log, '-e', 'trace=write,pwrite64,fsync,fdatasync'];
  const traced = spawnSync('strace', [...flags, process.execPath, '--input-type=module-typescript', '-e', program]);
  expect(traced.stderr.toString()).toBe('');
  const lines = readFileSync(log, 'utf8').split('\n');
  const at = (text: string) => lines.findIndex((line) => line.includes(text));
  const between = lines.slice(at('before the write'), at('after the write'));
  const lastWrite = between.findLastIndex((line) => line.includes('test.db-wal') && line.includes('pwrite64'));
  const lastSync = between.findLastIndex((line) => /f(data)?sync\(/.test(line) && line.includes('test.db-wal'));
  expect(lastWrite).toBeGreaterThan(-1);
  expect(lastSync).toBeGreaterThan(lastWrite);
});
