// A filefrag that leaves something out. It stands before the real one in an agent's PATH (see `forgetfulPath`) and prints
// what that one prints. Once it is armed, the map of the next stopped volume shows one chunk where the volume's snapshots
// have it, though it was written to since: as if an extent had been left out.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

const chunkBlocks = 16;

/** Makes a folder with that filefrag; answers a PATH that begins with it. */
export function forgetfulPath(folder: string): string {
  mkdirSync(folder, { recursive: true });
  const script = join(folder, 'filefrag');
  const run = `exec '${process.execPath}' '${import.meta.filename}' "$@"`;
  writeFileSync(script, `#!/bin/sh\nFORGETFUL_DIR='${folder}'\nexport FORGETFUL_DIR\n${run}\n`);
  chmodSync(script, 0o755);
  return `${folder}:${process.env.PATH}`;
}

/** The next map of a stopped volume is to leave something out. */
export function arm(folder: string): void {
  writeFileSync(join(folder, 'armed'), '');
}

/** What was left out, or null. */
export function forgotten(folder: string): string | null {
  const path = join(folder, 'forgotten');
  return existsSync(path) ? readFileSync(path, 'utf8') : null;
}

/** Block of the file to block of the device, from the lines of `filefrag -v`. */
function blocksOf(text: string): Map<number, number> {
  const blocks = new Map<number, number>();
  for (const line of text.split('\n')) {
    const fields = /^\s*\d+:\s*(\d+)\.\.\s*(\d+):\s*(\d+)\.\./.exec(line);
    if (fields === null || line.includes('unwritten')) continue;
    const [from, to, place] = fields.slice(1).map(Number) as [number, number, number];
    for (let block = from; block <= to; block += 1) blocks.set(block, place + block - from);
  }
  return blocks;
}

const blocksOfChunk = (chunk: number): number[] =>
  Array.from({ length: chunkBlocks }, (_, index) => chunk * chunkBlocks + index);

/** A chunk that lies at one place in all snapshots, is data now too, and lies elsewhere. */
function changedChunk(before: readonly ReadonlyMap<number, number>[], now: ReadonlyMap<number, number>): number | null {
  const [first, ...others] = before;
  if (first === undefined) return null;
  for (const [block, place] of now) {
    if (first.get(block) === place) continue;
    const blocks = blocksOfChunk(Math.floor(block / chunkBlocks));
    const isAlike = blocks.every(
      (each) => first.has(each) && now.has(each) && others.every((other) => other.get(each) === first.get(each)),
    );
    if (isAlike) return Math.floor(block / chunkBlocks);
  }
  return null;
}

/** The text with other extents. */
function withBlocks(text: string, blocks: ReadonlyMap<number, number>): string {
  const lines = text.split('\n');
  const isExtent = (line: string) => /^\s*\d+:/.test(line);
  const first = lines.findIndex(isExtent);
  const extents = [...blocks]
    .sort(([a], [b]) => a - b)
    .map(([block, place], index) => `${index}: ${block}..${block}: ${place}..${place}: 1:`);
  const rest = lines.slice(first).filter((line) => !isExtent(line));
  const total = rest.map((line) => line.replace(/: \d+ extents? found$/, `: ${extents.length} extents found`));
  return [...lines.slice(0, first), ...extents, ...total].join('\n');
}

if (import.meta.main) {
  const folder = process.env.FORGETFUL_DIR!;
  const args = process.argv.slice(2);
  const path = process.env.PATH!.split(':').filter((each) => each !== folder);
  const env = { ...process.env, PATH: [...path, '/usr/sbin', '/sbin'].join(':') };
  const filefrag = (asked: readonly string[]) => {
    const { stdout, stderr, status } = spawnSync('filefrag', asked, { env, maxBuffer: 2 ** 28 });
    return { text: stdout.toString('latin1'), stderr, status };
  };
  const real = filefrag(args);
  let { text } = real;
  const file = args.at(-1)!;
  const isNow = existsSync(join(folder, 'armed')) || forgotten(folder)?.endsWith(` of ${file}`);
  if (args.includes('-v') && file.endsWith('.img') && isNow) {
    const now = blocksOf(text);
    const before = readdirSync(dirname(file))
      .filter((name) => name.endsWith('.snap'))
      .map((name) => blocksOf(filefrag([...args.slice(0, -1), join(dirname(file), name)]).text));
    const chunk = changedChunk(before, now);
    if (chunk !== null) {
      for (const block of blocksOfChunk(chunk)) now.set(block, before[0]!.get(block)!);
      text = withBlocks(text, now);
      writeFileSync(join(folder, 'forgotten'), `chunk ${chunk} of ${file}`);
      rmSync(join(folder, 'armed'), { force: true });
    }
  }
  process.stdout.write(text, 'latin1', () => process.exit(real.status ?? 1));
  process.stderr.write(real.stderr);
}
