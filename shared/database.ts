import { closeSync, fsyncSync, mkdirSync, openSync, rmSync, statSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync, type SQLInputValue, type SQLOutputValue, type StatementSync } from 'node:sqlite';
import { FerryError } from './error.ts';

/** Bytes kept free for the database itself, so that a host whose disk is full can still be drained. */
const reserveBytes = 8 * 1024 * 1024;
const sqliteBusy = 5;
const sqliteIoError = 10;
const sqliteFull = 13;

/** A row as SQLite gives it. */
export type Row = Record<string, SQLOutputValue>;

function errcodeOf(error: unknown): number {
  return ((error as { errcode?: number } | null)?.errcode ?? 0) & 0xff;
}

/**
 * A SQLite database that is durable at each commit (WAL, synchronous=FULL, both read back) and open in one process only.
 * `schema` lists its versions: entry n brings version n to n + 1. `reserve`: room on the disk is kept for it.
 * Throws FerryError store_locked, no_space or io_error.
 */
export class Database {
  readonly path: string;
  readonly #db: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();
  #depth = 0;

  constructor(path: string, schema: readonly string[], { reserve = true } = {}) {
    this.path = path;
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    this.#db = this.#guard(() => new DatabaseSync(path));
    this.#guard(() => {
      this.#db.exec(
        'PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON',
      );
    });
    this.#readBack('journal_mode', 'wal');
    this.#readBack('synchronous', 2);
    this.#upgrade(schema);
    if (reserve) this.#keepReserve();
  }

  #readBack(pragma: string, expected: string | number): void {
    const found = Object.values(this.#db.prepare(`PRAGMA ${pragma}`).get() ?? {})[0];
    if (found !== expected) {
      throw new FerryError(
        'unsupported',
        `${this.path}: ${pragma} is ${found}, not ${expected}; is this a network file system?`,
        {
          expected: `a local file system on which SQLite can use ${pragma}=${expected}`,
        },
      );
    }
  }

  #upgrade(schema: readonly string[]): void {
    const version = Number(Object.values(this.#db.prepare('PRAGMA user_version').get() ?? {})[0]);
    if (version > schema.length) {
      throw new FerryError(
        'unsupported',
        `${this.path} was written by a newer Ferry (schema ${version}, this one knows ${schema.length})`,
        {
          nextAction: 'Run the newer Ferry again.',
        },
      );
    }
    for (let next = version; next < schema.length; next += 1) {
      this.transaction(() => this.#db.exec(`${schema[next]}; PRAGMA user_version = ${next + 1}`));
    }
  }

  #keepReserve(): void {
    const path = `${this.path}.reserve`;
    try {
      if (statSync(path, { throwIfNoEntry: false })?.size === reserveBytes) return;
      const file = openSync(path, 'w', 0o600);
      try {
        writeSync(file, Buffer.alloc(reserveBytes));
        fsyncSync(file);
      } finally {
        closeSync(file);
      }
    } catch {
      // A disk that is full already: the reserve comes back at a start with room.
      rmSync(path, { force: true });
    }
  }

  /** Runs `work`, turning SQLite's errors into ours. On a full disk the reserve is given up and the work tried once more. */
  #guard<T>(work: () => T, mayUseReserve = false): T {
    try {
      return work();
    } catch (error) {
      const errcode = errcodeOf(error);
      if (errcode === sqliteBusy) {
        throw new FerryError('store_locked', `${this.path} is open in another process`, { cause: error });
      }
      if (errcode === sqliteFull && mayUseReserve) {
        rmSync(`${this.path}.reserve`, { force: true });
        return this.#guard(work);
      }
      if (errcode === sqliteFull) throw new FerryError('no_space', `${this.path}: the disk is full`, { cause: error });
      if (errcode === sqliteIoError) {
        // Linux reports a failed fsync once: what is on the disk is known only after opening it again.
        throw new FerryError('io_error', `${this.path}: the disk failed`, { cause: error });
      }
      throw error;
    }
  }

  #statement(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = this.#db.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }

  /** Runs a statement that answers no rows; resolves once it is durable unless inside `transaction`. */
  run(sql: string, ...values: SQLInputValue[]): number {
    const execute = () => Number(this.#statement(sql).run(...values).changes);
    return this.#depth > 0 ? execute() : this.#guard(execute, true);
  }

  /** The first row, or undefined. */
  get(sql: string, ...values: SQLInputValue[]): Row | undefined {
    return this.#statement(sql).get(...values);
  }

  /** All rows. */
  all(sql: string, ...values: SQLInputValue[]): Row[] {
    return this.#statement(sql).all(...values);
  }

  /** All or nothing, durable when it returns. Inner transactions join the outer one. */
  transaction<T>(work: () => T): T {
    if (this.#depth > 0) return work();
    return this.#guard(() => {
      this.#db.exec('BEGIN IMMEDIATE');
      this.#depth += 1;
      try {
        const result = work();
        this.#db.exec('COMMIT');
        return result;
      } catch (error) {
        try {
          this.#db.exec('ROLLBACK');
        } catch {
          // SQLite has rolled back by itself (a full disk): nothing is left to undo.
        }
        throw error;
      } finally {
        this.#depth -= 1;
      }
    }, true);
  }

  /** Closes it; twice is harmless. */
  close(): void {
    if (this.#db.isOpen) this.#db.close();
  }
}
