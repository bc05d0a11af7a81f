import { expect, test } from 'vitest';
import { keyValues, table } from './table.ts';

test('what a program says neither breaks a line nor moves the cursor', () => {
  expect(table(['Name', 'Info'], [['web', 'refused\nagain \u001b[2Jgone']])).toBe(
    'NAME  INFO\nweb   refused again  [2Jgone\n',
  );
  expect(keyValues([['Reason', 'a\r\u0007b']])).toBe('  Reason = a b\n');
});
