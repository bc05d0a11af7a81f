import { create } from '@bufbuild/protobuf';
import { beforeAll, expect, test } from 'vitest';
import { HostStatus, MachineEventSchema } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { movedMachine } from '../fake-coordinator.fixture.ts';
import { eventInfo, renderMachineList, renderMachineStatus } from './machine.ts';

beforeAll(() => {
  process.env.TZ = 'Europe/Amsterdam';
});

test('machine status: head, VM block, checks, events with the newest first', () => {
  expect(renderMachineStatus(movedMachine())).toBe(`Machine ID: d8dd625fed5568
Instance ID: 01J08P60K8NK33K9P5MQ5M4QN8
State: started

VM
  ID            = d8dd625fed5568
  Instance ID   = 01J08P60K8NK33K9P5MQ5M4QN8
  State         = started
  Image         = /usr/bin/node
  Name          = ledger
  Private IP    = fdaa:0:1:2::3
  Region        = local
  Process Group = app
  CPU Kind      = shared
  vCPUs         = 1
  Memory        = 256
  Created       = 2026-11-22T11:00:00.000+01:00
  Updated       = 2026-11-22T11:00:08.000+01:00
  Entrypoint    = nice
  Command       = ledger.ts --fast
  Volume        = vol_0123456789abcdef
  App           = shop
  Network       = default
  Host          = host-2
  Bind IP       = 127.1.2.3
  Epoch         = 2

Checks
NAME  STATUS    LAST UPDATED                   OUTPUT
http  passing   2026-11-22T11:00:09.000+01:00  {"status":"ok"}
tcp   critical  2026-11-22T11:00:09.100+01:00  refused

Event Logs
STATE    EVENT   SOURCE  TIMESTAMP                      INFO
started  start   agent   2026-11-22T11:00:06.100+01:00
created  launch  agent   2026-11-22T11:00:06.000+01:00  migrated=true,from=host-1,to=host-2,volume=vol_aaaaaaaaaaaaaaaa->vol_0123456789abcdef,downtime=1.234s,exit=0.100s,copied=0.800s,verified=0.200s,started=0.034s,healthy=0.100s,write_stall=0.012s,reason=maintenance,by=alice,drain=drn_01J08P60K8NK33K9P5MQ5M4QN8
stopped  exit    agent   2026-11-22T11:00:05.000+01:00  exit_code=0,oom_killed=false,requested_stop=true
started  start   agent   2026-11-22T11:00:00.120+01:00
created  launch  user    2026-11-22T11:00:00.000+01:00
`);
});

test('machine status of a Machine that a migration holds on a host that does not answer', () => {
  const machine = movedMachine({ hostStatus: HostStatus.UNREACHABLE, migrationId: 'mig_X', reason: 'no answer' });
  const text = renderMachineStatus(machine);
  expect(text).toContain('  Host          = host-2 (does not answer; shown as last seen)\n');
  expect(text).toContain('  Migration     = mig_X\n  Reason        = no answer\n');
});

test('machine list: a star and a footer for Machines of hosts that do not answer', () => {
  const away = movedMachine({ id: 'aaaaaaaaaaaaaa', hostStatus: HostStatus.UNREACHABLE, checks: [], hostId: 'host-3' });
  expect(
    renderMachineList([movedMachine(), away]),
  ).toBe(`ID               NAME    STATE    CHECKS  REGION  IMAGE          IP ADDRESS     VOLUME                CREATED                        LAST UPDATED                   HOST
d8dd625fed5568   ledger  started  1/2     local   /usr/bin/node  fdaa:0:1:2::3  vol_0123456789abcdef  2026-11-22T11:00:00.000+01:00  2026-11-22T11:00:08.000+01:00  host-2
aaaaaaaaaaaaaa*  ledger  started          local   /usr/bin/node  fdaa:0:1:2::3  vol_0123456789abcdef  2026-11-22T11:00:00.000+01:00  2026-11-22T11:00:08.000+01:00  host-3

* The host of this Machine does not answer: shown as last seen.
`);
  expect(renderMachineList([movedMachine()])).not.toContain('*');
  expect(renderMachineList([])).toBe('No Machines.\n');
});

test.each([
  [
    { exitEvent: { guestSignal: 'SIGKILL', requestedStop: true } },
    'signal=SIGKILL,oom_killed=unknown,requested_stop=true',
  ],
  [
    { exitEvent: { exitCode: 1, oomKilled: true, restarting: true }, restartCount: 2, message: 'again' },
    'exit_code=1,oom_killed=true,requested_stop=false,restarting=true,restart_count=2 (again)',
  ],
  [{ message: 'config changed' }, 'config changed'],
  [{ migration: { migrated: false } }, ''],
])('event info %#', (event, info) => {
  expect(eventInfo(create(MachineEventSchema, event))).toBe(info);
});
