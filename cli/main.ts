#!/usr/bin/env node
import { systemClock } from '../shared/clock.ts';
import { type Terminal, untilInterrupted } from './context.ts';
import { runCli } from './program.ts';

const major = Number(process.versions.node.split('.')[0]);
if (major < 24) {
  console.error(`ferry: needs Node 24 or newer, and this is Node ${process.versions.node}; run it as "npx ferry".`);
  process.exit(2);
}

const terminal: Terminal = {
  out: (text) => process.stdout.write(text),
  err: (text) => process.stderr.write(text),
  isTerminal: process.stdout.isTTY === true,
  columns: () => process.stdout.columns ?? 80,
  rows: () => process.stdout.rows ?? 24,
  env: process.env,
  clock: systemClock,
  interrupted: untilInterrupted,
};
// A reader that went away ("ferry ... | head") ends the command without a stack trace.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));
process.exitCode = await runCli(process.argv.slice(2), terminal);
// Idle connections would keep the process for a minute.
process.stdout.write('', () => process.exit());
