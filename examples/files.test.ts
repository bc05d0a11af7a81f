import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { parseFlyToml, parseMachineJson } from '../shared/machine-config.ts';

const read = (name: string) => readFileSync(new URL(name, import.meta.url), 'utf8');

test('the example files are good configs', () => {
  expect(parseMachineJson(JSON.parse(read('clock.json')))).toMatchObject({
    app: 'clock',
    name: 'clock',
    config: { image: '/bin/sh', mounts: [{ sizeGb: 1 }], stopConfig: { signal: 'SIGINT' } },
  });
  expect(parseFlyToml(read('fly.toml'))).toMatchObject({
    app: 'greeter',
    config: { image: '/bin/sh', guest: { memoryMb: 64 }, stopConfig: { signal: 'SIGTERM' } },
  });
});
