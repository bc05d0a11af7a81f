import { expect, test } from 'vitest';
import { parseStoreAddress } from './address.ts';

test('addresses of stores', () => {
  expect(parseStoreAddress('', '--store')).toEqual({ kind: 'sqlite' });
  const plain = { host: 'h', port: 6379, db: 0, username: '', password: '', tls: false };
  expect(parseStoreAddress('redis://h', '--store')).toEqual({ kind: 'redis', prefix: 'ferry:', target: plain });
  expect(parseStoreAddress('rediss://me:p%40ss@[::1]:7000/3?prefix=a:', '--store')).toEqual({
    kind: 'redis',
    prefix: 'a:',
    target: { host: '::1', port: 7000, db: 3, username: 'me', password: 'p@ss', tls: true },
  });
  expect(parseStoreAddress('redis://:secret@h/', '--store')).toMatchObject({ target: { password: 'secret' } });
});

test.each([
  'here',
  'http://h',
  'redis://',
  'redis://:secret@h:99999',
  'redis://:secret@h/first',
  'redis://:secret@h/5000',
  'redis://:secret@h?tls=1',
  'redis://:secret@h?prefix=a%20b',
  'redis://:secret%zz@h',
  'redis://:secret@h#part',
])('%s is refused, and its password is not told', (text) => {
  let thrown: unknown;
  try {
    parseStoreAddress(text, '--store');
  } catch (error) {
    thrown = error;
  }
  expect(thrown).toMatchObject({ reason: 'invalid_argument', field: '--store' });
  expect(String(thrown)).not.toContain('secret');
});
