import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ManualClock } from '../shared/clock.ts';
import { FerryError } from '../shared/error.ts';
import { silentLog } from '../shared/log.ts';
import { keepHouse } from './housekeeping.ts';
import { type HandoverRow, Journal } from './journal.ts';

let dir: string;
let journal: Journal;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'ferry-housekeeping-'));
  journal = new Journal(join(dir, 'journal.db'), () => 'j1');
});
afterEach(() => {
  journal.close();
  rmSync(dir, { recursive: true, force: true });
});

function row(migrationId: string, step: string): HandoverRow {
  const detail = { network: 'n' } as never;
  return {
    migrationId,
    machineId: 'm',
    role: 'source',
    state: { step, term: 1 } as never,
    detail,
    record: null,
    updatedAtMs: 0,
  };
}

/** One round of the house's duties, in which some refuse to be done. */
async function round(refusing: ReadonlySet<string>): Promise<{ did: string[]; kept: string[] }> {
  const over = new AbortController();
  const clock = new ManualClock(100_000);
  const did: string[] = [];
  const kept: string[] = [];
  const duty = (what: string) => async () => {
    did.push(what);
    if (refusing.has(what)) throw new FerryError('no_space', 'the disk is full');
  };
  await keepHouse(
    {
      journal,
      handovers: {
        silentMs: () => 60_000,
        source: (id: string, { type }: { type: string }) => duty(`${type} ${id}`)(),
        forgetEnded: (open: ReadonlySet<string>) => kept.push(...open),
        row: () => undefined,
      } as never,
      volumes: {} as never,
      sources: { sweep: duty('sweep') },
      machines: {
        forgetDestroyed: async () => {
          over.abort();
          await duty('forget')();
        },
      },
      isRead: () => false,
      clock,
      log: silentLog,
      driverSilenceMs: 1000,
      preparedExpiryMs: 10_000,
      retentionMs: 1000,
    },
    over.signal,
  );
  return { did, kept };
}

test('what one duty meets keeps no other from its work, and one hand-over no other', async () => {
  for (const id of ['mig_1', 'mig_2']) journal.write(() => journal.putHandover(row(id, 'stopped')));
  const all = ['driver-silent mig_1', 'driver-silent mig_2', 'sweep', 'forget'];
  expect((await round(new Set())).did).toEqual(all);
  for (const refusing of all) expect((await round(new Set([refusing]))).did).toEqual(all);
});

test('what is over is forgotten, and an offer that nobody paired for ends', async () => {
  journal.write(() => {
    journal.putHandover(row('mig_1', 'stopped'));
    journal.putHandover(row('mig_2', 'parked'));
    for (const [id, sinceMs] of [
      ['mig_3', 91_000],
      ['mig_4', 90_000],
    ] as const) {
      const peer = { hostId: 'host-b', address: '127.0.0.1:1' };
      journal.putOffer(id, { machineId: 'm', peer, lockHolder: id, term: 1, sinceMs });
    }
  });
  expect((await round(new Set())).kept).toEqual(['mig_1']);
  expect(journal.offers().map(({ migrationId }) => migrationId)).toEqual(['mig_3']);
});
