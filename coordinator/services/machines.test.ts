import { expect, test } from 'vitest';
import { HostStatus, MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { FerryError } from '../../shared/error.ts';
import { Harness, refusal } from '../testing/harness.ts';

async function twoHosts(): Promise<Harness> {
  const harness = new Harness();
  harness.world.add('h1', { region: 'ams' });
  harness.world.add('h2', { region: 'fra' });
  await harness.start();
  return harness;
}

const config = { image: '/bin/true' };

test('run: an ID, a name, a network and a host; defaults filled in; found at once', async () => {
  await using harness = await twoHosts();
  const { machine } = await harness.machines.runMachine({ app: 'shop', config, region: 'fra' });
  expect(machine).toMatchObject({ app: 'shop', network: 'default', hostId: 'h2', hostStatus: HostStatus.OK });
  expect(machine?.name).toMatch(/^shop-/);
  expect(machine?.config?.stopConfig?.signal).toBe('SIGINT');
  expect((await harness.machines.listMachines({ app: 'shop' })).machines).toHaveLength(1);
  expect((await harness.store.networks()).get('default')).toBeGreaterThan(0);
  const { machine: seen } = await harness.machines.getMachine({ machineId: machine!.id });
  expect(seen?.id).toBe(machine?.id);
});

test('an app keeps its network; a name is unique within its app', async () => {
  await using harness = await twoHosts();
  await harness.machines.runMachine({ app: 'shop', name: 'web', network: 'alpha', config });
  const { machine } = await harness.machines.runMachine({ app: 'shop', name: 'web2', config });
  expect(machine?.network).toBe('alpha');
  expect(await refusal(harness.machines.runMachine({ app: 'shop', network: 'beta', config }))).toMatchObject({
    reason: 'invalid_argument',
    field: 'network',
  });
  expect(await refusal(harness.machines.runMachine({ app: 'shop', name: 'web', config }))).toMatchObject({
    reason: 'machine_exists',
    field: 'name',
  });
  const other = await harness.machines.runMachine({ app: 'bank', name: 'web', config });
  expect(other.machine?.network).toBe('default');
});

test('a creation whose answer was lost is repeated under the same ID', async () => {
  await using harness = await twoHosts();
  let lost = false;
  harness.world.agents.get('h1')!.scripts.set('createMachine', (when) => {
    if (when === 'before' || lost) return;
    lost = true;
    throw new FerryError('deadline', 'lost');
  });
  const { machine } = await harness.machines.runMachine({ app: 'shop', hostId: 'h1', config });
  expect(lost).toBe(true);
  expect([...harness.world.agents.get('h1')!.machines.keys()]).toEqual([machine!.id]);
});

test.each([
  ['app', { app: '' }],
  ['name', { name: 'A b' }],
  ['network', { network: '../x' }],
  ['region', { region: 'A' }],
  ['config.image', { config: {} }],
  ['config.stop_config.signal', { config: { ...config, stopConfig: { signal: 'SIGNULL' } } }],
  ['host_id', { hostId: 'h9' }],
])('run refuses a wrong %s, and creates nothing', async (field, changes) => {
  await using harness = await twoHosts();
  const error = await refusal(harness.machines.runMachine({ app: 'shop', config, ...changes }));
  expect(error.field).toBe(field);
  expect(harness.world.log.filter((line) => line.endsWith('createMachine'))).toEqual([]);
});

test('stop, start and destroy go to the owner; a destroyed Machine is forgotten', async () => {
  await using harness = await twoHosts();
  const { machine } = await harness.machines.runMachine({ app: 'shop', config });
  const machineId = machine!.id;
  const stopped = await harness.machines.stopMachine({ machineId, signal: 'SIGTERM' });
  expect(stopped.machine?.state).toBe(MachineState.STOPPED);
  expect((await harness.machines.startMachine({ machineId })).machine?.state).toBe(MachineState.STARTED);
  expect((await harness.machines.restartMachine({ machineId })).machine?.state).toBe(MachineState.STARTED);
  await harness.machines.destroyMachine({ machineId, force: true });
  expect(await refusal(harness.machines.getMachine({ machineId }))).toMatchObject({
    reason: 'unknown_machine',
    field: 'machine_id',
  });
});

test.each([
  ['signal', { signal: 'SIGSTOP' }],
  ['timeout', { timeout: { seconds: 301n } }],
  ['machine_id', { machineId: 'x' }],
])('stop refuses a wrong %s', async (field, changes) => {
  await using harness = await twoHosts();
  const { machine } = await harness.machines.runMachine({ app: 'shop', config });
  const error = await refusal(harness.machines.stopMachine({ machineId: machine!.id, ...changes }));
  expect(error).toMatchObject({ reason: 'invalid_argument', field });
});
