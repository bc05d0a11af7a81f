// A program for a Machine: several processes insert rows into one SQLite database on the volume, each row a transaction
// that is synced before it is acknowledged outside, in ACK_PATH. ROWS_WRITERS says how many.
import { type ChildProcess, fork } from 'node:child_process';
import { appendFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';

const { FERRY_VOLUME_PATH = '', FERRY_BIND_IP = '', ACK_PATH = '', PORT = '8080', ROWS_WRITERS = '3' } = process.env;
const payloadBytes = 2000;
const pauseMs = 2;

function open(): DatabaseSync {
  const database = new DatabaseSync(join(FERRY_VOLUME_PATH, 'rows.db'), { timeout: 30_000 });
  database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;');
  database.exec(
    'CREATE TABLE IF NOT EXISTS row (writer INTEGER, number INTEGER, payload TEXT, UNIQUE (writer, number))',
  );
  return database;
}

async function write(writer: number): Promise<void> {
  const database = open();
  const insert = database.prepare('INSERT INTO row (writer, number, payload) VALUES (?, ?, ?)');
  const last = database.prepare('SELECT coalesce(max(number), 0) AS number FROM row WHERE writer = ?').get(writer);
  for (let number = Number(last?.number ?? 0) + 1; ; number += 1) {
    insert.run(writer, number, `${writer}.${number} `.repeat(payloadBytes / 10));
    appendFileSync(ACK_PATH, `${writer} ${number}\n`);
    await sleep(pauseMs);
  }
}

const [role] = process.argv.slice(2);
if (role !== undefined) await write(Number(role));
else {
  open().close();
  const writers = Array.from(
    { length: Number(ROWS_WRITERS) },
    (_, index): ChildProcess => fork(import.meta.filename, [String(index + 1)]),
  );
  // A writer that fails is seen: the whole program fails with it.
  for (const child of writers) child.once('exit', () => process.exit(1));
  createServer((_, response) => response.end('writing\n')).listen(Number(PORT), FERRY_BIND_IP);
  process.once('SIGINT', () => {
    for (const child of writers) {
      child.removeAllListeners('exit');
      child.kill('SIGTERM');
    }
    process.exit(0);
  });
}
