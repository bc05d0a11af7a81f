import { durationFromMs } from '../../shared/duration.ts';

const port = 8080;

/** What a listener does besides listening. */
export interface ListenerOptions {
  /** Time from its signal to its end. */
  readonly stopMs?: number;
  /** JavaScript that runs before it listens. */
  readonly first?: string;
  /** JavaScript that says what signals do; by default SIGINT ends it with 0. */
  readonly signals?: string;
  /** Within this much after its signal it is killed. */
  readonly stopTimeoutMs?: number;
}

/**
 * Config of a Machine whose program only listens, in one process, and whose check says so at once: one without checks
 * counts as healthy only after 5 s.
 */
export function listenerConfig(options: ListenerOptions = {}) {
  const { stopMs = 0, first = '', stopTimeoutMs = 20_000 } = options;
  const signals = options.signals ?? `process.on('SIGINT', () => setTimeout(() => process.exit(0), ${stopMs}));`;
  const listen = `require('net').createServer((socket) => socket.end()).listen(${port}, process.env.FERRY_BIND_IP);`;
  return {
    init: { exec: [process.execPath, '-e', [signals, first, listen].join('\n')] },
    checks: { up: { type: 'tcp', port, interval: durationFromMs(200), timeout: durationFromMs(1000) } },
    stopConfig: { timeout: durationFromMs(stopTimeoutMs) },
  };
}
