import { setImmediate } from 'node:timers/promises';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { beforeEach, expect, test } from 'vitest';
import { DirectoryRowSchema } from '../proto/gen/ferry/v1/directory_pb.ts';
import { HeartbeatRequestSchema } from '../proto/gen/ferry/v1/host_pb.ts';
import { type Machine, MachineSchema, MachineState } from '../proto/gen/ferry/v1/machine_pb.ts';
import { seededRandom } from '../shared/random.ts';
import { Directory } from './directory.ts';
import type { HostRow, Placement, PlacementFilter } from './store/store.ts';

const id = 'd8dd625fed5568';

/** Placements as heartbeats to any coordinator write them. */
class FakeStore {
  readonly #placements = new Map<string, Machine>();
  reads = 0;

  put(machine: Machine): void {
    this.#placements.set(machine.id, machine);
  }

  remove(machineId: string): void {
    this.#placements.delete(machineId);
  }

  async placement(machineId: string): Promise<Placement | undefined> {
    const machine = this.#placements.get(machineId);
    return machine === undefined ? undefined : placementOf(machine);
  }

  async placements({ hostId }: PlacementFilter): Promise<readonly Placement[]> {
    this.reads += 1;
    await setImmediate();
    return [...this.#placements.values()].filter((machine) => machine.hostId === hostId).map(placementOf);
  }
}

function placementOf(machine: Machine): Placement {
  const { id: machineId, hostId, epoch, network, app } = machine;
  return { machineId, hostId, epoch, network, app, machine, seenMs: 0 };
}

let store: FakeStore;
let shut: { kind: 'store'; subject: string; text: string } | undefined;
let directory: Directory;
beforeEach(() => {
  store = new FakeStore();
  shut = undefined;
  directory = new Directory({ store, random: seededRandom(1), gate: { shut: () => shut } });
});

function machineAt(hostId: string, facts: MessageInitShape<typeof MachineSchema> = {}): Machine {
  const state = MachineState.STARTED;
  const base = { id, app: 'shop', network: 'net', hostId, region: 'ams', state, privateIp: 'fdaa::a' };
  return create(MachineSchema, { ...base, epoch: 1n, revision: 1n, ...facts });
}

const host = (name: string, lastHeartbeatMs = 1): HostRow =>
  ({ id: name, lastHeartbeatMs, journalWentBack: false }) as HostRow;

let beats = 0;
/** A heartbeat with these Machines, to this coordinator; the store has them first. */
async function beat(
  name: string,
  machines: readonly Machine[],
  known = { id: '', version: 0n },
  others: HostRow[] = [],
) {
  for (const machine of machines) store.put(machine);
  const request = create(HeartbeatRequestSchema, {
    hostId: name,
    placements: machines.map((machine) => ({ machine })),
    directoryId: known.id,
    directoryVersion: known.version,
  });
  beats += 1;
  const update = await directory.exchange(request, host(name, beats), others);
  return { ...update!, known: { id: update?.directoryId ?? '', version: update?.version ?? 0n } };
}

const facts = (update: { rows: readonly { hostId: string; epoch: bigint; started: boolean; gone: boolean }[] }) =>
  update.rows.map((row) => `${row.hostId} ${row.epoch} ${row.gone ? 'gone' : row.started ? 'up' : 'down'}`);

test('an agent gets all of it first, then changes, and nothing while there are none', async () => {
  const first = await beat('host-b', [], undefined, []);
  expect(first).toMatchObject({ complete: true, more: false, rows: [] });
  await beat('host-a', [machineAt('host-a')]);
  const second = await beat('host-b', [], first.known);
  expect(second).toMatchObject({ complete: false });
  expect(facts(second)).toEqual(['host-a 1 up']);
  await beat('host-a', [machineAt('host-a')]);
  expect(await beat('host-b', [], second.known)).toMatchObject({ complete: false, rows: [], version: second.version });
  expect(facts(await beat('host-c', [], { id: 'another', version: 99n }))).toEqual(['host-a 1 up']);
});

test('the higher epoch wins, then the higher revision', async () => {
  await beat('host-a', [machineAt('host-a', { epoch: 3n, revision: 5n })]);
  const first = await beat('host-b', [machineAt('host-b', { epoch: 2n, revision: 9n })]);
  expect(facts(first)).toEqual(['host-a 3 up']);
  const late = await beat(
    'host-a',
    [machineAt('host-a', { epoch: 3n, revision: 4n, state: MachineState.STOPPED })],
    first.known,
  );
  expect(late.rows).toEqual([]);
  const now = await beat(
    'host-a',
    [machineAt('host-a', { epoch: 3n, revision: 6n, state: MachineState.STOPPED })],
    first.known,
  );
  expect(facts(now)).toEqual(['host-a 3 down']);
});

test('what hosts report to another coordinator arrives by the store, read once a heartbeat', async () => {
  store.put(machineAt('host-x'));
  const first = await beat('host-a', [], undefined, [host('host-x', 10)]);
  expect(facts(first)).toEqual(['host-x 1 up']);
  store.put(machineAt('host-x', { revision: 2n, state: MachineState.STOPPED }));
  const { reads } = store;
  const none = await beat('host-a', [], first.known, [host('host-x', 10)]);
  expect(none.rows).toEqual([]);
  expect(store.reads).toBe(reads);
  expect(facts(await beat('host-a', [], first.known, [host('host-x', 12)]))).toEqual(['host-x 1 down']);
  expect(store.reads).toBe(reads + 1);
});

test('a Machine that its host has no more, nor any other, is gone; one that moved is not', async () => {
  const first = await beat('host-a', [machineAt('host-a')]);
  const held = await beat('host-a', [], first.known);
  expect(held.rows).toEqual([]);
  store.put(machineAt('host-b', { epoch: 2n, revision: 0n }));
  expect((await beat('host-a', [], first.known)).rows).toEqual([]);
  const moved = await beat('host-b', [machineAt('host-b', { epoch: 2n })], first.known);
  expect(facts(moved)).toEqual(['host-b 2 up']);
  store.remove(id);
  expect(facts(await beat('host-b', [], moved.known))).toEqual(['host-b 2 gone']);
  expect((await beat('host-c', [])).rows).toEqual([]);
});

test('a host says itself that it destroyed a Machine, for its own alone', async () => {
  const first = await beat('host-a', [machineAt('host-a')]);
  const gone = create(DirectoryRowSchema, {
    machineId: id,
    app: 'shop',
    hostId: 'host-a',
    privateIp: 'fdaa::a',
    epoch: 1n,
    revision: 9n,
    gone: true,
  });
  const say = (name: string) =>
    directory.exchange(
      create(HeartbeatRequestSchema, {
        hostId: name,
        directory: [gone],
        directoryId: first.directoryId,
        directoryVersion: first.version,
      }),
      host(name, 99),
      [],
    );
  expect((await say('host-b'))?.rows).toEqual([]);
  expect(facts((await say('host-a'))!)).toEqual(['host-a 1 gone']);
});

test('the list of a host whose journal went back takes nothing away', async () => {
  const first = await beat('host-a', [machineAt('host-a')]);
  store.remove(id);
  const request = create(HeartbeatRequestSchema, {
    hostId: 'host-a',
    directoryId: first.directoryId,
    directoryVersion: first.version,
  });
  const update = await directory.exchange(request, { ...host('host-a', 9), journalWentBack: true }, []);
  expect(update?.rows).toEqual([]);
});

test('nobody is told all while a store that was lost may lack hosts', async () => {
  shut = { kind: 'store', subject: '', text: 'the store is new' };
  const request = create(HeartbeatRequestSchema, { hostId: 'host-b' });
  expect(await directory.exchange(request, host('host-b'), [])).toBeUndefined();
  shut = undefined;
  expect(await directory.exchange(request, host('host-b', 2), [])).toMatchObject({ complete: true });
});

test('a directory with many Machines comes in pages', async () => {
  const many = Array.from({ length: 2500 }, (_, index) =>
    machineAt('host-a', { id: (index + 1).toString(16).padStart(14, '0') }),
  );
  await beat('host-a', many);
  const seen = new Set<string>();
  let update = await beat('host-b', []);
  expect(update).toMatchObject({ complete: true, more: true });
  for (let pages = 1; ; pages += 1) {
    for (const { machineId } of update.rows) seen.add(machineId);
    expect(update.rows.length).toBeLessThanOrEqual(1000);
    if (!update.more) break;
    update = await beat('host-b', [], update.known);
    expect(update.complete).toBe(false);
    expect(pages).toBeLessThan(4);
  }
  expect(seen.size).toBe(2500);
  expect((await beat('host-b', [], update.known)).rows).toEqual([]);
});

test('two agents that report at once are both answered with all of it', async () => {
  store.put(machineAt('host-x'));
  const others = [host('host-x', 10)];
  const [one, two] = await Promise.all([beat('host-a', [], undefined, others), beat('host-b', [], undefined, others)]);
  expect(facts(one)).toEqual(['host-x 1 up']);
  expect(facts(two)).toEqual(['host-x 1 up']);
});

test('more destroyed Machines than are remembered: every agent gets all of it anew', async () => {
  const first = await beat('host-b', []);
  for (let round = 0; round < 11; round += 1) {
    const some = Array.from({ length: 1000 }, (_, index) =>
      machineAt('host-a', { id: (round * 1000 + index + 1).toString(16).padStart(14, '0') }),
    );
    await beat('host-a', some);
    for (const machine of some) store.remove(machine.id);
    await beat('host-a', []);
  }
  const last = await beat('host-b', [], first.known);
  expect(last.directoryId).not.toBe(first.directoryId);
  expect(last).toMatchObject({ complete: true, more: false, rows: [] });
});

test('a host that many agents are behind of is read once for all of them', async () => {
  store.put(machineAt('host-a'));
  const others = [host('host-a', 77)];
  const names = ['host-b', 'host-c', 'host-d', 'host-e'];
  const updates = await Promise.all(names.map((name) => beat(name, [], undefined, others)));
  for (const update of updates) expect(facts(update)).toEqual(['host-a 1 up']);
  expect(store.reads).toBe(1);
});

test('what it knew of a host that was removed is forgotten', async () => {
  await beat('host-b', [], undefined, [host('host-a')]);
  await beat('host-b', [], undefined, [host('host-a')]);
  const { reads } = store;
  await beat('host-b', [], undefined, []);
  // One that comes back by this name is another one: it is read, whatever its heartbeat says.
  await beat('host-b', [], undefined, [host('host-a')]);
  expect(store.reads).toBe(reads + 1);
});
