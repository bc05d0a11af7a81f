import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { CopyLimitsSchema } from '../proto/gen/ferry/v1/host_pb.ts';
import { ManualClock } from '../shared/clock.ts';
import { HostCopyLimits } from './copy-limits.ts';
import { Journal } from './journal.ts';

let dir: string;
let journal: Journal;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'ferry-limits-'));
  journal = new Journal(join(dir, 'journal.db'), () => 'id');
});
afterEach(() => {
  journal.close();
  rmSync(dir, { recursive: true, force: true });
});

const limits = (sendBytesPerSecond: bigint, receiveBytesPerSecond: bigint) =>
  create(CopyLimitsSchema, { sendBytesPerSecond, receiveBytesPerSecond });

it('keeps the limits in the journal and gives them to copies under way', () => {
  const clock = new ManualClock();
  const mine = new HostCopyLimits({ journal, clock });
  expect(mine.limits).toMatchObject(limits(0n, 0n));
  mine.set(limits(5_000_000n, 0n));
  expect([mine.send.bytesPerSecond, mine.receive.bytesPerSecond]).toEqual([5_000_000, null]);
  expect(new HostCopyLimits({ journal, clock }).limits).toMatchObject(limits(5_000_000n, 0n));
});

it.each([
  [limits(1n, 0n), 'limits.send_bytes_per_second'],
  [limits(0n, 1_048_575n), 'limits.receive_bytes_per_second'],
  [limits(2n ** 63n, 0n), 'limits.send_bytes_per_second'],
])('refuses a limit under which no request comes through in time', (wish, field) => {
  const mine = new HostCopyLimits({ journal, clock: new ManualClock() });
  expect(() => mine.set(wish)).toThrow(field);
  expect(journal.meta('copy_limits')).toBeUndefined();
});
