// Installs the dependencies if the lockfile has changed since the last time, and makes "npx ferry" work in this folder.
// Plain JavaScript: it runs on any Node >= 20.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const stamp = join(root, 'node_modules', '.ferry-lockfile');
const wanted = createHash('sha256')
  .update(readFileSync(join(root, 'package-lock.json')))
  .digest('hex');

if (process.platform !== 'linux' || process.arch !== 'x64') {
  console.error(`Ferry runs on Linux x64; this is ${process.platform} ${process.arch}. Use a Linux x64 machine.`);
  process.exit(1);
}
const installed = existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted;
if (!installed) {
  console.error('Installing dependencies (npm ci) ...');
  const result = spawnSync('npm', ['ci', '--no-fund', '--no-audit', '--loglevel=error'], {
    cwd: root,
    stdio: ['ignore', 2, 2],
  });
  if (result.status !== 0) {
    console.error(
      'npm ci failed (see above). Check that the package registry can be reached and that the disk has 600 MB free, then run the command again.',
    );
    process.exit(1);
  }
  writeFileSync(stamp, wanted);
}

// npm links the commands of dependencies, not those of the package itself.
const command = join(root, 'node_modules', '.bin', 'ferry');
if (!existsSync(command)) {
  rmSync(command, { force: true });
  symlinkSync('../../cli/ferry.mjs', command);
}
