import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, openSync, readFileSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { LedgerClient, readAcknowledgements } from './client.ts';
import { blockBytes, decodeBlock, encodeBlock, Ledger, payloadBytesMax, serve } from './ledger.ts';
import { renderVerdict, verifyLedger } from './verify.ts';

const program = fileURLToPath(new URL('ledger.ts', import.meta.url));
const noHash = '0'.repeat(64);
let directory: string;
const endings: (() => Promise<unknown> | unknown)[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'ledger-test-'));
});

afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
  rmSync(directory, { recursive: true });
});

async function served(ledger: Ledger): Promise<string> {
  const server = serve(ledger).listen(0, '127.0.0.1');
  endings.push(() => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  });
  await once(server, 'listening');
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function rawImage(blocks: number): string {
  const path = join(directory, 'image');
  writeFileSync(path, '');
  truncateSync(path, blocks * blockBytes);
  return path;
}

test('a block gives its entry back, and any changed byte breaks it', () => {
  const block = encodeBlock(3, 'key', 'päyload', noHash);
  expect(decodeBlock(block, 3, noHash)).toMatchObject({ index: 3, key: 'key', payload: 'päyload', previous: noHash });
  for (const at of [0, 9, 20, 50, 81, blockBytes - 1]) {
    const damaged = Buffer.from(block);
    damaged[at]! ^= 1;
    expect(() => decodeBlock(damaged, 3, noHash), `byte ${at}`).toThrow('entry 3 is broken');
  }
  expect(() => decodeBlock(block, 4, noHash)).toThrow('entry 4 is broken');
  expect(encodeBlock(0, 'k'.repeat(128), 'p'.repeat(payloadBytesMax), noHash)).toHaveLength(blockBytes);
});

test.each(['directory', 'raw image'])(
  'appends on a %s are there after it is opened again, each key once',
  async (kind) => {
    const raw = kind === 'raw image';
    const path = raw ? rawImage(64) : join(directory, 'ledger');
    const first = new Ledger(path, raw);
    const entries = await Promise.all(['a', 'b', 'a', 'c'].map((key) => first.append(key, `payload of ${key}`)));
    expect(entries.map(({ index }) => index)).toEqual([0, 1, 0, 2]);
    const repeated = await first.append('b', 'something else');
    expect(repeated).toEqual(entries[1]);
    first.close();

    const second = new Ledger(path, raw);
    expect(second.head).toEqual({ count: 3, hash: entries[3]!.hash });
    expect(second.read(0, 10).map(({ payload }) => payload)).toEqual(['payload of a', 'payload of b', 'payload of c']);
    expect(await second.append('c', '')).toEqual(entries[3]);
    second.close();
  },
);

test('a repeated append that waits behind its first one is made once', async () => {
  const ledger = new Ledger(join(directory, 'ledger'), false);
  const first = ledger.append('a', '1');
  const repeated = ledger.append('a', '1');
  expect(await repeated).toEqual(await first);
  expect(ledger.head.count).toBe(1);
  ledger.close();
});

test('a raw image never grows: the append beyond its end is refused', async () => {
  const path = rawImage(2);
  const ledger = new Ledger(path, true);
  await ledger.append('a', '');
  await ledger.append('b', '');
  await expect(ledger.append('c', '')).rejects.toThrow('full');
  ledger.close();
  expect(readFileSync(path)).toHaveLength(2 * blockBytes);
});

test.each([
  ['a changed byte', (path: string) => writeSync(openSync(path, 'r+'), 'x', blockBytes + 100)],
  [
    'a lost entry',
    (path: string) => writeSync(openSync(path, 'r+'), Buffer.alloc(blockBytes), 0, blockBytes, blockBytes),
  ],
  ['a cut off entry', (path: string) => truncateSync(path, 3 * blockBytes - 1)],
])('%s keeps the ledger from opening', async (_what, damage) => {
  const path = join(directory, 'ledger');
  const ledger = new Ledger(path, false);
  for (const key of ['a', 'b', 'c']) await ledger.append(key, '');
  ledger.close();
  damage(path);
  expect(() => new Ledger(path, false)).toThrow(/broken|missing/);
});

test('the client appends through a restart at another address, and the verifier finds every entry', async () => {
  const path = join(directory, 'ledger');
  const ackPath = join(directory, 'acks');
  let ledger = new Ledger(path, false);
  ledger.fill(1);
  let url = await served(ledger);
  const stop = new AbortController();
  const client = new LedgerClient({ locate: async () => url, ackPath });
  const running = client.run(stop.signal);
  await client.more(20, stop.signal);
  await endings.pop()!();
  ledger.close();
  ledger = new Ledger(path, false);
  url = await served(ledger);
  await client.more(20, stop.signal);
  stop.abort();
  const report = await running;

  const acknowledgements = readAcknowledgements(ackPath);
  expect(report.acknowledged).toBe(acknowledgements.length);
  const verdict = await verifyLedger(url, acknowledgements);
  expect(verdict).toMatchObject({ acknowledged: report.acknowledged, lost: 0, problems: [] });
  expect(verdict.entries).toBeGreaterThanOrEqual(256 + report.acknowledged);
  expect(renderVerdict(verdict)).toContain(`acknowledged ${report.acknowledged}, lost 0`);
  ledger.close();
});

test('the verifier finds a lost, a changed and a reordered entry', async () => {
  const ledger = new Ledger(join(directory, 'ledger'), false);
  const a = await ledger.append('a', '1');
  const b = await ledger.append('b', '2');
  const url = await served(ledger);
  const lost = await verifyLedger(url, [a, b, { ...b, key: 'c', index: 2 }]);
  expect(lost).toMatchObject({ acknowledged: 3, lost: 1, problems: ['entry 2 (c) was acknowledged and is not there'] });
  expect((await verifyLedger(url, [a, { ...b, payload: '3' }])).lost).toBe(1);
  const liar = createServer((request, response) => {
    const entries = request.url?.endsWith('from=0')
      ? [
          { ...a, payload: '0' },
          { ...b, previous: noHash },
        ]
      : [];
    response.end(JSON.stringify({ entries }));
  }).listen(0, '127.0.0.1');
  endings.push(() => liar.close());
  await once(liar, 'listening');
  const lies = await verifyLedger(`http://127.0.0.1:${(liar.address() as AddressInfo).port}`, []);
  expect(lies.problems).toEqual([
    'entry 0 is broken: its checksum is wrong',
    'entry 1 does not follow the one before',
    'entry 1 is broken: its checksum is wrong',
  ]);
  expect((await verifyLedger(url, [b, a])).problems).toEqual(['a was acknowledged after b but stands before it']);
  ledger.close();
});

function start(env: Record<string, string>): ChildProcess & { text: () => string } {
  const child = spawn(process.execPath, [program], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (text += data));
  endings.push(() => child.kill('SIGKILL'));
  return Object.assign(child, { text: () => text });
}

test('the program serves, ends with 0 at SIGINT, and refuses a broken volume', async () => {
  const env = { FERRY_VOLUME_PATH: rawImage(4096), FERRY_VOLUME_KIND: 'raw', PORT: '0', LEDGER_FILL_MIB: '1' };
  const child = start(env);
  await once(child.stdout!, 'data');
  expect(child.text()).toContain('256 entries, all checked; raw image');
  child.kill('SIGINT');
  expect(await once(child, 'close')).toEqual([0, null]);

  // No character of a random payload, so that it is another one for certain.
  writeSync(openSync(env.FERRY_VOLUME_PATH, 'r+'), '!', 100);
  const refused = start(env);
  expect(await once(refused, 'close')).toEqual([1, null]);
  expect(refused.text()).toContain('refuses to serve: entry 0 is broken: its checksum is wrong');
});
