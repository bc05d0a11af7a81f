import type { Command } from 'commander';
import {
  CordonHostResponseSchema,
  GetHostStatusResponseSchema,
  HostService,
  ListHostsResponseSchema,
  RemoveHostResponseSchema,
  UncordonHostResponseSchema,
} from '../proto/gen/ferry/v1/coordinator_pb.ts';
import type { Host } from '../proto/gen/ferry/v1/host_pb.ts';
import { FerryError } from '../shared/error.ts';
import { checkId } from '../shared/ids.ts';
import { type CommonOptions, type Outcome, Session, type Terminal, withCommonOptions } from './context.ts';
import { renderHostList, renderHostStatus } from './output/host.ts';
import { jsonDocument } from './output/json.ts';

/** Registers `ferry host ...`. */
export function registerHost(program: Command, terminal: Terminal, _outcome: Outcome): void {
  const noun = program.command('host').description('look at hosts, and say which take Machines');

  withCommonOptions(noun.command('list'))
    .description('hosts, one a line')
    .addHelpText('after', '\nExample: ferry host list')
    .action(async (options: CommonOptions) => {
      const session = new Session(terminal, options);
      const response = await session.call((call) => session.client(HostService).listHosts({}, call));
      if (session.json) terminal.out(jsonDocument(ListHostsResponseSchema, response));
      else terminal.out(renderHostList(response.hosts));
    });

  withCommonOptions(noun.command('status <host>'))
    .description('one host and its Machines')
    .addHelpText('after', '\nExample: ferry host status host-1')
    .action(async (id: string, options: CommonOptions) => {
      const session = new Session(terminal, options);
      const request = { hostId: hostId(id) };
      const response = await session.call((call) => session.client(HostService).getHostStatus(request, call));
      if (session.json) terminal.out(jsonDocument(GetHostStatusResponseSchema, response));
      else terminal.out(renderHostStatus(present(response.host), response.machines));
    });

  withCommonOptions(noun.command('cordon <host>'))
    .description('let a host take no new Machines')
    .addHelpText('after', '\nExample: ferry host cordon host-1')
    .action(async (id: string, options: CommonOptions) => {
      const session = new Session(terminal, options);
      const request = { hostId: hostId(id) };
      const response = await session.call((call) => session.client(HostService).cordonHost(request, call));
      if (session.json) terminal.out(jsonDocument(CordonHostResponseSchema, response));
      else session.line(`Host ${id} takes no new Machines; those on it stay.`);
    });

  withCommonOptions(noun.command('uncordon <host>'))
    .description('let a host take Machines again')
    .addHelpText('after', '\nExample: ferry host uncordon host-1')
    .action(async (id: string, options: CommonOptions) => {
      const session = new Session(terminal, options);
      const request = { hostId: hostId(id) };
      const response = await session.call((call) => session.client(HostService).uncordonHost(request, call));
      if (session.json) terminal.out(jsonDocument(UncordonHostResponseSchema, response));
      else session.line(`Host ${id} takes Machines again.`);
    });

  withCommonOptions(noun.command('remove <host>'))
    .description('forget a host that owns nothing and will not come back')
    .addHelpText('after', '\nExample: ferry host remove host-1')
    .action(async (id: string, options: CommonOptions) => {
      const session = new Session(terminal, options);
      const request = { hostId: hostId(id) };
      const response = await session.call((call) => session.client(HostService).removeHost(request, call));
      if (session.json) terminal.out(jsonDocument(RemoveHostResponseSchema, response));
      else session.line(`Host ${id} is forgotten; its number stays used.`);
    });
}

function hostId(text: string): string {
  return checkId('name', text, 'HOST');
}

function present(host: Host | undefined): Host {
  if (host === undefined) throw new FerryError('internal', 'the coordinator answered without the host');
  return host;
}
