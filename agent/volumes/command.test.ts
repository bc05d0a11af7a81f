import { expect, test } from 'vitest';
import { commandRunner, describeFailure } from './command.ts';

const run = commandRunner({ searchPath: process.env.PATH, outputLimitBytes: 1000 });
const timeoutMs = 60_000;

test('gives back exit code and both streams, whatever the code', async () => {
  const result = await run('sh', ['-c', 'echo out; echo err >&2; exit 3'], { timeoutMs });
  expect(result).toEqual({ exitCode: 3, signal: null, stdout: 'out\n', stderr: 'err\n' });
  expect(describeFailure('sh', result)).toBe('sh ended with exit code 3: err');
});

test('tells a signal from an exit', async () => {
  const result = await run('sh', ['-c', 'kill -TERM $$'], { timeoutMs });
  expect(result).toMatchObject({ exitCode: null, signal: 'SIGTERM' });
  expect(describeFailure('sh', result)).toBe('sh was killed by SIGTERM');
});

test('no shell reads the arguments, and messages are in English', async () => {
  expect((await run('printf', ['%s', '$HOME; `id`'], { timeoutMs })).stdout).toBe('$HOME; `id`');
  expect((await run('sh', ['-c', 'echo $LC_ALL'], { timeoutMs })).stdout).toBe('C\n');
});

test('a missing program is a typed error that names it', async () => {
  const missing = run('ferry-no-such-program', [], { timeoutMs });
  await expect(missing).rejects.toMatchObject({ reason: 'missing', program: 'ferry-no-such-program' });
});

test('a program that must not be executed is missing too', async () => {
  await expect(run('/etc/passwd', [], { timeoutMs })).rejects.toMatchObject({
    reason: 'missing',
    program: '/etc/passwd',
  });
});

test('programs of the sbin folders are found without them in the search path', async () => {
  const poor = commandRunner({ searchPath: undefined });
  expect((await poor('sh', ['-c', 'echo $PATH'], { timeoutMs })).stdout).toContain('/usr/sbin');
});

test('at the deadline the program is killed', async () => {
  await expect(run('sleep', ['1000'], { timeoutMs: 1 })).rejects.toMatchObject({ reason: 'timeout' });
});

test('endless output is cut off', async () => {
  await expect(run('yes', [], { timeoutMs })).rejects.toMatchObject({ reason: 'output_too_large' });
});

test('arguments that the system refuses are a typed error', async () => {
  const refused = run('true', ['x'.repeat(4 * 1024 * 1024)], { timeoutMs });
  await expect(refused).rejects.toMatchObject({ reason: 'not_started' });
});
