import { request } from 'node:http';
import { connect } from 'node:net';
import type { Clock } from '../../shared/clock.ts';
import type { CheckSettings } from './config.ts';

/** The last result of a health check. */
export interface CheckResult {
  readonly name: string;
  /** "warning": no result yet, or a failure within the grace period. */
  readonly status: 'passing' | 'warning' | 'critical';
  /** First bytes of the answer, or the error. */
  readonly output: string;
  readonly updatedAtMs: number;
}

/** One look at a program: passes, or fails with the reason. */
export type Probe = (check: CheckSettings, address: string, signal: AbortSignal) => Promise<ProbeResult>;

export interface ProbeResult {
  readonly ok: boolean;
  readonly output: string;
}

export interface HealthChecksOptions {
  readonly checks: readonly CheckSettings[];
  /** Address that the program listens on. */
  readonly address: string;
  readonly startedAtMs: number;
  readonly clock: Clock;
  /** Called after each change of a status. */
  readonly onChange: () => void;
  readonly probe?: Probe;
}

/** A Machine without checks is healthy when its program has run for so long. */
const HEALTHY_WITHOUT_CHECKS_MS = 5_000;
/** Until it passes for the first time a check is repeated sooner: this delay is downtime. */
const EAGER_INTERVAL_MS = 20;
const EAGER_MS_MAX = 60_000;
const OUTPUT_BYTES_MAX = 512;

/** The health checks of one start of a Machine's program. */
export class HealthChecks {
  readonly #options: HealthChecksOptions;
  readonly #probe: Probe;
  readonly #results = new Map<string, CheckResult>();
  #hasRunLongEnough = false;

  constructor(options: HealthChecksOptions) {
    this.#options = options;
    this.#probe = options.probe ?? probeNetwork;
    for (const { name } of options.checks) {
      const output = 'no result yet';
      this.#results.set(name, { name, status: 'warning', output, updatedAtMs: options.startedAtMs });
    }
  }

  /** Last results, in the order of the config. */
  get results(): readonly CheckResult[] {
    return [...this.#results.values()];
  }

  /** Whether all checks pass; without checks, whether the program has run for 5 s. */
  get healthy(): boolean {
    if (this.#results.size === 0) return this.#hasRunLongEnough;
    return this.results.every((result) => result.status === 'passing');
  }

  /** Checks until `signal` aborts. Never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    const all = this.#options.checks.map((check) => this.#repeat(check, signal));
    if (all.length === 0) all.push(this.#runLongEnough(signal));
    await Promise.allSettled(all);
  }

  async #runLongEnough(signal: AbortSignal): Promise<void> {
    const { clock, startedAtMs, onChange } = this.#options;
    const ranMs = Math.max(0, clock.nowMs() - startedAtMs);
    if (ranMs < HEALTHY_WITHOUT_CHECKS_MS) await clock.sleep(HEALTHY_WITHOUT_CHECKS_MS - ranMs, signal);
    this.#hasRunLongEnough = true;
    onChange();
  }

  async #repeat(check: CheckSettings, signal: AbortSignal): Promise<void> {
    for (let hasPassed = false; !signal.aborted; ) {
      const { ok, output } = await this.#once(check, signal);
      if (signal.aborted) return;
      this.#record(check, ok, output);
      hasPassed ||= ok;
      const { clock, startedAtMs } = this.#options;
      const eager = !hasPassed && clock.nowMs() < startedAtMs + EAGER_MS_MAX;
      await clock.sleep(eager ? Math.min(check.intervalMs, EAGER_INTERVAL_MS) : check.intervalMs, signal);
    }
  }

  #record(check: CheckSettings, ok: boolean, output: string): void {
    const { clock, startedAtMs, onChange } = this.#options;
    const nowMs = clock.nowMs();
    const inGrace = nowMs < startedAtMs + check.gracePeriodMs;
    const status = ok ? 'passing' : inGrace ? 'warning' : 'critical';
    const before = this.#results.get(check.name);
    this.#results.set(check.name, { name: check.name, status, output: clean(output), updatedAtMs: nowMs });
    if (before?.status !== status) onChange();
  }

  async #once(check: CheckSettings, signal: AbortSignal): Promise<ProbeResult> {
    const over = new AbortController();
    const done = new AbortController();
    const timeout = this.#options.clock.sleep(check.timeoutMs, AbortSignal.any([done.signal, signal])).then(
      () => over.abort(),
      () => {},
    );
    try {
      return await this.#probe(check, this.#options.address, AbortSignal.any([over.signal, signal]));
    } catch (error) {
      if (over.signal.aborted) return { ok: false, output: `no answer within ${check.timeoutMs} ms` };
      return { ok: false, output: (error as Error).message };
    } finally {
      done.abort();
      await timeout;
    }
  }
}

/** Looks over the network. TCP: the port accepts. HTTP: an answer of 200 to 299; redirects are not followed. */
export const probeNetwork: Probe = (check, address, signal) =>
  check.type === 'tcp' ? probeTcp(check, address, signal) : probeHttp(check, address, signal);

function probeTcp(check: CheckSettings, address: string, signal: AbortSignal): Promise<ProbeResult> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: address, port: check.port, signal });
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.destroy();
      resolve({ ok: true, output: `${address}:${check.port} accepts connections` });
    });
  });
}

function probeHttp(check: CheckSettings, address: string, signal: AbortSignal): Promise<ProbeResult> {
  return new Promise((resolve, reject) => {
    const { port, method, path } = check;
    const options = { host: address, port, method, path, signal, agent: false, headers: { 'user-agent': 'ferry' } };
    const asked = request(options, (response) => {
      const { statusCode = 0, statusMessage = '' } = response;
      let body = '';
      const finish = (): void => {
        response.destroy();
        resolve({ ok: statusCode >= 200 && statusCode <= 299, output: `${statusCode} ${statusMessage}: ${body}` });
      };
      response.setEncoding('utf8');
      response.on('data', (text: string) => {
        body += text;
        if (body.length >= OUTPUT_BYTES_MAX) finish();
      });
      response.once('end', finish);
      response.once('error', reject);
    });
    asked.once('error', reject);
    asked.end();
  });
}

/** For one line of a table. */
function clean(text: string): string {
  return text
    .replaceAll(/[\s\p{C}]+/gu, ' ')
    .trim()
    .slice(0, OUTPUT_BYTES_MAX);
}
