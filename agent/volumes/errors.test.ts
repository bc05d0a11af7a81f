import { expect, test } from 'vitest';
import { CommandError } from './command.ts';
import { toVolumeError, VolumeError } from './errors.ts';
import { ferryErrorOf } from './ferry-error.ts';

test.each([
  ['ENOSPC', 'no_space'],
  ['EDQUOT', 'no_space'],
  ['EROFS', 'read_only'],
  ['EACCES', 'read_only'],
  ['EIO', 'io'],
  ['ENOENT', 'io'],
])('a system error %s is %s', (code, reason) => {
  const cause = Object.assign(new Error(`${code}: says the system`), { code });
  const error = toVolumeError(cause, 'write', { paths: ['/image'] });
  expect(error).toMatchObject({
    reason,
    cause,
    paths: ['/image'],
    message: `could not write: ${code}: says the system`,
  });
});

test('a missing program is unsupported, another failure of a program is io, a VolumeError stays itself', () => {
  expect(toVolumeError(new CommandError('missing', 'mount', 'mount is not installed'), 'mount').reason).toBe(
    'unsupported',
  );
  expect(toVolumeError(new CommandError('timeout', 'mount', 'mount did not end'), 'mount').reason).toBe('io');
  expect(toVolumeError('thrown text', 'mount')).toMatchObject({
    reason: 'io',
    message: 'could not mount: thrown text',
  });
  const error = new VolumeError('volume_busy', 'busy');
  expect(toVolumeError(error, 'mount')).toBe(error);
});

test('a failed disk parks and is never tried again, with or without a system error behind it', () => {
  for (const reason of ['io', 'read_only', 'strange_content'] as const) {
    expect(ferryErrorOf(new VolumeError(reason, 'sync ended with exit code 1'))).toMatchObject({
      reason: 'io_error',
      disposition: 'park',
    });
  }
});

test('the holders of a busy volume leave the agent as facts', () => {
  const holder = {
    pid: 7,
    startTimeTicks: 1,
    command: 'sleep 1000',
    how: 'cwd',
    path: '/mnt',
    isAgent: false,
  } as const;
  const fields = {
    volumeId: 'vol_aaaaaaaaaaaaaaa1',
    holders: [holder, { ...holder, pid: 8 }],
    devices: ['/dev/loop0'],
  };
  expect(ferryErrorOf(new VolumeError('volume_busy', 'held', fields))).toMatchObject({
    reason: 'volume_busy',
    message: 'held',
    facts: {
      volume_id: 'vol_aaaaaaaaaaaaaaa1',
      holders: '7 cwd sleep 1000\n8 cwd sleep 1000',
      devices: '/dev/loop0',
    },
  });
});
