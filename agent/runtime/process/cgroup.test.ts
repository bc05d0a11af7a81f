import { expect, test } from 'vitest';
import { parseMounts } from './cgroup.ts';

const v1 = 'cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n';

test('finds where cgroups are: v2 alone, v1 alone, both, neither', () => {
  const v2 = 'tmpfs /run tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n';
  expect(parseMounts(v2)).toEqual({ v2: '/sys/fs/cgroup', v1Memory: null });
  expect(parseMounts(v1)).toEqual({ v2: null, v1Memory: '/sys/fs/cgroup/memory' });
  const both = `${v1}cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n`;
  expect(parseMounts(both)).toEqual({ v2: '/sys/fs/cgroup/unified', v1Memory: '/sys/fs/cgroup/memory' });
  expect(parseMounts('')).toEqual({ v2: null, v1Memory: null });
});
