import { systemClock } from '../../../shared/clock.ts';
import type { StartSpec } from '../runtime.ts';
import { ProcessRuntime } from './runtime.ts';

// An agent for a test to kill: starts the Machine of its second argument, says so, and waits.
const runtime = await ProcessRuntime.open({ directory: process.argv[2]!, clock: systemClock, path: process.env.PATH! });
const status = await runtime.start(JSON.parse(process.argv[3]!) as StartSpec);
process.stdout.write(`${JSON.stringify(status)}\n`);
setInterval(() => {}, 1000);
