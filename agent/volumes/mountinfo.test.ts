import { stat } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { deviceName, parseMountinfo } from './mountinfo.ts';

test('reads device, place, type and whether it is read-only', () => {
  const text = [
    '42 27 7:0 / /data/mnt/vol_a rw,nosuid,noatime shared:1 master:2 - ext4 /dev/loop0 rw,errors=remount-ro',
    '43 27 7:300 / /with\\040blank\\134\\011 rw - ext4 /dev/loop300 ro',
    '44 27 0:5 /sub /proc ro,relatime - proc proc rw',
    'no mount line',
    '',
  ].join('\n');
  expect(parseMountinfo(text)).toEqual([
    { device: '7:0', mountPoint: '/data/mnt/vol_a', type: 'ext4', isReadOnly: false },
    { device: '7:300', mountPoint: '/with blank\\\t', type: 'ext4', isReadOnly: true },
    { device: '0:5', mountPoint: '/proc', type: 'proc', isReadOnly: true },
  ]);
});

test('device numbers are named as the kernel names them', async () => {
  expect(deviceName(7 * 256)).toBe('7:0');
  expect(deviceName(0x10_07_2c)).toBe('7:300');
  expect(deviceName((await stat('/dev/null')).rdev)).toBe('1:3');
});
