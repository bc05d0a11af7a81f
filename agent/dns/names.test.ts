import { expect, test } from 'vitest';
import { lookUp } from './names.ts';
import { namesOf, row } from './testkit.ts';

const metadata = { role: 'Primary', version: '1.2' };
const { apps } = namesOf(
  row('a1', { metadata, processGroup: 'web' }),
  row('a2', { region: 'fra' }),
  row('a3', { region: 'fra', started: false, processGroup: 'idle' }),
  row('a4', { region: 'lhr', started: false }),
  row('b1', { app: 'db', bindIp: '127.5.6.7' }),
  row('c1', { app: 'off', started: false }),
);

/** What a name answers, short: IDs of Machines, the text, or "none" and "empty". */
function answered(name: string): string {
  const found = lookUp(name, apps, 'fra');
  if (found.kind === 'text') return found.text;
  return found.kind === 'machines'
    ? found.rows.map(({ machineId }) => machineId.replace(/0+$/, '')).join(' ')
    : found.kind;
}

test.each([
  ['shop', 'a1 a2'],
  ['global.shop', 'a1 a2'],
  ['off', ''],
  ['fra.shop', 'a2'],
  ['lhr.shop', ''],
  ['syd.shop', 'none'],
  ['top1.nearest.of.shop', 'a2'],
  ['top9.nearest.of.shop', 'a2 a1'],
  ['top0.nearest.of.shop', 'none'],
  ['topx.nearest.of.shop', 'none'],
  [`${'a1'.padEnd(14, '0')}.vm.shop`, 'a1'],
  [`${'a3'.padEnd(14, '0')}.vm.shop`, ''],
  [`${'b1'.padEnd(14, '0')}.vm.shop`, 'none'],
  ['web.process.shop', 'a1'],
  ['app.process.shop', 'a2'],
  ['idle.process.shop', ''],
  ['cron.process.shop', 'none'],
  ['primary.role.kv._metadata.shop', 'a1'],
  ['1.2.version.kv._metadata.shop', 'a1'],
  ['replica.role.kv._metadata.shop', 'none'],
  ['role.kv._metadata.shop', 'empty'],
  ['kv._metadata.shop', 'empty'],
  ['_metadata.shop', 'empty'],
  ['vm.shop', 'empty'],
  ['nearest.of.shop', 'empty'],
  ['of.shop', 'empty'],
  ['', 'empty'],
  ['nowhere', 'none'],
  ['fra.nowhere', 'none'],
  ['_apps', 'db,shop'],
  ['vms.shop', 'a1000000000000 ams,a2000000000000 fra'],
  ['all.vms.shop', 'a1000000000000 ams,a2000000000000 fra,a3000000000000 fra,a4000000000000 lhr'],
  ['vms.off', 'empty'],
  ['all.vms.off', 'c1000000000000 ams'],
  ['regions.shop', 'ams,fra'],
  [
    '_instances',
    'instance=a1000000000000,app=shop,ip=fdaa:0:1:0:1:0:a1:0,region=ams;' +
      'instance=a2000000000000,app=shop,ip=fdaa:0:1:0:1:0:a2:0,region=fra;' +
      'instance=b1000000000000,app=db,ip=127.5.6.7,region=ams',
  ],
])('%s.internal is %s', (name, expected) => {
  expect(answered(name)).toBe(expected);
});

test('a text is cut between entries once it is too long for one message', () => {
  const many = namesOf(...Array.from({ length: 1000 }, (_, index) => row((4096 + index).toString(16))));
  const found = lookUp('_instances', many.apps, 'fra');
  expect(found.kind).toBe('text');
  if (found.kind !== 'text') return;
  expect(found.text.length).toBeLessThanOrEqual(32 * 1024);
  expect(found.text.length).toBeGreaterThan(31 * 1024);
  expect(found.text).toMatch(/region=ams$/);
});
