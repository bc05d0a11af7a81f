import { type Logger, pino } from 'pino';

export type { Logger } from 'pino';

/** A structured log on standard error; one JSON object a line. */
export function createLog(daemon: string, level = 'info'): Logger {
  return pino({ name: daemon, level, base: { daemon } }, pino.destination({ dest: 2, sync: true }));
}

/** A log that says nothing; for tests. */
export const silentLog: Logger = pino({ level: 'silent' });
