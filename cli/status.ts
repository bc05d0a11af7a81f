import type { Command } from 'commander';
import {
  HostService,
  ListHostsResponseSchema,
  ListLocksResponseSchema,
  ListMachinesResponseSchema,
  ListMigrationsResponseSchema,
  LockService,
  MachineService,
  MigrationService,
} from '../proto/gen/ferry/v1/coordinator_pb.ts';
import { type CommonOptions, type Outcome, Session, type Terminal, withCommonOptions } from './context.ts';
import { renderHostList } from './output/host.ts';
import { jsonLine } from './output/json.ts';
import { renderLockList } from './output/lock.ts';
import { stateOf } from './output/machine.ts';
import { renderMigrationList } from './output/migration.ts';

/** Registers `ferry status`. */
export function registerStatus(program: Command, terminal: Terminal, _outcome: Outcome): void {
  withCommonOptions(program.command('status'))
    .description('hosts, Machines by state, open migrations and held locks at a glance')
    .addHelpText('after', '\nExample: ferry status')
    .action(async (options: CommonOptions) => {
      const session = new Session(terminal, options);
      const [hosts, machines, migrations, locks] = await Promise.all([
        session.call((call) => session.client(HostService).listHosts({}, call)),
        session.call((call) => session.client(MachineService).listMachines({}, call)),
        session.call((call) => session.client(MigrationService).listMigrations({ openOnly: true }, call)),
        session.call((call) => session.client(LockService).listLocks({}, call)),
      ]);
      if (session.json) {
        const parts = {
          ...JSON.parse(jsonLine(ListHostsResponseSchema, hosts)),
          ...JSON.parse(jsonLine(ListMachinesResponseSchema, machines)),
          ...JSON.parse(jsonLine(ListMigrationsResponseSchema, migrations)),
          ...JSON.parse(jsonLine(ListLocksResponseSchema, locks)),
        };
        terminal.out(`${JSON.stringify({ coordinator: session.coordinator, ...parts }, undefined, 2)}\n`);
        return;
      }
      const counts = new Map<string, number>();
      for (const machine of machines.machines) counts.set(stateOf(machine), (counts.get(stateOf(machine)) ?? 0) + 1);
      const byState = [...counts].map(([state, count]) => `${count} ${state}`).join(', ');
      session.line(`Coordinator: ${session.coordinator}`);
      session.line(`Machines: ${byState || 'none'}`);
      terminal.out(`\nHosts\n${renderHostList(hosts.hosts)}`);
      terminal.out(`\nOpen migrations\n${renderMigrationList(migrations.migrations)}`);
      terminal.out(`\nLocks\n${renderLockList(locks.locks)}`);
    });
}
