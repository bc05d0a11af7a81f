import type { Command } from 'commander';
import {
  ClusterService,
  DrainService,
  GetStatusResponseSchema,
  HostService,
  ListDrainsResponseSchema,
  ListHostsResponseSchema,
  ListLocksResponseSchema,
  ListMachinesResponseSchema,
  ListMigrationsResponseSchema,
  LockService,
  MachineService,
  MigrationService,
} from '../proto/gen/ferry/v1/coordinator_pb.ts';
import { type Drain, DrainState } from '../proto/gen/ferry/v1/drain_pb.ts';
import { toFerryError } from '../shared/error.ts';
import { type CommonOptions, type Outcome, Session, type Terminal, withCommonOptions } from './context.ts';
import { jsonLine } from './output/json.ts';
import { renderStatus } from './output/status.ts';

/** Drains that are looked through for those of concern. */
const drainsMax = 200;

/** Registers `ferry status`. */
export function registerStatus(program: Command, terminal: Terminal, _outcome: Outcome): void {
  withCommonOptions(program.command('status'))
    .description('the whole cluster at a glance: what needs attention first, and the next command for it')
    .addHelpText('after', '\nExample: ferry status')
    .action(async (options: CommonOptions) => {
      const session = new Session(terminal, options);
      // Finds a coordinator that answers; the lists are then asked of that one.
      const status = await session.call((call) => session.client(ClusterService).getStatus({}, call));
      const missing: string[] = [];
      // A part that cannot be had (a store that is gone, say) must not hide the others.
      const part = async <T>(what: string, asked: Promise<T>): Promise<T | undefined> => {
        try {
          return await asked;
        } catch (thrown) {
          const error = toFerryError(thrown);
          missing.push(`${what}: ${error.message} [${error.reason}]`);
          return undefined;
        }
      };
      const call = { timeoutMs: 10_000 };
      const [hosts, machines, migrations, locks, drains] = await Promise.all([
        part('hosts', session.client(HostService).listHosts({}, call)),
        part('Machines', session.client(MachineService).listMachines({}, call)),
        part('migrations', session.client(MigrationService).listMigrations({ openOnly: true }, call)),
        part('locks', session.client(LockService).listLocks({}, call)),
        part('drains', session.client(DrainService).listDrains({ limit: drainsMax }, call)),
      ]);
      if (drains !== undefined) drains.drains = ofConcern(drains.drains);
      if (session.json) {
        const document = {
          coordinator: session.coordinator,
          status: JSON.parse(jsonLine(GetStatusResponseSchema, status)),
          ...(hosts && JSON.parse(jsonLine(ListHostsResponseSchema, hosts))),
          ...(machines && JSON.parse(jsonLine(ListMachinesResponseSchema, machines))),
          ...(migrations && JSON.parse(jsonLine(ListMigrationsResponseSchema, migrations))),
          ...(locks && JSON.parse(jsonLine(ListLocksResponseSchema, locks))),
          ...(drains && JSON.parse(jsonLine(ListDrainsResponseSchema, drains))),
          missing,
        };
        terminal.out(`${JSON.stringify(document, undefined, 2)}\n`);
        return;
      }
      terminal.out(
        renderStatus({
          asked: session.coordinator,
          status,
          hosts: hosts?.hosts,
          machines: machines?.machines,
          migrations: migrations?.migrations,
          locks: locks?.locks,
          drains: drains?.drains,
          missing,
        }),
      );
    });
}

/** Drains that go on, and those that were blocked and that no newer drain of their host has followed. Given newest first. */
function ofConcern(drains: readonly Drain[]): Drain[] {
  const followed = new Set<string>();
  return drains.filter(({ hostId, state, endedAt }) => {
    const isNewest = !followed.has(hostId);
    followed.add(hostId);
    return endedAt === undefined || (isNewest && state === DrainState.BLOCKED);
  });
}
