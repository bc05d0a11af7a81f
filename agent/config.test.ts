import { expect, test } from 'vitest';
import { parseAgentConfig } from './config.ts';

const parse = (...flags: string[]) => parseAgentConfig(['--host', 'h1', '--data-dir', '/tmp/h1', ...flags], {});

test('names are answered on loopback by default, elsewhere or nowhere by flag', () => {
  expect(parse().dnsListen).toEqual([{ host: '127.0.0.1', port: 0 }]);
  expect(parse('--dns-listen', '').dnsListen).toEqual([]);
  const both = parse('--dns-listen', '127.0.0.1:5300,[fdaa::3]:53').dnsListen;
  expect(both).toEqual([
    { host: '127.0.0.1', port: 5300 },
    { host: 'fdaa::3', port: 53 },
  ]);
});

test.each(['0.0.0.0:53', '[fdaa::4]:53', '[fdaa::3]:70000', '127.0.0.1', 'fdaa::3:53'])(
  'names are not answered at %s',
  (address) => {
    expect(() => parse('--dns-listen', address)).toThrow(
      expect.objectContaining({ reason: 'invalid_argument', field: '--dns-listen' }),
    );
  },
);
