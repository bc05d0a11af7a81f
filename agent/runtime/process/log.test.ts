import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { systemClock } from '../../../shared/clock.ts';
import { Log } from './log.ts';

let directory: string;
let log: Log;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'ferry-log-'));
  log = new Log(directory, 100);
});

afterEach(() => rm(directory, { recursive: true, force: true }));

async function read(tailLines: number): Promise<string[]> {
  const lines: string[] = [];
  const options = { tailLines, follow: false, signal: new AbortController().signal };
  for await (const line of log.read(options, systemClock)) lines.push(line);
  return lines;
}

test('a Machine that never wrote has an empty log', async () => {
  expect(await read(10)).toEqual([]);
});

test('rotation keeps the descriptor of the program, and one old log', async () => {
  await using file = await log.openForAppend();
  for (const letter of ['a', 'b', 'c']) {
    await file.writeFile(`${letter.repeat(120)}\n`);
    await log.rotate();
  }
  await file.writeFile('end\n');
  expect(await read(10)).toEqual(['c'.repeat(120), 'end']);
  expect(await read(1)).toEqual(['end']);
  expect(await read(0)).toEqual([]);
});

test('following gives each line once, across a rotation, until it is aborted', async () => {
  await using file = await log.openForAppend();
  await file.writeFile('old\nlong ');
  const stop = new AbortController();
  const seen: string[] = [];
  for await (const line of log.read({ tailLines: 10, follow: true, signal: stop.signal }, systemClock)) {
    seen.push(line);
    if (line === 'old') {
      await file.writeFile(`${'x'.repeat(200)}\n`);
      await log.rotate();
      await file.writeFile('new\n');
    }
    if (line === 'new') stop.abort();
  }
  expect(seen).toEqual(['old', `long ${'x'.repeat(200)}`, 'new']);
});

test('a line without end is given in pieces', async () => {
  await using file = await log.openForAppend();
  await file.writeFile(`${'y'.repeat(200_000)}\n`);
  const lines = await read(10);
  expect(lines.join('')).toBe('y'.repeat(200_000));
  expect(Math.max(...lines.map((line) => line.length))).toBe(64 * 1024);
});
