import type { Command } from 'commander';
import {
  CordonHostResponseSchema,
  GetHostStatusResponseSchema,
  HostService,
  ListHostsResponseSchema,
  RemoveHostResponseSchema,
  SetCopyLimitsOfHostResponseSchema,
  UncordonHostResponseSchema,
} from '../proto/gen/ferry/v1/coordinator_pb.ts';
import type { Host } from '../proto/gen/ferry/v1/host_pb.ts';
import { FerryError, invalidArgument } from '../shared/error.ts';
import { checkId } from '../shared/ids.ts';
import { type CommonOptions, type Outcome, Session, type Terminal, withCommonOptions } from './context.ts';
import { registerHostDrain } from './host-drain.ts';
import { limitsText, renderHostList, renderHostStatus } from './output/host.ts';
import { jsonDocument } from './output/json.ts';
import { parseRate } from './output/units.ts';

/** Registers `ferry host ...`. */
export function registerHost(program: Command, terminal: Terminal, outcome: Outcome): void {
  const noun = program.command('host').description('look at hosts, empty them, and say which take Machines');

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

  registerHostDrain(noun, terminal, outcome);

  withCommonOptions(noun.command('limit <host>'))
    .description('limit the copies that leave and reach a host; felt by those under way')
    .option('--send <rate>', 'bytes a second that leave, at least 1MB, such as 50MB; or off')
    .option('--receive <rate>', 'bytes a second that arrive, the same way')
    .addHelpText(
      'after',
      '\nWhat is not named stays as it is.\n\nExample: ferry host limit host-1 --send 50MB --receive off',
    )
    .action(async (id: string, options: CommonOptions & { send?: string; receive?: string }) => {
      const session = new Session(terminal, options);
      const response = await limit(hostId(id), options, session);
      if (session.json) terminal.out(jsonDocument(SetCopyLimitsOfHostResponseSchema, response));
      else session.line(`Copies of host ${id}: ${limitsText(present(response.host).copyLimits) || 'unlimited'}.`);
    });

  withCommonOptions(noun.command('remove <host>'))
    .description('forget a host that owns nothing and will not come back')
    .addHelpText('after', '\nExample: ferry host remove host-1')
    .action(async (id: string, options: CommonOptions) => {
      const session = new Session(terminal, options);
      const request = { hostId: hostId(id) };
      const response = await session.order((call) => session.client(HostService).removeHost(request, call));
      if (session.json) terminal.out(jsonDocument(RemoveHostResponseSchema, response));
      else session.line(`Host ${id} is forgotten; its number stays used.`);
    });
}

/** Sets the limits that are named; the others stay. */
async function limit(hostId: string, options: { send?: string; receive?: string }, session: Session) {
  const { send, receive } = options;
  if (send === undefined && receive === undefined) {
    throw invalidArgument('--send, --receive', 'are both missing', 'at least one of them');
  }
  const sendNamed = send === undefined ? undefined : parseRate(send, '--send');
  const receiveNamed = receive === undefined ? undefined : parseRate(receive, '--receive');
  const { host } = await session.call((call) => session.client(HostService).getHostStatus({ hostId }, call));
  const limits = {
    sendBytesPerSecond: sendNamed ?? host?.copyLimits?.sendBytesPerSecond ?? 0n,
    receiveBytesPerSecond: receiveNamed ?? host?.copyLimits?.receiveBytesPerSecond ?? 0n,
  };
  return session.call((call) => session.client(HostService).setCopyLimitsOfHost({ hostId, limits }, call));
}

function hostId(text: string): string {
  return checkId('name', text, 'HOST');
}

function present(host: Host | undefined): Host {
  if (host === undefined) throw new FerryError('internal', 'the coordinator answered without the host');
  return host;
}
