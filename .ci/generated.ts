// Fails when proto/gen is not what the proto files generate: regenerates into a temporary folder and compares.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';

const root = join(import.meta.dirname, '..');
const committed = join(root, 'proto', 'gen');
const fresh = mkdtempSync(join(tmpdir(), 'ferry-gen-'));

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => statSync(join(folder, name)).isFile())
    .sort();
}

try {
  const template = readFileSync(join(root, 'buf.gen.yaml'), 'utf8').replace('out: proto/gen', `out: ${fresh}`);
  execFileSync(join(root, 'node_modules/.bin/buf'), ['generate', '--template', template], {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, PATH: `${join(root, 'node_modules/.bin')}:${process.env.PATH}` },
  });
  const names = new Set([...filesBelow(fresh), ...filesBelow(committed)]);
  const read = (folder: string, name: string) => {
    try {
      return readFileSync(join(folder, name), 'utf8');
    } catch {
      return null;
    }
  };
  const stale = [...names].filter((name) => read(fresh, name) !== read(committed, name));
  if (stale.length > 0) {
    console.error(`Generated code is stale: ${stale.map((name) => relative(root, join(committed, name))).join(', ')}`);
    console.error('Run "npm run generate" and commit the result.');
    process.exitCode = 1;
  }
} finally {
  rmSync(fresh, { recursive: true, force: true });
}
