import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { Machine } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { durationFromMs } from '../../shared/duration.ts';
import type { TestCluster } from './cluster.ts';

const program = join(import.meta.dirname, 'rows.ts');
const port = 8080;

/** A Machine whose processes write into one SQLite database, and the rows that they have acknowledged. */
export class RowsLoad {
  readonly machine: Machine;
  readonly #cluster: TestCluster;
  readonly #ackPath: string;

  private constructor(cluster: TestCluster, machine: Machine, ackPath: string) {
    this.machine = machine;
    this.#cluster = cluster;
    this.#ackPath = ackPath;
  }

  /** Runs the Machine with so many writers. */
  static async start(cluster: TestCluster, host: string, writers: number): Promise<RowsLoad> {
    const ackPath = join(cluster.dir, 'rows.acknowledged');
    const check = { type: 'http', port, interval: durationFromMs(200), timeout: durationFromMs(1000) };
    const machine = await cluster.run(
      {
        image: process.execPath,
        init: { cmd: [program] },
        env: { ACK_PATH: ackPath, PORT: String(port), ROWS_WRITERS: String(writers) },
        mounts: [{ name: 'rows', path: '/data', sizeGb: 1 }],
        checks: { rows: { ...check, gracePeriod: durationFromMs(30_000) } },
        restart: { policy: 'always' },
      },
      { host },
    );
    const load = new RowsLoad(cluster, machine, ackPath);
    await load.more(writers);
    return load;
  }

  /** Resolves after so many more rows. */
  async more(count: number): Promise<void> {
    const wanted = this.#acknowledged().length + count;
    await this.#cluster.until(`${count} more rows`, () => this.#acknowledged().length >= wanted);
  }

  /** Acknowledged rows that the database does not have where the Machine is now, and what SQLite finds wrong with it. */
  async missing(): Promise<{ acknowledged: number; lost: string[]; integrity: string }> {
    const acknowledged = this.#acknowledged();
    const { hostId, volumeId } = await this.#cluster.machine(this.machine.id);
    const database = new DatabaseSync(join(this.#cluster.dataDir(hostId), 'mnt', volumeId, 'rows.db'), {
      timeout: 30_000,
    });
    try {
      const rows = database.prepare('SELECT writer, number FROM row').all();
      const there = new Set(rows.map(({ writer, number }) => `${writer} ${number}`));
      const integrity = String(database.prepare('PRAGMA integrity_check').get()?.integrity_check);
      return { acknowledged: acknowledged.length, lost: acknowledged.filter((row) => !there.has(row)), integrity };
    } finally {
      database.close();
    }
  }

  #acknowledged(): string[] {
    try {
      return readFileSync(this.#ackPath, 'utf8').split('\n').slice(0, -1);
    } catch {
      return [];
    }
  }
}
