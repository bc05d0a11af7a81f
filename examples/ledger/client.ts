// A load client of the ledger: appends all the time, one entry after the other, and records each acknowledgement on its
// own disk. On its own: node examples/ledger/client.ts MACHINE_ID PORT ACK_FILE   (until ctrl-C, then verifies)
import { randomUUID } from 'node:crypto';
import { closeSync, fdatasyncSync, openSync, readFileSync, writeSync } from 'node:fs';
import { MachineService } from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import { type Clock, systemClock } from '../../shared/clock.ts';
import { ClientPool } from '../../shared/rpc/client.ts';
import type { Entry } from './ledger.ts';
import { renderVerdict, verifyLedger } from './verify.ts';

const requestMsMax = 1000;
const retryMs = 5;

/** Finds the ledger: its base URL, for example "http://127.0.0.2:8080". */
export type Locate = () => Promise<string>;

/** How a client is made. */
export interface LedgerClientOptions {
  readonly locate: Locate;
  /** File of the acknowledgements, one JSON entry a line; appended to. */
  readonly ackPath: string;
  readonly clock?: Clock;
}

/** What a client saw. */
export interface LoadReport {
  readonly acknowledged: number;
  /** Requests that had no answer and were repeated. */
  readonly repeated: number;
  /** Longest time from the last answer before a silence to the first one after it, in milliseconds. */
  readonly longestGapMs: number;
}

/** Finds a Machine's ledger through the coordinator. */
export function locateMachine(coordinator: string, machineId: string, port: number): Locate {
  const client = new ClientPool().client(MachineService, coordinator);
  return async () => {
    const { machine } = await client.getMachine({ machineId }, { timeoutMs: requestMsMax });
    const address = machine?.bindIp || machine?.privateIp || '';
    return `http://${address.includes(':') ? `[${address}]` : address}:${port}`;
  };
}

/** Reads a file of acknowledgements. */
export function readAcknowledgements(path: string): Entry[] {
  return readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Entry);
}

/** Appends entries until told to stop. */
export class LedgerClient {
  readonly #locate: Locate;
  readonly #clock: Clock;
  readonly #acks: number;
  readonly #listeners = new Set<() => void>();
  #acknowledged = 0;
  #repeated = 0;
  #longestGapMs = 0;
  #lastAckMs: number | undefined;

  constructor({ locate, ackPath, clock = systemClock }: LedgerClientOptions) {
    this.#locate = locate;
    this.#clock = clock;
    this.#acks = openSync(ackPath, 'a', 0o600);
  }

  get report(): LoadReport {
    return { acknowledged: this.#acknowledged, repeated: this.#repeated, longestGapMs: this.#longestGapMs };
  }

  /** Appends until `signal` aborts; the entry on its way then is finished first if it can be. */
  async run(signal: AbortSignal): Promise<LoadReport> {
    let url = '';
    try {
      while (!signal.aborted) {
        const key = randomUUID();
        const body = JSON.stringify({
          key,
          payload: `${key} appended at ${new Date(this.#clock.nowMs()).toISOString()}`,
        });
        // The same key until it is acknowledged: an append whose answer was lost is not made twice.
        for (let done = false; !done && !signal.aborted; ) {
          try {
            if (url === '') url = await this.#locate();
            this.#acknowledge(await post(`${url}/append`, body));
            done = true;
          } catch {
            url = '';
            this.#repeated += 1;
            await this.#clock.sleep(retryMs, signal).catch(() => undefined);
          }
        }
      }
    } finally {
      closeSync(this.#acks);
    }
    return this.report;
  }

  /** Resolves once so many more entries are acknowledged. */
  more(count: number, signal: AbortSignal): Promise<void> {
    const wanted = this.#acknowledged + count;
    return new Promise((resolve, reject) => {
      const look = () => {
        if (this.#acknowledged < wanted && !signal.aborted) return;
        this.#listeners.delete(look);
        signal.removeEventListener('abort', look);
        if (this.#acknowledged >= wanted) resolve();
        else reject(signal.reason);
      };
      this.#listeners.add(look);
      signal.addEventListener('abort', look);
      look();
    });
  }

  #acknowledge(entry: Entry): void {
    writeSync(this.#acks, `${JSON.stringify(entry)}\n`);
    fdatasyncSync(this.#acks);
    const nowMs = this.#clock.monotonicMs();
    if (this.#lastAckMs !== undefined) this.#longestGapMs = Math.max(this.#longestGapMs, nowMs - this.#lastAckMs);
    this.#lastAckMs = nowMs;
    this.#acknowledged += 1;
    for (const listener of this.#listeners) listener();
  }
}

async function post(url: string, body: string): Promise<Entry> {
  const response = await fetch(url, { method: 'POST', body, signal: AbortSignal.timeout(requestMsMax) });
  const answer = (await response.json()) as Entry & { error?: string };
  if (!response.ok) throw new Error(answer.error ?? `HTTP ${response.status}`);
  return answer;
}

async function main([machineId, port, ackPath]: string[], env: NodeJS.ProcessEnv): Promise<void> {
  if (machineId === undefined || port === undefined || ackPath === undefined) {
    throw new Error('expected: client.ts MACHINE_ID PORT ACK_FILE');
  }
  const locate = locateMachine(env.FERRY_COORDINATOR ?? '127.0.0.1:7400', machineId, Number(port));
  const stop = new AbortController();
  process.once('SIGINT', () => stop.abort());
  const report = await new LedgerClient({ locate, ackPath }).run(stop.signal);
  console.log(`longest silence ${Math.round(report.longestGapMs)} ms, ${report.repeated} requests repeated`);
  const verdict = await verifyLedger(await locate(), readAcknowledgements(ackPath));
  console.log(renderVerdict(verdict));
  process.exit(verdict.problems.length === 0 ? 0 : 1);
}

if (import.meta.main) await main(process.argv.slice(2), process.env);
