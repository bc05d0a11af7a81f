// Past 300 lines: every way in which a copy can go at its destination, over one fake source.
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { describe, expect, it } from 'vitest';
import { OpenExportResponseSchema } from '../../proto/gen/ferry/v1/handover_pb.ts';
import { CopyProgressSchema } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { ManualClock } from '../../shared/clock.ts';
import { FerryError } from '../../shared/error.ts';
import { createLog } from '../../shared/log.ts';
import type { HandoverDetail } from '../journal.ts';
import { VolumeCopies } from './copies.ts';
import type { DestinationEvent } from './destination.ts';
import type { ExportAsk } from './peers.ts';
import type { PullWish } from './transfer.ts';

const mib = 1024 ** 2;
const id = 'mig_1';
const wish = { budgetMs: 300, lastRound: false };

/** The destination's side over fakes: the source answers what `answers` says, in order; a round takes `roundMs`. */
function setUp(given: { detail?: Partial<HandoverDetail>; seeds?: boolean } = {}) {
  const clock = new ManualClock();
  const over = new AbortController();
  const peer = { hostId: 'a', address: '10.0.0.1:7000', publicKey: null };
  const subject = { migrationId: id, machineId: 'm', epoch: 2, source: 'a', destination: 'b', volumeId: 'vol' };
  const detail = { peer, volumeSizeBytes: 1024 * mib, volumeAllocatedBytes: 512 * mib, ...given.detail };
  let row = {
    migrationId: id,
    role: 'destination',
    state: { step: 'prepared', subject, term: 1 },
    detail,
  } as never as {
    state: { step: string };
    detail: HandoverDetail;
  };
  const asked: ExportAsk[] = [];
  const answers: (MessageInitShape<typeof OpenExportResponseSchema> | FerryError)[] = [];
  const pulls: PullWish[] = [];
  const events: string[] = [];
  const failures: (FerryError | null)[] = [];
  const seeded: string[] = [];
  let held = '';
  let wake = () => {};
  const scene = {
    clock,
    asked,
    answers,
    pulls,
    events,
    failures,
    seeded,
    roundMs: 1000,
    /** Runs instead of the pull's end. */
    onPull: null as ((wish: PullWish) => Promise<void>) | null,
    get note() {
      return row.detail.precopy!;
    },
    get detail() {
      return row.detail;
    },
    get held() {
      return held;
    },
    copies: new VolumeCopies({
      handovers: {
        row: () => row,
        note: (_: string, change: Partial<HandoverDetail>) => {
          row = { ...row, detail: { ...row.detail, ...change } };
        },
        destination: async (_: string, event: DestinationEvent, change: { detail?: Partial<HandoverDetail> } = {}) => {
          events.push(event.type);
          row = { ...row, detail: { ...row.detail, ...change.detail } };
          if (event.type === 'verified') row = { ...row, state: { ...row.state, step: 'verified' } };
        },
        setFailure: (_: string, failure: FerryError | null) => failures.push(failure),
        changed: () => wake(),
      } as never,
      volumes: {
        inspect: async () => ({ volumeId: 'vol', path: '/vol/receiving.img' }) as never,
        statePath: (volumeId, name) => `/${volumeId}/${name}`,
      },
      peers: {
        openExport: async (_peer, _id, _fingerprint, ask) => {
          asked.push(ask);
          const answer = answers.shift() ?? new FerryError('internal', 'no answer was given to the test');
          if (answer instanceof FerryError) throw answer;
          return create(OpenExportResponseSchema, { token: 'token', mode: 'snapshots', ...answer });
        },
      },
      transfer: {
        fingerprint: '',
        rereadKept: async () => '',
        held: async () => held,
        pull: async (pull) => {
          pulls.push(pull);
          await scene.onPull?.(pull);
          pull.signal.throwIfAborted();
          const bytes = Number(pull.opened.changedBytes);
          pull.onProgress(create(CopyProgressSchema, { phase: 'copying', bytesTransferred: BigInt(bytes) }));
          clock.advance(scene.roundMs);
          pull.onProgress(create(CopyProgressSchema, { phase: 'done', bytesTransferred: BigInt(bytes) }));
          held = pull.opened.snapshot;
          return { root: 'root', bytesTransferred: bytes, bytesResumed: 1 };
        },
      },
      seeder: {
        seed: async ({ root }) => {
          seeded.push(root);
          if (given.seeds === false) return false;
          held = `root:${root}`;
          return true;
        },
      },
      clock,
      log: createLog('agent', 'silent'),
      signal: over.signal,
    }),
    /** Waits until nothing is under way. */
    idle: async () => {
      while (scene.copies.isCopying(id)) await new Promise<void>((resolve) => (wake = resolve));
    },
    precopy: async (more: Partial<typeof wish> = {}) => {
      await scene.copies.precopy(id, { ...wish, ...more });
      await scene.idle();
    },
    copy: async () => {
      await scene.copies.copy(id);
      await scene.idle();
    },
  };
  return scene;
}

it('shows nothing of the rounds once the stopped volume is copied', async () => {
  const scene = setUp();
  scene.answers.push(
    { snapshot: 'm/1', changedBytes: 64n, refused: 'no_room' },
    { snapshot: 'm/stopped', changedBytes: 1n },
  );
  await scene.precopy();
  expect(scene.copies.progress(id)).toMatchObject({ phase: 'done' });
  scene.onPull = async () => expect(scene.copies.progress(id)).toBeUndefined();
  await scene.copy();
  expect(scene.failures).toEqual([]);
  expect(scene.copies.progress(id)).toMatchObject({ phase: 'done' });
});

const round = (snapshot: string, changedMib: number, more = {}) => ({
  snapshot,
  changedBytes: BigInt(changedMib * mib),
  ...more,
});

describe('the rounds of a running Machine', () => {
  it('of one that wrote nothing bring nothing, and are enough', async () => {
    const scene = setUp();
    scene.answers.push(round('s1', 500), { token: '', unchanged: true });
    await scene.precopy();
    expect(scene.pulls).toHaveLength(1);
    expect(scene.note).toMatchObject({ mode: 'snapshots', ended: 'fits' });
    expect(scene.note.rounds.map(({ changedBytes }) => changedBytes / mib)).toEqual([500, 0]);
    scene.answers.push(round('s3', 5));
    await scene.precopy({ lastRound: true });
    expect(scene.asked.at(-1)).toEqual({ round: 3, haveSnapshot: 's1', haveRoot: '' });
  });

  it('go on until what is left fits, each with what the copy holds, and never call the copy verified', async () => {
    const scene = setUp();
    scene.answers.push(round('s1', 500), round('s2', 100, { baseContext: 'c' }), round('s3', 5, { baseContext: 'c' }));
    await scene.precopy();
    expect(scene.asked).toEqual([
      { round: 1, haveSnapshot: '', haveRoot: '' },
      { round: 2, haveSnapshot: 's1', haveRoot: '' },
    ]);
    expect(scene.note).toMatchObject({ mode: 'snapshots', ended: 'fits', finalBytes: null });
    expect(scene.note.rounds.map(({ number, changedBytes }) => [number, changedBytes / mib])).toEqual([
      [1, 500],
      [2, 100],
    ]);
    expect(scene.pulls.every(({ isLive }) => isLive)).toBe(true);
    expect(scene.events).toEqual([]);
    // Decided: ordered again at once it does nothing.
    await scene.precopy();
    expect(scene.asked).toHaveLength(2);
  });

  it('make one more under the lock, however small, and only one for one lock', async () => {
    const scene = setUp();
    scene.answers.push(round('s1', 500), round('s2', 100), round('s3', 90), round('s4', 90));
    await scene.precopy();
    await scene.precopy({ lastRound: true });
    await scene.precopy({ lastRound: true });
    expect(scene.note.rounds).toHaveLength(3);
    expect(scene.note.ended).not.toBe('');
  });

  it('make one more while the migration waits in line, when much has changed', async () => {
    const scene = setUp();
    scene.answers.push(round('s1', 500), round('s2', 100), round('s3', 80));
    await scene.precopy();
    scene.clock.advance(60_000);
    await scene.precopy();
    expect(scene.note.rounds).toHaveLength(3);
    expect(scene.note.ended).toBe('fits');
  });

  it.each(['no_room', 'too_many_extents', 'not_supported'])('end when the source refuses: %s', async (refused) => {
    const scene = setUp();
    scene.answers.push(round('s1', 500), { token: '', refused, modeReason: 'in words' });
    await scene.precopy();
    expect(scene.note).toMatchObject({ ended: refused, endedReason: 'in words' });
    expect(scene.note.rounds).toHaveLength(1);
    await scene.precopy({ lastRound: true });
    expect(scene.asked).toHaveLength(2);
  });

  it('are one where the file in use is read', async () => {
    const scene = setUp();
    scene.answers.push(round('live', 500, { mode: 'live', modeReason: 'no reflinks' }));
    await scene.precopy();
    await scene.precopy({ lastRound: true });
    expect(scene.note).toMatchObject({ mode: 'live', ended: 'not_supported', modeReason: 'no reflinks' });
    expect(scene.asked).toHaveLength(1);
  });

  it('go on with the same round after a failure, which is told', async () => {
    const scene = setUp();
    scene.answers.push(new FerryError('host_unreachable', 'no'), round('s1', 500), round('s2', 0));
    await scene.precopy();
    expect(scene.failures).toMatchObject([{ reason: 'host_unreachable' }]);
    await scene.precopy();
    expect(scene.asked.map((ask) => ask.round)).toEqual([1, 1, 2]);
    expect(scene.note.ended).toBe('fits');
  });

  it('are none without a volume, and the copy is verified at once', async () => {
    const scene = setUp({ detail: { volumeSizeBytes: 0 } });
    await scene.precopy();
    expect(scene.note).toMatchObject({ mode: 'none', ended: 'fits' });
    await scene.copy();
    expect(scene.events).toEqual(['verified']);
    expect(scene.asked).toEqual([]);
  });
});

describe('the stopped volume', () => {
  it('is copied after the rounds, with what they brought; only then the copy is verified', async () => {
    const scene = setUp();
    scene.answers.push(round('s1', 500), round('s2', 10), round('stopped', 3, { baseContext: 'c', mode: 'none' }));
    await scene.precopy();
    await scene.copy();
    expect(scene.asked.at(-1)).toEqual({ round: null, haveSnapshot: 's2', haveRoot: '' });
    expect(scene.pulls.at(-1)).toMatchObject({ isLive: false, held: 's2' });
    expect(scene.events).toEqual(['receive', 'verified']);
    expect(scene.note).toMatchObject({ ended: 'fits', finalBytes: 3 * mib });
    expect(scene.detail.copiedAtMs).toBe(scene.clock.nowMs());
    // What crossed the wire in all.
    expect(scene.copies.progress(id)).toMatchObject({ bytesTransferred: BigInt(513 * mib), bytesResumed: 2n });
  });

  it('does not wait for a round that runs', async () => {
    const scene = setUp();
    const begun = Promise.withResolvers<void>();
    scene.onPull = async ({ isLive, signal }) => {
      if (!isLive) return;
      begun.resolve();
      await new Promise((resolve) => signal.addEventListener('abort', resolve));
    };
    scene.answers.push(round('s1', 500), round('stopped', 500, { mode: 'none' }));
    await scene.copies.precopy(id, wish);
    await begun.promise;
    await scene.copy();
    expect(scene.failures).toEqual([]);
    expect(scene.events).toEqual(['receive', 'verified']);
  });

  it('is copied whole when nothing was before', async () => {
    const scene = setUp();
    scene.answers.push(round('stopped', 500, { mode: 'none' }));
    await scene.copy();
    expect(scene.note).toMatchObject({ mode: 'none', ended: 'cold', finalBytes: 500 * mib });
  });

  it('is asked for until the source has compared, and says how far that is', async () => {
    const scene = setUp({ detail: { seed: { volumeId: 'old', root: 'r' } } });
    scene.answers.push(
      { comparing: true, comparedBytes: 7n, compareBytesTotal: 9n },
      round('stopped', 1, { baseContext: 'c', mode: 'none' }),
    );
    await scene.copies.copy(id);
    while (scene.clock.sleeping === 0) await new Promise(setImmediate);
    expect(scene.copies.progress(id)).toMatchObject({ phase: 'comparing', bytesDone: 7n, bytesTotal: 9n });
    scene.clock.advance(1000);
    await scene.idle();
    expect(scene.asked).toHaveLength(2);
    expect(scene.events).toContain('verified');
  });
});

describe('a copy of which this host kept an older one', () => {
  const seed = { volumeId: 'old', root: 'r' };

  it('begins with it, and asks for what differs from its root', async () => {
    const scene = setUp({ detail: { seed } });
    scene.answers.push(round('s1', 2, { baseContext: 'c' }), round('s2', 1));
    await scene.precopy();
    expect(scene.seeded).toEqual(['r']);
    expect(scene.asked[0]).toEqual({ round: 1, haveSnapshot: 'root:r', haveRoot: 'r' });
    expect(scene.asked[1]).toEqual({ round: 2, haveSnapshot: 's1', haveRoot: '' });
    expect(scene.note).toMatchObject({ baseRoot: 'r', ended: 'fits' });
  });

  it('goes on without it when it is of no use', async () => {
    const scene = setUp({ detail: { seed }, seeds: false });
    scene.answers.push(round('s1', 500), round('s2', 1));
    await scene.precopy();
    expect(scene.asked[0]).toEqual({ round: 1, haveSnapshot: '', haveRoot: '' });
    expect(scene.seeded).toEqual(['r']);
    expect(scene.note.baseRoot).toBe('');
  });
});
