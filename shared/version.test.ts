import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { version } from './version.ts';

test("the version in the code is package.json's", () => {
  const text = readFileSync(join(import.meta.dirname, '../package.json'), 'utf8');
  expect((JSON.parse(text) as { version: string }).version).toBe(version);
});
