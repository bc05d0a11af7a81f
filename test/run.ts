// npm test: runs all tests; the last line is exactly "N passed, N failed, N skipped".
// FERRY_TEST_STRICT=1 makes a skipped test a failure. Arguments go to vitest: npm test -- agent/volumes
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Summary } from './reporter.ts';

const root = join(import.meta.dirname, '..');
const folder = mkdtempSync(join(tmpdir(), 'ferry-test-'));
const summaryPath = join(folder, 'summary.json');
const strict = process.env.FERRY_TEST_STRICT === '1';
const reporter = process.env.FERRY_TEST_REPORTER ?? 'default';

const child = spawn(
  process.execPath,
  [
    join(root, 'node_modules/vitest/vitest.mjs'),
    'run',
    `--reporter=${reporter}`,
    '--reporter=./test/reporter.ts',
    ...process.argv.slice(2),
  ],
  {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
    env: {
      ...process.env,
      FERRY_TEST_SUMMARY: summaryPath,
      // The hundreds of daemons that tests start need not translate the same files again.
      NODE_COMPILE_CACHE: join(root, 'node_modules/.cache/compile'),
      PATH: `${join(root, 'node_modules/.bin')}:${process.env.PATH}`,
    },
  },
);
for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => child.kill(name));
const code = await new Promise<number>((resolve) =>
  child.on('close', (status, signal) => resolve(status ?? 128 + (constants.signals[signal ?? 'SIGTERM'] ?? 0))),
);

function readSummary(): Summary | null {
  try {
    return JSON.parse(readFileSync(summaryPath, 'utf8')) as Summary;
  } catch {
    return null;
  }
}

const summary = readSummary();
rmSync(folder, { recursive: true, force: true });
const { passed, failed, skipped, errors } = summary ?? {
  passed: 0,
  failed: 0,
  skipped: [],
  errors: [`no tests were run (exit code ${code})`],
};
for (const error of errors) console.log(`ERROR outside any test: ${error}`);
if (skipped.length > 0) {
  console.log(`\nSKIPPED on this machine (each title says what it lacks):`);
  for (const name of skipped) console.log(`  ${name}`);
  if (strict) console.log('In strict mode a skipped test is a failure: install what is missing.');
}
const broken = failed + errors.length + (strict ? skipped.length : 0);
const failedShown = broken > failed ? broken : failed;
console.log(`${passed} passed, ${failedShown} failed, ${strict ? 0 : skipped.length} skipped`);
process.exit(broken > 0 || (code !== 0 && passed === 0) ? 1 : 0);
