#!/usr/bin/env node
// Plain JavaScript that any Node can read: an old one shall say what is wrong, not fail on the first type.
const found = Number(process.versions.node.split('.')[0]);
if (found < 24) {
  console.error(
    `ferry: needs Node 24 or newer, and this is Node ${process.versions.node}; run it as "npx ferry" in its folder, which brings the right one.`,
  );
  process.exit(2);
}
await import('./main.ts');
