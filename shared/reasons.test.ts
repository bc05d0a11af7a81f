import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Code } from '@connectrpc/connect';
import { expect, test } from 'vitest';
import { reasons } from './reasons.ts';

test('docs/errors.md lists every reason as the code has it', () => {
  const text = readFileSync(join(import.meta.dirname, '../docs/errors.md'), 'utf8');
  const rows = text.split('\n').filter((line) => line.startsWith('| `'));
  const expected = Object.entries(reasons).map(
    ([reason, { code, disposition, when, remedy }]) =>
      `| \`${reason}\` | ${Code[code]} | ${disposition} | ${when} | ${remedy} |`,
  );
  expect(rows).toEqual(expected);
});
