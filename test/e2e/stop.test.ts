import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DesiredState, type Machine, MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { durationFromMs } from '../../shared/duration.ts';
import { toFerryError } from '../../shared/error.ts';
import { TestCluster } from '../harness/cluster.ts';
import { handoverAt, untilFree, untilRuns } from '../harness/drive.ts';
import { foreign } from '../harness/foreign.ts';
import { listenerConfig } from '../harness/listener.ts';
import { doubles, observe } from '../harness/observe.ts';

const isRoot = process.getuid?.() === 0;
const mounts = [{ path: '/data', sizeGb: 1, name: 'data' }];

/** Writes each signal that it gets to its volume; SIGUSR2 ends it. */
const notes = `
const { appendFileSync } = require('fs');
const folder = process.env.FERRY_VOLUME_KIND === 'ext4' ? process.env.FERRY_VOLUME_PATH : '/tmp';
for (const name of ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGTERM'])
  process.on(name, () => {
    appendFileSync(folder + '/got', name + '\\n');
    if (name === 'SIGUSR2') process.exit(3);
  });`;

/** Leaves a process behind that is in no session, group or parent of its own, and ignores signals; once only. */
const daemon = `
if [ "$1" = daemon ]; then
  trap "" INT TERM
  while :; do date +%N >>"$FERRY_VOLUME_PATH/numbers"; done
fi
[ "$1" = between ] && { setsid /bin/sh "$0" daemon & exit; }
trap "exit 0" INT
[ -e "$FERRY_VOLUME_PATH/numbers" ] || setsid /bin/sh "$0" between &
while :; do sleep 0.1; done
`;

let cluster: TestCluster;
beforeAll(async () => {
  cluster = await TestCluster.start();
});
afterAll(async () => cluster?.[Symbol.asyncDispose]());

/** Command lines of a Machine's processes, told by their environments. */
const processesOf = (machineId: string) =>
  cluster.processes().flatMap((pid) => {
    try {
      const isOurs = readFileSync(`/proc/${pid}/environ`, 'latin1').includes(machineId);
      return isOurs ? [readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')] : [];
    } catch {
      // It ended meanwhile.
      return [];
    }
  });
const exitOf = (machine: Machine) => machine.events.findLast(({ type }) => type === 'exit')?.exitEvent;
/** A file on a Machine's volume, where it is mounted now. */
const onVolume = (machine: Machine, file: string) =>
  readFileSync(join(cluster.dataDir(machine.hostId), 'mnt', machine.volumeId, file), 'utf8');

async function move(machineId: string, destination = 'host-b'): Promise<Machine> {
  const migration = await cluster.ended(await cluster.migrate(machineId, destination));
  expect(migration).toMatchObject({ state: MigrationState.MOVED, failure: '' });
  return cluster.machine(machineId);
}

describe('a program that is stopped for a migration', () => {
  test('and ignores its signal is killed after its timeout, and moves', async () => {
    const { id } = await cluster.run({
      ...listenerConfig({
        signals: "for (const s of ['SIGINT', 'SIGTERM']) process.on(s, () => {});",
        stopTimeoutMs: 1000,
      }),
    });
    const observation = observe();
    const moved = await move(id, (await cluster.machine(id)).hostId === 'host-a' ? 'host-b' : 'host-a');
    const exit = exitOf(moved);
    expect(exit).toMatchObject({ guestSignal: 'SIGKILL', requestedStop: true, restarting: false });
    expect(exit?.exitCode).toBeUndefined();
    expect(exit?.oomKilled ?? false).toBe(false);
    expect(doubles(await observation.report())).toEqual([]);
  });

  test('gets its own kill signal, once, and its exit is in the log that travels with it', async () => {
    const { id } = await cluster.run(
      {
        ...listenerConfig({ signals: notes }),
        mounts,
        stopConfig: { signal: 'SIGUSR2' },
      },
      { host: 'host-a' },
    );
    const moved = await move(id);
    if (isRoot) expect(onVolume(moved, 'got')).toBe('SIGUSR2\n');
    const exit = exitOf(moved);
    expect(exit).toMatchObject({ exitCode: 3, guestSignal: '', requestedStop: true, restarting: false });
    expect(exit?.oomKilled ?? false).toBe(false);
    expect(moved.events.map(({ type }) => type)).toEqual([
      'launch',
      'start',
      'stop',
      'exit',
      'launch',
      'start',
      'start',
    ]);
  });

  test.skipIf(!isRoot)(
    'and leaves a daemon that forked twice: nothing is copied while that one writes (needs root: a mounted volume)',
    async () => {
      const script = join(cluster.dir, 'daemon.sh');
      writeFileSync(script, daemon);
      const { id } = await cluster.run(
        { init: { exec: ['/bin/sh', script] }, mounts, stopConfig: { timeout: durationFromMs(1000) } },
        { host: 'host-a' },
      );
      const before = await cluster.machine(id);
      await cluster.until('the daemon writes', () => onVolume(before, 'numbers').split('\n').length > 10);
      const moved = await move(id);
      const migration = (await cluster.migrations.listMigrations({})).migrations[0]!;
      // Had it written on while or after the volume was read, the second reading of the kept copy would differ.
      expect(migration).toMatchObject({ settled: true, sourceRoot: migration.destinationRoot });
      const lines = onVolume(moved, 'numbers').trim().split('\n');
      expect(lines.length).toBeGreaterThan(10);
      const commands = processesOf(id);
      expect(commands).not.toEqual([]);
      expect(commands.filter((command) => command.includes('daemon.sh daemon'))).toEqual([]);
    },
  );
});

describe.skipIf(!isRoot)('a mount that someone else holds (needs root: mounts)', () => {
  test('with a working directory in it: that process is ended, and the Machine moves', async () => {
    const machine = await cluster.run({ ...listenerConfig({ stopTimeoutMs: 1000 }), mounts }, { host: 'host-a' });
    const mount = join(cluster.dataDir('host-a'), 'mnt', machine.volumeId);
    await using holder = await foreign('/bin/sh', ['-c', 'echo up; exec sleep 600'], mount);
    const ended = new Promise((resolve) => holder.child.once('exit', (_code, signal) => resolve(signal)));
    await move(machine.id);
    expect(await ended).toBe('SIGKILL');
  });

  test('from another mount namespace: it is named, the Machine runs on at its source, and moves once that one is gone', async () => {
    const machine = await cluster.run({ ...listenerConfig(), mounts }, { host: 'host-a' });
    {
      // It lets go at once of what clusters of other tests have mounted.
      const others = `awk '$5 ~ "/ferry-" && index($5, "${cluster.dir}/") != 1 { print $5 }' /proc/self/mountinfo`;
      const hold = `for each in $(${others}); do umount -l "$each"; done; echo up; exec sleep 600`;
      await using holder = await foreign('unshare', ['--mount', '--propagation', 'private', '/bin/sh', '-c', hold]);
      const migration = await cluster.ended(await cluster.migrate(machine.id, 'host-b'));
      expect(migration).toMatchObject({ state: MigrationState.MOVED_BACK, failure: 'volume_busy' });
      expect(migration.reason).toContain(`process ${holder.pid} (`);
      expect(migration.nextAction).toContain('End the processes');
      await untilRuns(cluster, 'host-a', machine.id);
    }
    await move(machine.id);
    await untilFree(cluster);
  });
});

describe('orders to a Machine that a migration holds', () => {
  test('start and stop are recorded and take effect at the destination; restart and destroy are refused with the reason', async () => {
    const { id: machineId } = await cluster.run(listenerConfig({ stopMs: 3000 }), { host: 'host-a' });
    const migrationId = await cluster.migrate(machineId, 'host-b');
    await cluster.until(
      'it is being stopped',
      async () => (await handoverAt(cluster, 'host-a', migrationId))?.step === 'stopping',
    );
    const agent = cluster.agent('host-a');
    await cluster.until(
      'it is held',
      async () => (await agent.agentGetMachine({ machineId })).machine?.migrationId === migrationId,
    );
    const refused = (action: string) =>
      agent.agentSetMachine({ machineId, action, force: true }).then(
        () => 'done',
        (error) => `${toFerryError(error).reason}: ${toFerryError(error).message}`,
      );
    for (const action of ['restart', 'destroy']) {
      const answer = await refused(action);
      expect(answer).toContain('machine_busy');
      expect(answer).toContain(migrationId);
    }
    const stop = await agent.agentSetMachine({ machineId, action: 'stop' });
    expect(stop.note).toContain(`recorded; it takes effect after migration ${migrationId} holds`);
    const start = await agent.agentSetMachine({ machineId, action: 'start' });
    expect(start.note).toContain('recorded');
    const last = await agent.agentSetMachine({ machineId, action: 'stop' });
    expect(last.machine).toMatchObject({ desiredState: DesiredState.STOPPED });
    expect(await cluster.ended(migrationId)).toMatchObject({ state: MigrationState.MOVED });
    const machine = await cluster.machine(machineId);
    expect(machine).toMatchObject({ hostId: 'host-b', desiredState: DesiredState.STOPPED });
    expect([MachineState.CREATED, MachineState.STOPPED]).toContain(machine.state);
    expect(processesOf(machineId)).toEqual([]);
  });
});
