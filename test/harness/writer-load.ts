import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Machine } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { durationFromMs } from '../../shared/duration.ts';
import type { TestCluster } from './cluster.ts';
import { untilRuns } from './drive.ts';
import { withFrozen } from './frozen.ts';
import { missingBlocks, readAcknowledged } from './writer.ts';

const program = join(import.meta.dirname, 'writer.ts');
const port = 8080;

/** What a writer does; see writer.ts. */
export interface WriterOptions {
  readonly host: string;
  readonly network?: string;
  readonly pattern?: 'random' | 'sequential' | 'punch';
  readonly fill?: 'none' | 'full' | 'sparse';
  readonly spanMib?: number;
  readonly bytesPerSecond?: number;
  readonly blockKib?: number;
  readonly sizeGb?: number;
}

/** A Machine that writes to its volume all the time, and what it has acknowledged. */
export class WriterLoad {
  readonly machine: Machine;
  readonly #cluster: TestCluster;
  readonly #ackPath: string;
  readonly #blockBytes: number;

  private constructor(cluster: TestCluster, machine: Machine, ackPath: string, blockBytes: number) {
    this.machine = machine;
    this.#cluster = cluster;
    this.#ackPath = ackPath;
    this.#blockBytes = blockBytes;
  }

  /** Runs the Machine; resolves once it writes. */
  static async start(cluster: TestCluster, options: WriterOptions): Promise<WriterLoad> {
    const {
      host,
      network = 'net',
      pattern = 'random',
      fill = 'none',
      spanMib = 64,
      blockKib = 4,
      sizeGb = 1,
    } = options;
    const ackPath = join(cluster.dir, `${network}-${crypto.randomUUID()}.acknowledged`);
    const env = {
      ACK_PATH: ackPath,
      PORT: String(port),
      WRITER_PATTERN: pattern,
      WRITER_FILL: fill,
      WRITER_SPAN_MIB: String(spanMib),
      WRITER_BLOCK_KIB: String(blockKib),
      WRITER_BYTES_PER_SECOND: String(options.bytesPerSecond ?? 2 ** 20),
    };
    const check = { type: 'http', port, interval: durationFromMs(200), timeout: durationFromMs(1000) };
    const machine = await cluster.run(
      {
        image: process.execPath,
        init: { cmd: [program] },
        env,
        mounts: [{ name: 'blocks', path: '/data', sizeGb }],
        checks: { writer: { ...check, gracePeriod: durationFromMs(60_000) } },
      },
      { host, network },
    );
    const load = new WriterLoad(cluster, machine, ackPath, blockKib * 1024);
    // It serves once it has filled its file.
    await untilRuns(cluster, host, machine.id);
    await load.more(1);
    return load;
  }

  /** Resolves after so many more acknowledgements. */
  async more(count: number): Promise<void> {
    const wanted = this.#lines() + count;
    await this.#cluster.until(`${count} more acknowledged writes`, () => this.#lines() >= wanted);
  }

  /** Acknowledged blocks that its volume does not hold where the Machine is now, in words. */
  async missing(): Promise<string[]> {
    const { hostId, volumeId } = await this.#cluster.machine(this.machine.id);
    const file = join(this.#cluster.dataDir(hostId), 'mnt', volumeId, 'blocks');
    return withFrozen(this.#cluster.processes(), () =>
      missingBlocks(file, readAcknowledged(this.#ackPath), this.#blockBytes),
    );
  }

  #lines(): number {
    return existsSync(this.#ackPath)
      ? readFileSync(this.#ackPath).reduce((sum, byte) => sum + Number(byte === 10), 0)
      : 0;
  }
}
