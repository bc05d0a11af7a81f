// Longer than usual: every way in which one migration can go.
import { create } from '@bufbuild/protobuf';
import { describe, expect, test } from 'vitest';
import { MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import {
  CopyProgressSchema,
  type Migration,
  MigrationState,
  MigrationStep,
} from '../../proto/gen/ferry/v1/migration_pb.ts';
import { FerryError } from '../../shared/error.ts';
import { Harness, refusal } from '../testing/harness.ts';

const machine = 'd8dd625fed5568';

async function twoHosts(): Promise<Harness> {
  const harness = new Harness();
  harness.world.add('h1').give(machine);
  harness.world.add('h2');
  await harness.start();
  return harness;
}

const agent = (harness: Harness, host: string) => harness.world.agents.get(host)!;

/** Nothing is left held, anywhere. */
async function expectFree(harness: Harness): Promise<void> {
  await harness.until(async () => {
    const held = [...harness.world.agents.values()].filter((each) => each.permits.get('alpha')?.holder);
    return held.length === 0 && (await harness.store.locks()).length === 0 ? true : undefined;
  });
}

const refuseAlways = (reason: ConstructorParameters<typeof FerryError>[0]) => (when: 'before' | 'after') => {
  if (when === 'before') throw new FerryError(reason, `scripted ${reason}`);
};

test('a Machine moves: every step in order, lock and permits free, directory right', async () => {
  await using harness = await twoHosts();
  const id = await harness.migrate(machine, 'h2');
  const migration = await harness.ended(id);
  expect(migration).toMatchObject({
    state: MigrationState.MOVED,
    settled: true,
    holdsLock: false,
    source: 'h1',
    destination: 'h2',
    sourceRoot: `root-${machine}`,
    destinationRoot: `root-${machine}`,
    epoch: 2n,
    downtime: { totalMs: 42n },
  });
  const steps = migration.steps.map((report) => report.step);
  const { UNSPECIFIED, PLAN, PREPARE, PRECOPY, ...rest } = MigrationStep;
  expect(steps).toEqual([PLAN, PREPARE, PRECOPY, ...Object.values(rest)]);
  expect(steps).not.toContain(UNSPECIFIED);
  expect(migration.steps.every((report) => report.endedAt !== undefined && report.message !== '')).toBe(true);
  expect(harness.world.runningOn(machine)).toEqual(['h2']);
  expect((await harness.store.placement(machine))?.hostId).toBe('h2');
  expect(await harness.store.openMigrations()).toEqual([]);
  await expectFree(harness);
  const { machine: seen } = await harness.machines.getMachine({ machineId: machine });
  expect(seen?.hostId).toBe('h2');
});

test('the directory knows the new host before the network is free', async () => {
  await using harness = await twoHosts();
  const hosts: (string | undefined)[] = [];
  agent(harness, 'h1').scripts.set('releasePermit', async () => {
    hosts.push((await harness.store.placement(machine))?.hostId);
  });
  await harness.ended(await harness.migrate(machine, 'h2'));
  expect(hosts[0]).toBe('h2');
});

test('whoever can permit the next stop has been told where the Machine is now', async () => {
  await using harness = await twoHosts();
  harness.world.add('h3').give('aaaaaaaaaaaaaa');
  await harness.beat();
  await harness.ended(await harness.migrate(machine, 'h2'));
  for (const host of ['h1', 'h2', 'h3'])
    expect(agent(harness, host).told).toMatchObject([{ machineId: machine, hostId: 'h2', epoch: 2n, started: true }]);
});

test('a watch shows each change and ends with the settlement', async () => {
  await using harness = await twoHosts();
  const id = await harness.migrate(machine, 'h2');
  const seen: Migration[] = [];
  const watching = (async () => {
    for await (const { migration } of harness.migrations.watchMigration({ migrationId: id })) seen.push(migration!);
  })();
  await harness.ended(id);
  await watching;
  expect(seen.at(-1)).toMatchObject({ state: MigrationState.MOVED, settled: true });
  expect(new Set(seen.map((migration) => migration.step)).size).toBeGreaterThan(5);
});

const orders = [
  ['h1', 'offer'],
  ['h2', 'prepare'],
  ['h1', 'grantPermit'],
  ['h2', 'grantPermit'],
  ['h1', 'stopForMigration'],
  ['h2', 'copy'],
  ['h1', 'relinquish'],
  ['h2', 'accept'],
  ['h2', 'getHandover'],
  ['h1', 'releasePermit'],
  ['h2', 'releasePermit'],
  ['h1', 'settle'],
] as const;

describe.each(orders)('the coordinator dies at %s.%s', (host, method) => {
  test.each(['before', 'after'] as const)('%s the order is obeyed; another one finishes the move', async (when) => {
    await using harness = await twoHosts();
    const hanging = harness.hangAt(host, method, when);
    const id = await harness.migrate(machine, 'h2');
    let hung = false;
    void hanging.then(() => {
      hung = true;
    });
    await harness.until(async () => hung || undefined);
    await harness.crash();
    await harness.start();
    expect(await harness.ended(id)).toMatchObject({ state: MigrationState.MOVED, settled: true });
    expect(harness.world.runningOn(machine)).toEqual(['h2']);
    await expectFree(harness);
  });

  test('or the source is cancelled: the Machine ends on one host, nothing is held', async () => {
    await using harness = await twoHosts();
    let outcome: string | undefined;
    let cancelling = false;
    let id = '';
    agent(harness, host).scripts.set(method, async (when) => {
      if (when === 'after' || cancelling || id === '') return;
      cancelling = true;
      outcome = (await harness.migrations.cancelMigration({ migrationId: id })).outcome;
    });
    // The claim answers before the first order, so the ID is known to the script in time.
    agent(harness, 'h1').silent = true;
    id = await harness.migrate(machine, 'h2');
    agent(harness, 'h1').silent = false;
    const { state } = await harness.ended(id);
    expect(state).toBe(outcome === 'aborted' ? MigrationState.MOVED_BACK : MigrationState.MOVED);
    expect(outcome).toBe(orders.findIndex(([, each]) => each === method) <= 6 ? 'aborted' : 'too late');
    expect(harness.world.runningOn(machine)).toEqual([state === MigrationState.MOVED ? 'h2' : 'h1']);
    await expectFree(harness);
  });
});

describe.each([
  ['h2', 'prepare', 'cannot_run'],
  ['h2', 'prepare', 'no_space'],
  ['h1', 'stopForMigration', 'volume_busy'],
  ['h2', 'copy', 'copy_corrupt'],
  ['h1', 'relinquish', 'root_mismatch'],
  ['h2', 'accept', 'wrong_epoch'],
] as const)('%s refuses %s with %s', (host, method, reason) => {
  test('the Machine stays at the source, with the reason', async () => {
    await using harness = await twoHosts();
    agent(harness, host).scripts.set(method, refuseAlways(reason));
    const migration = await harness.ended(await harness.migrate(machine, 'h2'));
    expect(migration).toMatchObject({ state: MigrationState.MOVED_BACK, failure: reason, holdsLock: false });
    expect(migration.reason).toContain('stayed at h1');
    expect(migration.nextAction).not.toBe('');
    expect(harness.world.runningOn(machine)).toEqual(['h1']);
    await expectFree(harness);
  });
});

test('an answer that is lost is asked for again, visibly, without limit', async () => {
  await using harness = await twoHosts();
  let lost = 0;
  agent(harness, 'h1').scripts.set('relinquish', (when) => {
    if (when === 'after' && lost++ < 8) throw new FerryError('deadline', 'lost');
  });
  const id = await harness.migrate(machine, 'h2');
  const waiting = await harness.until(async () => {
    const migration = await harness.migration(id);
    return migration.attempt > 3 ? migration : undefined;
  });
  expect(waiting).toMatchObject({ failure: 'deadline', step: MigrationStep.RELINQUISH });
  expect(waiting.waitingFor).toContain('h1');
  expect(await harness.ended(id)).toMatchObject({ state: MigrationState.MOVED });
});

test.each([
  ['h2', 'prepare'],
  ['h1', 'stopForMigration'],
  ['h2', 'copy'],
  ['h2', 'accept'],
] as const)('an agent that dies at %s.%s is asked again when it is back', async (host, method) => {
  await using harness = await twoHosts();
  let died = 0;
  agent(harness, host).scripts.set(method, (when) => {
    // What an HTTP/2 stream says when its other end is killed.
    if (when === 'after' && died++ < 2) throw new FerryError('cancelled', 'stream closed with error code CANCEL');
  });
  expect(await harness.ended(await harness.migrate(machine, 'h2'))).toMatchObject({ state: MigrationState.MOVED });
  expect(died).toBeGreaterThan(1);
});

test('a destination that falls silent while the Machine is down: it starts again at the source', async () => {
  await using harness = await twoHosts();
  agent(harness, 'h2').scripts.set('copy', () => {
    agent(harness, 'h2').silent = true;
    throw new FerryError('unreachable', 'gone');
  });
  const migration = await harness.ended(await harness.migrate(machine, 'h2'));
  expect(migration).toMatchObject({ state: MigrationState.MOVED_BACK, failure: 'host_unreachable' });
  expect(harness.world.runningOn(machine)).toEqual(['h1']);
  expect((await harness.store.openMigrations()).length).toBe(1);
  agent(harness, 'h2').silent = false;
  agent(harness, 'h2').scripts.delete('copy');
  await expectFree(harness);
  expect(agent(harness, 'h2').rows.get(migration.id)?.handover.step).toBe('declined');
});

test('a long last copy goes on as long as bytes arrive, whatever was done or compared before it', async () => {
  await using harness = await twoHosts();
  const destination = agent(harness, 'h2');
  destination.copiesNothing = true;
  let looks = 0;
  let silent = 2;
  const waits = new Set<string>();
  destination.scripts.set('copy', async (when) => {
    if (when === 'after') return;
    await harness.clock.sleep(500);
    const [running] = await harness.store.openMigrations();
    if (running !== undefined) waits.add(running.migration.wait?.message ?? '');
    if (silent-- > 0) return;
    const at = [...destination.rows.values()].at(-1)!.handover;
    // What the last round left is shown first, then the comparison, then a copy of more than the source's patience.
    const phase = looks === 0 ? 'done' : looks < 4 ? 'comparing' : 'copying';
    const bytesDone = BigInt(looks === 0 ? 1000 : looks < 4 ? 300 * looks : looks);
    at.progress = create(CopyProgressSchema, { phase, bytesDone, bytesTotal: 1000n });
    looks += 1;
    if (looks === 100) destination.copiesNothing = false;
  });
  const migration = await harness.ended(await harness.migrate(machine, 'h2'));
  expect(migration).toMatchObject({ state: MigrationState.MOVED, failure: '' });
  expect([...waits]).toContain('the copy of the stopped volume to begin at h2');
});

test('what a later try has mended is no failure of the migration: its step says it', async () => {
  await using harness = await twoHosts();
  let broken = 2;
  agent(harness, 'h2').scripts.set('copy', (when) => {
    if (when === 'before' && broken-- > 0) throw new FerryError('copy_broken', 'the line broke');
  });
  const migration = await harness.ended(await harness.migrate(machine, 'h2'));
  expect(migration).toMatchObject({ state: MigrationState.MOVED, failure: '' });
  const fork = migration.steps.find(({ step }) => step === MigrationStep.FORK);
  expect(fork?.message).toMatch(/; done at try 3, after copy_broken$/);
});

test('a copy that is begun again and again without a byte: the Machine starts again at the source', async () => {
  await using harness = await twoHosts();
  agent(harness, 'h2').copiesNothing = true;
  let orders = 0;
  agent(harness, 'h2').scripts.set('copy', (when) => {
    if (when === 'before') orders += 1;
    if (when === 'before' && orders % 5 === 0) throw new FerryError('copy_broken', 'nothing arrived');
  });
  const migration = await harness.ended(await harness.migrate(machine, 'h2'));
  expect(migration).toMatchObject({ state: MigrationState.MOVED_BACK, failure: 'copy_broken' });
  expect(harness.world.runningOn(machine)).toEqual(['h1']);
  await expectFree(harness);
});

test.each(['starting', 'unhealthy'] as const)(
  'a Machine that stays %s at the destination comes back under the same lock, as a new migration',
  async (health) => {
    await using harness = await twoHosts();
    agent(harness, 'h2').sick = true;
    agent(harness, 'h2').sickAs = health;
    const id = await harness.migrate(machine, 'h2');
    const parent = await harness.ended(id);
    expect(parent).toMatchObject({ state: MigrationState.MOVED_BACK, failure: 'unhealthy', holdsLock: false });
    const child = await harness.ended(parent.returnedBy);
    expect(child).toMatchObject({
      state: MigrationState.MOVED,
      returns: id,
      source: 'h2',
      destination: 'h1',
      epoch: 3n,
    });
    expect(child.fence).toBe(parent.fence);
    expect(harness.world.runningOn(machine)).toEqual(['h1']);
    expect(harness.world.downMax).toBe(1);
    await expectFree(harness);
  },
);

describe('a Machine that is healthy nowhere', () => {
  async function parked(): Promise<{ harness: Harness; id: string }> {
    const harness = await twoHosts();
    for (const each of harness.world.agents.values()) each.sick = true;
    const id = await harness.migrate(machine, 'h2');
    expect(await harness.ended(id)).toMatchObject({ state: MigrationState.PARKED, holdsLock: true });
    return { harness, id };
  }
  const unwell = (harness: Harness) => {
    agent(harness, 'h1').machines.get(machine)!.state = MachineState.RESTARTING;
  };

  test('parks once, with the lock, the reason and what to do', async () => {
    const { harness, id } = await parked();
    await using _ = harness;
    unwell(harness);
    const migration = await harness.migration(id);
    expect(migration.reason).toContain('should bring it back');
    expect(migration.nextAction).toContain(`ferry migration retry ${id}`);
    const { lock, explanation } = await harness.locks.explainLock({ network: 'alpha' });
    expect(lock?.migrationId).toBe(id);
    expect(explanation).toContain('accepts that it is down');
  });

  test('frees the network when an operator accepts that it is down', async () => {
    const { harness, id } = await parked();
    await using _ = harness;
    unwell(harness);
    const { migration } = await harness.migrations.acceptDown({ migrationId: id });
    expect(migration).toMatchObject({ state: MigrationState.PARKED, holdsLock: false });
    await expectFree(harness);
  });

  test('frees the network when it is well again', async () => {
    const { harness, id } = await parked();
    await using _ = harness;
    for (const each of harness.world.agents.values()) each.sick = false;
    await expectFree(harness);
    expect(await harness.migration(id)).toMatchObject({ state: MigrationState.PARKED, holdsLock: false });
  });

  test('is moved under the lock that it holds by a retry', async () => {
    const { harness, id } = await parked();
    await using _ = harness;
    unwell(harness);
    for (const each of harness.world.agents.values()) each.sick = false;
    const { migration } = await harness.migrations.retryMigration({ migrationId: id });
    expect(migration).toMatchObject({ source: 'h1', destination: 'h2' });
    expect(await harness.ended(migration!.id)).toMatchObject({ state: MigrationState.MOVED });
    expect(await harness.migration(id)).toMatchObject({ holdsLock: false });
    expect(harness.world.runningOn(machine)).toEqual(['h2']);
    await expectFree(harness);
  });
});

test.each(['prepare', 'copy'])(
  'a disk that fails at the destination in %s is not retried blindly: the Machine stays',
  async (order) => {
    await using harness = await twoHosts();
    let asked = 0;
    agent(harness, 'h2').scripts.set(order, () => {
      asked += 1;
      throw new FerryError('io_error', 'the disk failed');
    });
    const migration = await harness.ended(await harness.migrate(machine, 'h2'));
    expect(migration).toMatchObject({ state: MigrationState.MOVED_BACK, failure: 'io_error', holdsLock: false });
    expect(asked).toBe(1);
    expect(harness.world.runningOn(machine)).toEqual(['h1']);
    await expectFree(harness);
  },
);

test('a disk that fails in the stop parks: somebody must look before the Machine runs on it again', async () => {
  await using harness = await twoHosts();
  agent(harness, 'h1').scripts.set('stopForMigration', refuseAlways('io_error'));
  const migration = await harness.ended(await harness.migrate(machine, 'h2'));
  expect(migration).toMatchObject({ state: MigrationState.PARKED, failure: 'io_error', holdsLock: true });
});

test('a kept copy that differs parks loudly; the Machine runs on at the destination', async () => {
  await using harness = await twoHosts();
  agent(harness, 'h1').scripts.set('settle', refuseAlways('root_mismatch'));
  const migration = await harness.ended(await harness.migrate(machine, 'h2'));
  expect(migration).toMatchObject({ state: MigrationState.PARKED, failure: 'root_mismatch', holdsLock: false });
  expect(harness.world.runningOn(machine)).toEqual(['h2']);
});

test('more migrations than slots wait, say so, and move in turn', async () => {
  await using harness = new Harness({ concurrentMax: 1 });
  const ids = ['00000000000001', '00000000000002', '00000000000003'];
  const source = harness.world.add('h1');
  for (const [index, id] of ids.entries()) source.give(id, `net-${index}`, `app-${index}`);
  harness.world.add('h2');
  await harness.start();
  const hanging = harness.hangAt('h2', 'copy', 'before');
  const first = await harness.migrate(ids[0]!, 'h2');
  await hanging;
  const second = await harness.migrate(ids[1]!, 'h2');
  const third = await harness.migrate(ids[2]!, 'h2');
  const waiting = await harness.until(async () => {
    const migration = await harness.migration(third);
    return migration.waitingFor === '' ? undefined : migration;
  });
  expect(waiting.waitingFor).toContain('one of the 1 migrations');
  expect((await harness.migrations.cancelMigration({ migrationId: second })).outcome).toBe('aborted');
  expect(await harness.ended(second)).toMatchObject({ state: MigrationState.MOVED_BACK, failure: 'cancelled' });
  expect((await harness.migrations.cancelMigration({ migrationId: first })).outcome).toBe('aborted');
  expect(await harness.ended(first)).toMatchObject({ state: MigrationState.MOVED_BACK });
  expect(await harness.ended(third)).toMatchObject({ state: MigrationState.MOVED });
});

test('a retry is a new migration to the same destination', async () => {
  await using harness = await twoHosts();
  agent(harness, 'h2').scripts.set('prepare', refuseAlways('no_space'));
  const id = await harness.migrate(machine, 'h2');
  await harness.ended(id);
  agent(harness, 'h2').scripts.delete('prepare');
  const { migration } = await harness.migrations.retryMigration({ migrationId: id });
  expect(migration!.id).not.toBe(id);
  expect(await harness.ended(migration!.id)).toMatchObject({ state: MigrationState.MOVED, destination: 'h2' });
  expect(await refusal(harness.migrations.retryMigration({ migrationId: migration!.id }))).toMatchObject({
    reason: 'invalid_argument',
    field: 'migration_id',
  });
});

describe('refused before anything is done', () => {
  test.each([
    ['the same host', 'h1', 'same_host', 'destination'],
    ['an unknown host', 'h9', 'unknown_host', 'destination'],
    ['a host name that is none', 'H 2', 'invalid_argument', 'destination'],
  ])('%s', async (_name, destination, reason, field) => {
    await using harness = await twoHosts();
    expect(await refusal(harness.migrate(machine, destination))).toMatchObject({ reason, field });
    expect(await harness.store.migrations(10)).toEqual([]);
  });

  test('a cordoned host, a silent host, no host at all', async () => {
    await using harness = await twoHosts();
    await harness.hosts.cordonHost({ hostId: 'h2' });
    expect(agent(harness, 'h2').cordoned).toBe(true);
    expect(await refusal(harness.migrate(machine, 'h2'))).toMatchObject({ reason: 'host_cordoned' });
    expect(await refusal(harness.migrate(machine))).toMatchObject({
      reason: 'no_host',
      facts: { h1: 'the Machine is there already', h2: 'it is cordoned' },
    });
    await harness.hosts.uncordonHost({ hostId: 'h2' });
    agent(harness, 'h2').silent = true;
    harness.advance(10_000);
    await harness.beat();
    expect(await refusal(harness.migrate(machine, 'h2'))).toMatchObject({ reason: 'host_unreachable' });
    expect(await harness.store.migrations(10)).toEqual([]);
  });

  test('an unknown Machine, a bad ID, a second migration, a bad deadline', async () => {
    await using harness = await twoHosts();
    expect(await refusal(harness.migrate('00000000000000'))).toMatchObject({ reason: 'unknown_machine' });
    expect(await refusal(harness.migrate('nonsense'))).toMatchObject({
      reason: 'invalid_argument',
      field: 'machine_id',
    });
    const late = harness.migrations.migrateMachine({ machineId: machine, startDeadline: { seconds: 999_999n } });
    expect(await refusal(late)).toMatchObject({ reason: 'invalid_argument', field: 'start_deadline' });
    const id = await harness.migrate(machine, 'h2');
    expect(await refusal(harness.migrate(machine, 'h2'))).toMatchObject({
      reason: 'machine_busy',
      facts: { migration: id },
    });
    await harness.ended(id);
  });
});
