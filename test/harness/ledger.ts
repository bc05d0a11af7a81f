import { join } from 'node:path';
import { LedgerClient, readAcknowledgements } from '../../examples/ledger/client.ts';
import { type Verdict, verifyLedger } from '../../examples/ledger/verify.ts';
import type { Machine } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { durationFromMs } from '../../shared/duration.ts';
import type { TestCluster } from './cluster.ts';

const program = join(import.meta.dirname, '../../examples/ledger/ledger.ts');
const port = 8080;

/** Config of a Machine that runs the ledger of examples/ on a 1 GiB volume. */
export function ledgerConfig(fillMib = 16) {
  return {
    image: process.execPath,
    init: { cmd: [program] },
    env: { PORT: String(port), LEDGER_FILL_MIB: String(fillMib) },
    mounts: [{ name: 'ledger', path: '/data', sizeGb: 1 }],
    checks: {
      ledger: {
        type: 'http',
        port,
        path: '/health',
        interval: durationFromMs(200),
        timeout: durationFromMs(1000),
        gracePeriod: durationFromMs(30_000),
      },
    },
  };
}

/** Config of a ledger that misbehaves where the files of the cluster's folder say so; see fussy-ledger.ts. */
export function fussyConfig(cluster: TestCluster, { stopMs = 0 } = {}) {
  const config = ledgerConfig(0);
  return {
    ...config,
    init: { cmd: [join(import.meta.dirname, 'fussy-ledger.ts')] },
    env: { PORT: String(port), FUSSY_DIR: cluster.dir, FUSSY_STOP_MS: String(stopMs) },
    stopConfig: { timeout: durationFromMs(stopMs + 10_000) },
    restart: { policy: 'on-failure', maxRetries: 1 },
  };
}

/** A ledger Machine with a client that appends all the time. */
export class LedgerLoad {
  readonly machine: Machine;
  readonly #cluster: TestCluster;
  readonly #client: LedgerClient;
  readonly #ackPath: string;
  readonly #over = new AbortController();
  readonly #running: Promise<unknown>;

  private constructor(cluster: TestCluster, machine: Machine) {
    this.machine = machine;
    this.#cluster = cluster;
    this.#ackPath = join(cluster.dir, `${machine.id}.acknowledged`);
    this.#client = new LedgerClient({
      locate: () => this.#url(),
      ackPath: this.#ackPath,
    });
    this.#running = this.#client.run(this.#over.signal);
  }

  /** Runs the Machine and the client; resolves after the first acknowledgements. */
  static async start(
    cluster: TestCluster,
    host: string,
    options: { fillMib?: number; network?: string } = {},
  ): Promise<LedgerLoad> {
    const { fillMib = 16, network = 'net' } = options;
    const load = new LedgerLoad(
      cluster,
      await cluster.run(ledgerConfig(fillMib), { host, network, app: `app-${network}` }),
    );
    await load.more(20);
    return load;
  }

  /** Resolves after so many more acknowledgements. */
  more(count: number): Promise<void> {
    return this.#client.more(count, AbortSignal.timeout(60_000));
  }

  /** Stops the client; answers whether every acknowledged entry is in the ledger where the Machine is now. */
  async verdict(): Promise<Verdict> {
    this.#over.abort();
    await this.#running;
    return verifyLedger(await this.#url(), readAcknowledgements(this.#ackPath));
  }

  async #url(): Promise<string> {
    return `http://${await this.#cluster.whereabouts(this.machine.id)}:${port}`;
  }
}
