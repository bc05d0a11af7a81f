import { expect, it } from 'vitest';
import type { Export, Peer } from '../nbd/export.ts';
import { ManualClock } from '../shared/clock.ts';
import { systemRandom } from '../shared/random.ts';
import { Exports, type Grant } from './exports.ts';

const peer: Peer = { address: '127.0.0.1', tls: null };
const clock = new ManualClock();

function bytes(): Export {
  return {
    sizeBytes: 4096,
    contexts: [],
    readInto: async () => {},
    blockStatus: async () => [],
    close: async () => {},
  };
}

function setUp() {
  const taken: number[] = [];
  const limiter = {
    take: (count: number, signal: AbortSignal) => {
      taken.push(count);
      return count < 100 ? Promise.resolve() : clock.sleep(1000, signal);
    },
  };
  const exports = new Exports({ clock, random: systemRandom, limiter });
  const grant = (round: string, more: Partial<Grant> = {}) =>
    exports.grant({
      purpose: 'mig',
      round,
      open: async () => bytes(),
      isLimited: true,
      audience: 'stream',
      fingerprint: null,
      connectionsMax: 4,
      expiresAtMs: clock.nowMs() + 1000,
      ...more,
    });
  return { exports, grant, taken, directory: exports.directory('stream') };
}

it('ends the tokens of earlier rounds and keeps those of the one that goes on', async () => {
  const { exports, grant, directory } = setUp();
  const [first, second] = [grant('round 1'), grant('round 2')];
  const other = grant('round 1', { purpose: 'another migration' });
  expect(exports.end('mig', { round: 'round 2' })).toEqual([first]);
  await expect(directory.open(first, peer)).rejects.toMatchObject({ reason: 'unknown_export' });
  for (const token of [second, other]) await (await directory.open(token, peer)).close();
  expect(exports.end('mig')).toEqual([second]);
});

it('holds the limit where it is meant to, and not for what a Machine is down for', async () => {
  const { grant, taken, directory } = setUp();
  const slow = await directory.open(grant('live'), peer);
  await slow.readInto(new Uint8Array(10), 0, 10);
  expect(taken).toEqual([10]);
  const quick = await directory.open(grant('stopped', { isLimited: false }), peer);
  await quick.readInto(new Uint8Array(10), 0, 10);
  expect(taken).toEqual([10]);
});

it('lets nothing wait for the limit when its round has ended', async () => {
  const { exports, grant, directory } = setUp();
  const slow = await directory.open(grant('live'), peer);
  const waiting = slow.readInto(new Uint8Array(100), 0, 100);
  exports.end('mig');
  await expect(waiting).rejects.toThrow();
});
