// Longer than usual: whole drains over fake hosts, every way in which they can go.
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { describe, expect, test } from 'vitest';
import { DrainService } from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import {
  type Drain,
  type DrainMachine,
  DrainMachineState,
  type DrainOptionsSchema,
  DrainState,
} from '../../proto/gen/ferry/v1/drain_pb.ts';
import { GuestSchema, MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationState, MoveReason } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { FerryError } from '../../shared/error.ts';
import { Harness, refusal } from '../testing/harness.ts';

const networks = ['alpha', 'beta', 'gamma', 'delta'];
const idOf = (number: number) => number.toString(16).padStart(14, '0');
const agent = (harness: Harness, host: string) => harness.world.agents.get(host)!;

function wantMemory(harness: Harness, machineId: string, memoryMb: number): void {
  agent(harness, 'h1').machines.get(machineId)!.config!.guest = create(GuestSchema, { memoryMb });
}

/** Machines on h1, spread over the networks, and empty hosts h2 to h4. */
async function crowded(count = 12, config: ConstructorParameters<typeof Harness>[0] = {}): Promise<Harness> {
  const harness = new Harness(config);
  const source = harness.world.add('h1');
  for (let number = 1; number <= count; number += 1) {
    source.give(idOf(number), networks[number % networks.length], `app-${number % 3}`);
  }
  for (const host of ['h2', 'h3', 'h4']) harness.world.add(host);
  await harness.start();
  return harness;
}

/** Holds the first such order back, once it is obeyed, until it is let go. */
function holdAt(harness: Harness, host: string, method: string, when: 'before' | 'after' = 'after') {
  const held = Promise.withResolvers<void>();
  const { scripts } = agent(harness, host);
  let isReached = false;
  scripts.set(method, async (now) => {
    if (now !== when || isReached) return;
    isReached = true;
    await held.promise;
  });
  const reached = () => harness.until(async () => isReached || undefined);
  return { reached, release: () => held.resolve() };
}

/** Looks at something after each call of the store. */
function afterEach(harness: Harness, call: 'claimMigration' | 'acquireLock', see: () => Promise<void>): void {
  const { store } = harness;
  const real = store[call].bind(store) as (...args: unknown[]) => Promise<unknown>;
  const seen = async (...args: unknown[]) => {
    const answer = await real(...args);
    await see();
    return answer;
  };
  Object.assign(store, { [call]: seen });
}

async function order(harness: Harness, options: MessageInitShape<typeof DrainOptionsSchema> = {}): Promise<string> {
  const { drain } = await harness.drains.drainHost({
    hostId: 'h1',
    options,
    reason: MoveReason.MAINTENANCE,
    orderedBy: 'ops',
  });
  return drain!.id;
}

const look = async (harness: Harness, drainId = 'h1') => (await harness.drains.getDrain({ drainId })).drain!;

function ended(harness: Harness, drainId = 'h1'): Promise<Drain> {
  return harness.until(async () => {
    const drain = await look(harness, drainId);
    return drain.endedAt === undefined ? undefined : drain;
  });
}

const running = async (harness: Harness) =>
  (await harness.store.openMigrations())
    .map(({ migration }) => migration)
    .filter(({ state }) => state === MigrationState.RUNNING);

const machineOf = (drain: Drain, machineId: string): DrainMachine =>
  drain.machines.find((machine) => machine.machineId === machineId)!;

test('12 Machines on 4 networks: limits kept, never two of a network down, different networks at once, host empty', async () => {
  await using harness = await crowded();
  let mostRunning = 0;
  let mostLocked = 0;
  afterEach(harness, 'claimMigration', async () => {
    mostRunning = Math.max(mostRunning, (await running(harness)).length);
  });
  afterEach(harness, 'acquireLock', async () => {
    mostLocked = Math.max(mostLocked, (await harness.store.locks()).length);
  });
  const id = await order(harness, { concurrency: 3 });
  const done = await ended(harness, id);
  expect(done).toMatchObject({
    id,
    state: DrainState.DONE,
    machinesTotal: 12,
    machinesMoved: 12,
    cordonedByDrain: true,
    reason: MoveReason.MAINTENANCE,
    orderedBy: 'ops',
  });
  expect(mostRunning).toBe(3);
  expect(mostLocked).toBeGreaterThan(1);
  expect(harness.world.downMax).toBe(1);
  expect(agent(harness, 'h1').cordoned).toBe(true);
  expect([...agent(harness, 'h1').machines.values()].filter(({ state }) => state !== MachineState.MIGRATED)).toEqual(
    [],
  );
  for (const machine of done.machines) {
    expect(harness.world.runningOn(machine.machineId)).toEqual([machine.destination]);
    expect(machine).toMatchObject({ state: DrainMachineState.MOVED, attempts: 1, downtime: { totalMs: 42n } });
    expect(machine.predictedDowntimeMs).toBeGreaterThan(0n);
    expect(machine.copyMs).toBeDefined();
    expect(machine.waitMs).toBeDefined();
  }
  const { migration } = await harness.migrations.getMigration({ migrationId: done.machines[0]!.migrationId });
  expect(migration).toMatchObject({ drainId: id, orderedBy: 'ops', moveReason: MoveReason.MAINTENANCE });
});

test('the Machines of an app are spread over the hosts', async () => {
  await using harness = await crowded(9);
  await order(harness);
  const done = await ended(harness);
  for (const app of ['app-0', 'app-1', 'app-2']) {
    const hosts = done.machines.filter((machine) => machine.app === app).map(({ destination }) => destination);
    expect(new Set(hosts).size).toBe(3);
  }
});

test('limits of a destination and of the cluster are kept, whatever a drain asks for', async () => {
  await using harness = await crowded(8, { drainPerDestination: 1, drainTotal: 2 });
  let most = 0;
  let mostThere = 0;
  afterEach(harness, 'claimMigration', async () => {
    const moves = await running(harness);
    most = Math.max(most, moves.length);
    for (const host of ['h2', 'h3', 'h4']) {
      mostThere = Math.max(mostThere, moves.filter(({ destination }) => destination === host).length);
    }
  });
  await order(harness, { concurrency: 8 });
  await ended(harness);
  expect([most, mostThere]).toEqual([2, 1]);
});

test('a dry run says what would happen, and changes nothing', async () => {
  await using harness = await crowded(4);
  const { drain } = await harness.drains.drainHost({ hostId: 'h1', dryRun: true });
  expect(drain).toMatchObject({ id: '', hostId: 'h1', machinesTotal: 4, blockers: [] });
  expect(drain!.predictedTotalMs).toBeGreaterThan(0n);
  expect(drain!.machines.map(({ order: place }) => place)).toEqual([1, 2, 3, 4]);
  for (const machine of drain!.machines) {
    expect(machine.destination).not.toBe('');
    expect(machine.strategyNote).toBe('no volume: nothing to copy');
    expect(machine.predictedDowntimeMs).toBeGreaterThan(0n);
  }
  expect((await harness.store.host('h1'))?.cordoned).toBe(false);
  expect(agent(harness, 'h1').cordoned).toBe(false);
  expect(await harness.store.drains(10)).toEqual([]);
  expect(await running(harness)).toEqual([]);
});

describe('refused, and nothing changed', () => {
  const unchanged = async (harness: Harness) => {
    expect((await harness.store.host('h1'))?.cordoned).toBe(false);
    expect(await harness.store.migrations(10)).toEqual([]);
  };

  test('an unknown host', async () => {
    await using harness = await crowded(1);
    expect(await refusal(harness.drains.drainHost({ hostId: 'h9' }))).toMatchObject({ reason: 'unknown_host' });
    expect(await refusal(look(harness, 'h9'))).toMatchObject({ reason: 'unknown_drain', field: 'drain_id' });
  });

  test('all other hosts cordoned, with every Machine and every host', async () => {
    await using harness = await crowded(2);
    for (const hostId of ['h2', 'h3', 'h4']) await harness.hosts.cordonHost({ hostId });
    const error = await refusal(order(harness));
    expect(error).toMatchObject({ reason: 'no_host', field: 'host_id' });
    expect(Object.keys(error.facts)).toEqual([idOf(1), idOf(2)]);
    expect(error.message).toContain('h3: it is cordoned');
    const { drain } = await harness.drains.drainHost({ hostId: 'h1', dryRun: true });
    expect(drain!.machines[0]?.blockers[0]).toContain('no host can take it: h2: it is cordoned');
    expect(drain!.blockers).toEqual(['2 of 2 Machines of host h1 have no place']);
    expect(await harness.store.drains(10)).toEqual([]);
    await unchanged(harness);
  });

  test('no room for one of them', async () => {
    await using harness = await crowded(3);
    wantMemory(harness, idOf(2), 9000);
    await harness.beat();
    const error = await refusal(order(harness));
    expect(error.facts[idOf(2)]).toContain('8192 MiB of memory left, 9000 are needed');
    expect(Object.keys(error.facts)).toHaveLength(1);
    await unchanged(harness);
  });

  test('a silent host', async () => {
    await using harness = await crowded(1);
    agent(harness, 'h1').silent = true;
    harness.advance(10_000);
    await harness.beat();
    expect(await refusal(order(harness))).toMatchObject({ reason: 'host_unreachable', field: 'host_id' });
    await unchanged(harness);
  });

  test('twice at once', async () => {
    await using harness = await crowded(2);
    const id = await order(harness);
    expect(await refusal(order(harness))).toMatchObject({ reason: 'drain_exists', facts: { drain: id } });
    await ended(harness);
    expect(await refusal(harness.drains.pauseDrain({ drainId: id }))).toMatchObject({ reason: 'drain_ended' });
    expect(await refusal(harness.drains.cancelDrain({ drainId: id }))).toMatchObject({ reason: 'drain_ended' });
  });
});

test('an empty host is cordoned, and done', async () => {
  await using harness = await crowded(0);
  await order(harness);
  expect(await ended(harness)).toMatchObject({ state: DrainState.DONE, machinesTotal: 0 });
  expect(agent(harness, 'h1').cordoned).toBe(true);
});

describe('a Machine that', () => {
  test('has no place is parked, and the rest is moved, if the operator wants that', async () => {
    await using harness = await crowded(3);
    wantMemory(harness, idOf(2), 9000);
    await harness.beat();
    await order(harness, { partial: true });
    const blocked = await ended(harness);
    expect(blocked).toMatchObject({ state: DrainState.BLOCKED, machinesMoved: 2, machinesParked: 1 });
    expect(machineOf(blocked, idOf(2))).toMatchObject({ state: DrainMachineState.PARKED, attempts: 0 });
    expect(blocked.nextAction).toContain('ferry drain status h1');
  });

  test('cannot be taken by its destination goes to another', async () => {
    await using harness = await crowded(1);
    for (const host of ['h2', 'h3']) {
      agent(harness, host).scripts.set('prepare', () => {
        throw new FerryError('cannot_run', 'no such program here');
      });
    }
    await order(harness);
    const done = await ended(harness);
    expect(done.machines[0]).toMatchObject({ state: DrainMachineState.MOVED, destination: 'h4', attempts: 3 });
    expect(done.machines[0]?.earlierMigrations).toHaveLength(2);
  });

  test('cannot be taken anywhere is parked with the evidence, after growing pauses; the rest is moved', async () => {
    await using harness = await crowded(4);
    for (const host of ['h2', 'h3', 'h4']) {
      agent(harness, host).scripts.set('prepare', (when) => {
        const isBad = [...agent(harness, host).rows.values()].some(({ handover }) => handover.machineId === idOf(2));
        if (when === 'after' && isBad) throw new FerryError('cannot_run', 'it runs nowhere');
      });
    }
    await order(harness, { concurrency: 1 });
    const blocked = await ended(harness);
    expect(blocked.state).toBe(DrainState.BLOCKED);
    expect(machineOf(blocked, idOf(2))).toMatchObject({ state: DrainMachineState.PARKED, attempts: 3 });
    expect(machineOf(blocked, idOf(2)).reason).toContain('3 tries have failed');
    expect(machineOf(blocked, idOf(2)).reason).toContain('it runs nowhere');
    expect(harness.world.runningOn(idOf(2))).toEqual(['h1']);
  });

  test('is healthy nowhere is parked, its network told as blocked, others of it parked for that, the rest moved', async () => {
    await using harness = await crowded(8);
    const bad = idOf(4);
    const sisters = [idOf(8)];
    for (const each of harness.world.agents.values()) each.sickMachines.add(bad);
    // What is called off is written down before: else it would look like an operator's cancel.
    const calledOff: string[] = [];
    agent(harness, 'h1').scripts.set('abort', async () => {
      for (const { plan } of await harness.store.openDrains()) calledOff.push(...plan.calledOff);
    });
    const id = await order(harness, { concurrency: 8 });
    const blocked = await harness.until(async () => {
      for (const each of harness.world.agents.values()) {
        const machine = each.machines.get(bad);
        if (machine?.state === MachineState.STARTED && machine.epoch > 1n) machine.state = MachineState.RESTARTING;
      }
      const drain = await look(harness);
      return drain.endedAt === undefined ? undefined : drain;
    });
    expect(blocked).toMatchObject({ state: DrainState.BLOCKED, blockedNetworks: ['alpha'] });
    expect(machineOf(blocked, bad)).toMatchObject({ state: DrainMachineState.PARKED, networkBlocked: true });
    const note = 'the store is not durable: switch it on';
    Object.assign(harness.store, { describe: () => ({ where: 'a store', notes: [note] }) });
    const { attention } = await harness.cluster.getStatus({});
    expect(attention).toContain(`Drain ${id} of h1 is blocked: ${blocked.message}. ${blocked.nextAction}`);
    expect(attention.at(-1)).toBe(note);
    for (const sisterId of sisters) {
      expect(machineOf(blocked, sisterId).state).toBe(DrainMachineState.PARKED);
      const sister = machineOf(blocked, sisterId);
      const why = `network alpha is blocked: the parked migration ${machineOf(blocked, bad).migrationId} of Machine ${bad}`;
      expect(sister.reason).toContain(why);
      expect(calledOff).toContain(sister.migrationId);
      expect((await harness.migration(sister.migrationId)).reason).toContain(why);
      expect(harness.world.runningOn(sisterId)).toEqual(['h1']);
    }
    expect(blocked.machinesMoved).toBe(6);
    expect(harness.world.downMax).toBe(1);
  });

  test('is moved by an operator already is waited for, and gone once it has left', async () => {
    await using harness = await crowded(2);
    const held = holdAt(harness, 'h2', 'prepare', 'before');
    const id = await harness.migrate(idOf(1), 'h2');
    await held.reached();
    await order(harness);
    const waiting = await harness.until(async () => {
      const machine = machineOf(await look(harness), idOf(1));
      return machine.wait === undefined ? undefined : machine;
    });
    expect(waiting.wait).toMatchObject({ kind: 'operator', subject: id });
    held.release();
    const done = await ended(harness);
    expect(done.state).toBe(DrainState.DONE);
    expect(machineOf(done, idOf(1))).toMatchObject({ state: DrainMachineState.GONE, host: 'h2', attempts: 0 });
  });

  test('is refused before its move begins is not tried for ever', async () => {
    await using harness = await crowded(1, { startDeadlineMs: 4000 });
    await order(harness);
    const blocked = await ended(harness);
    expect(blocked.state).toBe(DrainState.BLOCKED);
    expect(blocked.machines[0]).toMatchObject({ state: DrainMachineState.PARKED, attempts: 3, migrationId: '' });
    expect(blocked.machines[0]?.reason).toContain('healthy after 5 s');
  });

  test('only its agent knows of is found before the drain ends, and moved', async () => {
    await using harness = await crowded(0);
    agent(harness, 'h1').give(idOf(7));
    await order(harness);
    await harness.settle();
    const done = await ended(harness);
    expect(done).toMatchObject({ state: DrainState.DONE, machinesMoved: 1 });
    expect(agent(harness, 'h1').runs(idOf(7))).toBe(false);
  });

  test('is destroyed meanwhile is gone; one that came meanwhile is moved too', async () => {
    await using harness = await crowded(3);
    await order(harness, { concurrency: 1 });
    agent(harness, 'h1').machines.delete(idOf(1));
    agent(harness, 'h1').give(idOf(99), 'alpha', 'late');
    const done = await ended(harness);
    expect(done.state).toBe(DrainState.DONE);
    expect(machineOf(done, idOf(99))).toMatchObject({ state: DrainMachineState.MOVED, order: 4 });
    expect([DrainMachineState.GONE, DrainMachineState.MOVED]).toContain(machineOf(done, idOf(1)).state);
  });
});

describe('an operator', () => {
  test('pauses: what is under way ends, nothing begins; resumes: the rest is moved', async () => {
    await using harness = await crowded(6);
    await order(harness, { concurrency: 2 });
    await harness.drains.pauseDrain({ drainId: 'h1' });
    await harness.until(async () => ((await running(harness)).length === 0 ? true : undefined));
    harness.advance(30_000);
    await harness.settle();
    const paused = await look(harness);
    expect(paused.state).toBe(DrainState.PAUSED);
    expect(paused.machinesMoved).toBeLessThan(6);
    expect(await running(harness)).toEqual([]);
    await harness.drains.resumeDrain({ drainId: 'h1' });
    expect(await ended(harness)).toMatchObject({ state: DrainState.DONE, machinesMoved: 6 });
  });

  test('resumes a blocked drain: parked Machines are tried again', async () => {
    await using harness = await crowded(3);
    wantMemory(harness, idOf(2), 9000);
    await harness.beat();
    await order(harness, { partial: true });
    expect(await ended(harness)).toMatchObject({ state: DrainState.BLOCKED });
    wantMemory(harness, idOf(2), 64);
    await harness.beat();
    await harness.drains.resumeDrain({ drainId: 'h1' });
    expect(await ended(harness)).toMatchObject({ state: DrainState.DONE, machinesMoved: 3, machinesParked: 0 });
  });

  test('cancels one migration: its Machine is parked, the rest is moved', async () => {
    await using harness = await crowded(3);
    const held = holdAt(harness, 'h1', 'offer');
    await order(harness, { concurrency: 1 });
    await held.reached();
    const first = (await running(harness))[0]!;
    await harness.migrations.cancelMigration({ migrationId: first.id });
    held.release();
    const blocked = await ended(harness);
    expect(blocked).toMatchObject({ state: DrainState.BLOCKED, machinesMoved: 2 });
    expect(machineOf(blocked, first.machineId).reason).toContain(`an operator cancelled ${first.id}`);
  });

  const phases = [
    ['h1', 'offer'],
    ['h2', 'prepare'],
    ['h2', 'precopy'],
    ['h1', 'grantPermit'],
    ['h1', 'stopForMigration'],
    ['h2', 'copy'],
    ['h1', 'relinquish'],
    ['h2', 'accept'],
  ] as const;

  test.each(phases)('cancels in mid-drain, at %s.%s: no leftovers, each Machine runs once', async (host, method) => {
    await using harness = await crowded(4);
    const held = holdAt(harness, host, method);
    await order(harness, { concurrency: 2, to: ['h2'] });
    await held.reached();
    await harness.drains.cancelDrain({ drainId: 'h1', uncordon: true });
    expect((await look(harness)).state).toBe(DrainState.CANCELLING);
    await harness.settle();
    held.release();
    const cancelled = await ended(harness);
    expect(cancelled.state).toBe(DrainState.CANCELLED);
    await harness.until(async () => ((await harness.store.openMigrations()).length === 0 ? true : undefined));
    expect(await harness.store.locks()).toEqual([]);
    for (const { machineId, host: where } of cancelled.machines) {
      expect(harness.world.runningOn(machineId)).toEqual([where]);
    }
    expect(cancelled.machinesMoved).toBeLessThan(4);
    expect((await harness.store.host('h1'))?.cordoned).toBe(false);
    expect(agent(harness, 'h1').cordoned).toBe(false);
    expect(agent(harness, 'h1').drain.drain).toHaveLength(0);
  });

  test('cannot take the cordon off a host that is drained: the drain would put it on again', async () => {
    await using harness = await crowded(1);
    const held = holdAt(harness, 'h1', 'offer');
    const id = await order(harness);
    await held.reached();
    expect(await refusal(harness.hosts.uncordonHost({ hostId: 'h1' }))).toMatchObject({
      reason: 'drain_exists',
      facts: { drain: id },
      nextAction: expect.stringContaining('ferry drain cancel h1 --uncordon'),
    });
    expect((await harness.store.host('h1'))?.cordoned).toBe(true);
    held.release();
    await ended(harness);
    await harness.hosts.uncordonHost({ hostId: 'h1' });
    expect((await harness.store.host('h1'))?.cordoned).toBe(false);
  });

  test('a cordon that was there before stays after a cancel', async () => {
    await using harness = await crowded(4);
    await harness.hosts.cordonHost({ hostId: 'h1' });
    await order(harness, { concurrency: 1 });
    await harness.drains.cancelDrain({ drainId: 'h1', uncordon: true });
    expect(await ended(harness)).toMatchObject({ state: DrainState.CANCELLED, cordonedByDrain: false });
    expect((await harness.store.host('h1'))?.cordoned).toBe(true);
  });
});

test('while its host is silent a drain waits and says so; then it goes on', async () => {
  await using harness = await crowded(4);
  await order(harness, { concurrency: 1 });
  agent(harness, 'h1').silent = true;
  const waiting = await harness.until(async () => {
    const drain = await look(harness);
    const machine = drain.machines.find(({ state }) => state === DrainMachineState.WAITING);
    return machine?.wait?.kind === 'host' ? machine : undefined;
  });
  expect(waiting.wait).toMatchObject({ kind: 'host', subject: 'h1', message: 'host h1 to answer' });
  agent(harness, 'h1').silent = false;
  expect((await ended(harness)).machines.filter(({ state }) => state === DrainMachineState.MOVED)).toHaveLength(4);
});

test('a host that is silent while it is drained does not keep the drains of other hosts waiting', async () => {
  await using harness = await crowded(2);
  agent(harness, 'h2').give(idOf(50), 'omega', 'other');
  await harness.beat();
  const held = holdAt(harness, 'h1', 'setDrain');
  await order(harness, { to: ['h3'] });
  await harness.drains.drainHost({ hostId: 'h2', options: { to: ['h4'] } });
  expect(await ended(harness, 'h2')).toMatchObject({ state: DrainState.DONE, machinesMoved: 1 });
  held.release();
  expect(await ended(harness)).toMatchObject({ state: DrainState.DONE });
});

test('a drain that ended while its host was silent is forgotten there later: a lost store would begin it anew', async () => {
  await using harness = await crowded(1);
  const held = holdAt(harness, 'h1', 'offer');
  await order(harness);
  await held.reached();
  const { drain } = agent(harness, 'h1');
  expect(drain.drain.length).toBeGreaterThan(0);
  agent(harness, 'h1').scripts.set('setDrain', async () => {
    throw new FerryError('unreachable', 'nobody is there');
  });
  await harness.drains.cancelDrain({ drainId: 'h1' });
  held.release();
  expect((await ended(harness)).state).toBe(DrainState.CANCELLED);
  await harness.settle();
  expect(agent(harness, 'h1').drain.drain.length).toBeGreaterThan(0);
  agent(harness, 'h1').scripts.delete('setDrain');
  await harness.until(async () => agent(harness, 'h1').drain.drain.length === 0 || undefined);
  const [record] = await harness.store.drains(1);
  await harness.settle();
  expect((await harness.store.drain(record!.drain.id))?.plan.forgetOwed).toBe(false);
});

describe('a coordinator that', () => {
  test('dies in mid-drain: the next one goes on', async () => {
    await using harness = await crowded(6);
    const id = await order(harness, { concurrency: 2 });
    await harness.until(async () => ((await look(harness)).machinesMoved >= 2 ? true : undefined));
    await harness.crash();
    await harness.start();
    expect(await ended(harness, id)).toMatchObject({ state: DrainState.DONE, machinesMoved: 6 });
    expect(harness.world.downMax).toBe(1);
  });

  test.each(['claimMigration', 'updateDrain'] as const)(
    'dies around %s: nothing is moved twice, all is moved',
    async (call) => {
      await using harness = await crowded(3);
      const { store } = harness;
      const real = store[call].bind(store) as (...args: unknown[]) => Promise<unknown>;
      let calls = 0;
      Object.assign(store, {
        [call]: async (...args: unknown[]) => {
          calls += 1;
          if (calls === 2) throw new FerryError('store_unreachable', 'the coordinator dies here');
          return real(...args);
        },
      });
      const id = await order(harness, { concurrency: 1 });
      await harness.until(async () => (calls >= 2 ? true : undefined));
      await harness.crash();
      await harness.start();
      const done = await ended(harness, id);
      expect(done).toMatchObject({ state: DrainState.DONE, machinesMoved: 3 });
      for (const { machineId, destination } of done.machines) {
        expect(harness.world.runningOn(machineId)).toEqual([destination]);
      }
    },
  );

  test('leaves, or stands still: another one takes over; the one that goes on again leaves the drain alone', async () => {
    await using harness = await crowded(12);
    const id = await order(harness, { concurrency: 1 });
    const first = harness.first;
    const others = [await harness.join('c2'), await harness.join('c3')];
    const driver = async () => (await harness.store.drain(id))!.driver;
    const next = (before: string) =>
      harness.until(async () => ((await driver()) === before ? undefined : await driver()));
    const own = await driver();
    await harness.leave(first);
    const second = await next(own);
    const still = others.find((each) => second.startsWith(`${each.id}/`))!;
    harness.suspend(still);
    const third = await next(second);
    expect(third.startsWith('c1/')).toBe(false);
    await harness.resume(still);
    expect(await ended(harness, id)).toMatchObject({ state: DrainState.DONE, machinesMoved: 12 });
    expect(await driver()).toBe(third);
    expect(harness.world.downMax).toBe(1);
  });

  test('has lost its drain without knowing it begins nothing more', async () => {
    await using harness = await crowded(6);
    const id = await order(harness, { concurrency: 1 });
    await harness.until(async () => ((await look(harness)).machinesMoved >= 1 ? true : undefined));
    await harness.store.endSession((await harness.store.drain(id))!.driver);
    expect((await harness.store.takeDrain(id, 'c9/elsewhere')).kind).toBe('taken');
    const { version } = (await harness.store.drain(id))!;
    // Until it has begun another session, which takes the drain again.
    await harness.until(async () => {
      const now = (await harness.store.drain(id))!;
      if (now.driver !== 'c9/elsewhere') return true;
      expect(now.version).toBe(version);
      return undefined;
    });
    expect(await ended(harness, id)).toMatchObject({ state: DrainState.DONE, machinesMoved: 6 });
  });

  test('does not drive may be asked, watched, and told to pause', async () => {
    await using harness = await crowded(6);
    const id = await order(harness, { concurrency: 1 });
    const second = await harness.join('c2');
    const there = harness.client(DrainService, second);
    await there.pauseDrain({ drainId: id });
    expect((await look(harness, id)).state).toBe(DrainState.PAUSED);
    const seen: Drain[] = [];
    const watching = (async () => {
      for await (const { drain } of there.watchDrain({ drainId: 'h1' })) seen.push(drain!);
    })();
    await there.resumeDrain({ drainId: id });
    await ended(harness, id);
    await harness.until(async () => (seen.at(-1)?.endedAt === undefined ? undefined : true));
    await watching;
    expect(seen.at(-1)?.state).toBe(DrainState.DONE);
    expect(seen.length).toBeGreaterThan(1);
    expect((await harness.store.drain(id))!.driver).toContain('c1/');
  });
});

test('a drain that only its agent remembers is known again after the store was lost, and goes on', async () => {
  await using harness = await crowded(5);
  const id = await order(harness, { concurrency: 1 });
  await harness.until(async () => ((await look(harness)).machinesMoved >= 1 ? true : undefined));
  await harness.crash();
  harness.forget();
  await harness.start();
  const done = await ended(harness, id);
  expect(done).toMatchObject({ id, state: DrainState.DONE, orderedBy: 'ops', machinesTotal: 5, machinesMoved: 5 });
  expect([...agent(harness, 'h1').machines.values()].filter(({ state }) => state !== MachineState.MIGRATED)).toEqual(
    [],
  );
  expect(agent(harness, 'h1').drain.drain).toHaveLength(0);
});

test('drains are listed newest first, without their Machines', async () => {
  await using harness = await crowded(1);
  const id = await order(harness);
  const { drains } = await harness.drains.listDrains({ openOnly: true });
  expect(drains.map(({ id: each, machines, machinesTotal }) => [each, machines.length, machinesTotal])).toEqual([
    [id, 0, 1],
  ]);
  await ended(harness);
  expect((await harness.drains.listDrains({ openOnly: true })).drains).toEqual([]);
  expect((await harness.drains.listDrains({})).drains).toHaveLength(1);
});
