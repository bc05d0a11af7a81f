/** The documents say what the code has: tests, files, functions, links and flags that they name are there. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { agentFlags } from '../agent/config.ts';
import { coordinatorFlags } from '../coordinator/config.ts';
import type { Flag } from '../shared/flags.ts';

const root = join(import.meta.dirname, '..');
const read = (path: string): string => readFileSync(join(root, path), 'utf8');
const documents = [
  'README.md',
  'CHANGELOG.md',
  ...readdirSync(join(root, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
];

/** Cells of the table rows of a document, heads and rules left out. */
function rowsOf(path: string): string[][] {
  const lines = read(path).split('\n');
  return lines.flatMap((line, index) => {
    const isHead = lines[index + 1]?.startsWith('|---') || line.startsWith('|---');
    return line.startsWith('|') && !isHead
      ? [
          line
            .slice(1, -1)
            .split(' | ')
            .map((cell) => cell.trim()),
        ]
      : [];
  });
}

/** GitHub's name of a heading. */
function anchorOf(heading: string): string {
  const plain = heading.toLowerCase().replace(/[^\p{L}\p{N} _-]/gu, '');
  return plain.trim().replaceAll(' ', '-');
}

describe('promises.md', () => {
  const promises = rowsOf('docs/promises.md');

  test('has every invariant', () => {
    const numbers = promises.flatMap(([promise = '']) => /^\*\*(I\d+)\*\*/.exec(promise)?.[1] ?? []);
    expect(numbers).toEqual(Array.from({ length: 10 }, (_, index) => `I${index + 1}`));
  });

  test.each(promises)('%s', (_promise, rule = '', heldBy = '') => {
    const tests = [...heldBy.matchAll(/`([^`]+\.ts)`: "([^"]+)"/g)];
    const missing = tests.filter(([, path = '', title = '']) => !existsSync(join(root, path)) || !names(path, title));
    expect(missing.map(([text]) => text)).toEqual([]);
    expect(rule).not.toBe('');
    expect(tests.length > 0 || heldBy.includes('**pending**'), 'a promise has a test or is pending').toBe(true);
  });

  /** Whether a test file has this title, or the beginning of it, in its code. */
  function names(path: string, title: string): boolean {
    const text = read(path).replaceAll("\\'", "'");
    return ["'", '"', '`'].some((quote) => text.includes(`${quote}${title}`));
  }
});

describe.each(documents)('%s', (path) => {
  const text = read(path);

  test('every relative link leads somewhere', () => {
    const links = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target = '']) => target);
    const broken = links.filter((target) => {
      if (/^[a-z]+:/.test(target)) return false;
      const [file = '', anchor] = target.split('#');
      const at = file === '' ? join(root, path) : resolve(root, dirname(path), file);
      if (!existsSync(at)) return true;
      if (anchor === undefined) return false;
      const headings = readFileSync(at, 'utf8').matchAll(/^#+ (.+)$/gm);
      return ![...headings].some(([, heading = '']) => anchorOf(heading) === anchor);
    });
    expect(broken).toEqual([]);
  });

  test('every file and function that it names is there', () => {
    const files = [...text.matchAll(/`([a-z.]+\/[\w./-]+\.(?:ts|sh|proto|mjs))`/g)].map(([, file = '']) => file);
    expect(files.filter((file) => !existsSync(join(root, file)))).toEqual([]);
    const functions = [...text.matchAll(/`(#?\w+)` in `([\w./-]+\.ts)`/g)];
    const unknown = functions.filter(([, name, file = '']) => !new RegExp(`(^|[^\\w#])${name}\\b`).test(read(file)));
    expect(unknown.map(([named]) => named)).toEqual([]);
  });
});

test('every flag of the daemons is in operations.md, with its default', () => {
  const rows = rowsOf('docs/operations.md').map(([flag, fallback]) => `${flag} ${fallback}`);
  const described = (flags: Readonly<Record<string, Flag>>) =>
    Object.entries(flags).map(([name, flag]) => {
      const fallback = flag.default === undefined ? 'required' : flag.default === '' ? 'none' : `\`${flag.default}\``;
      return `\`--${name} ${flag.value}\` ${fallback}`;
    });
  expect(rows).toEqual(expect.arrayContaining([...described(agentFlags), ...described(coordinatorFlags)]));
  const flags = new Set([...Object.keys(agentFlags), ...Object.keys(coordinatorFlags)]);
  const named = rows.flatMap((row) => /^`--([a-z-]+) [A-Z:]+` /.exec(row)?.[1] ?? []);
  expect(named.filter((name) => !flags.has(name))).toEqual([]);
});
