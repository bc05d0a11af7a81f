import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test, vi } from 'vitest';
import { HostService } from '../proto/gen/ferry/v1/coordinator_pb.ts';
import { ClientPool } from '../shared/rpc/client.ts';
import { parseCoordinatorConfig } from './config.ts';
import { runCoordinator } from './main.ts';

const directory = mkdtempSync(join(tmpdir(), 'ferry-coordinator-main-'));
afterEach(() => rmSync(directory, { recursive: true, force: true }));

test('says on one line where it listens, answers there, refuses a second one, and ends with its signal', async () => {
  const config = parseCoordinatorConfig(
    ['--data-dir', directory, '--listen', '127.0.0.1:0', '--log-level', 'silent'],
    {},
  );
  const ending = new AbortController();
  const lines: string[] = [];
  const ready = new Promise<string>((resolve) => {
    vi.spyOn(console, 'log').mockImplementation((line: string) => {
      lines.push(line);
      resolve(line);
    });
  });
  const running = runCoordinator(config, ending.signal);
  const address = (await ready).replace('coordinator ready on ', '');
  const { hosts } = await new ClientPool().client(HostService, address).listHosts({});
  expect(hosts).toEqual([]);
  await expect(runCoordinator(config, ending.signal)).rejects.toMatchObject({ reason: 'store_locked' });
  ending.abort();
  await running;
  expect(lines).toEqual([`coordinator ready on ${address}`]);
});
