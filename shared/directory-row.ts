import { isIP, isIPv6 } from 'node:net';
import { create } from '@bufbuild/protobuf';
import { type DirectoryRow, DirectoryRowSchema } from '../proto/gen/ferry/v1/directory_pb.ts';
import { type Machine, MachineState } from '../proto/gen/ferry/v1/machine_pb.ts';
import { idPatterns } from './ids.ts';

const metadataMax = 256;

/** What the directory says of a Machine: the same whether its agent or a coordinator writes it down. */
export function directoryRowOf(
  machine: Pick<
    Machine,
    'id' | 'app' | 'network' | 'hostId' | 'region' | 'epoch' | 'privateIp' | 'bindIp' | 'state' | 'config' | 'revision'
  >,
): DirectoryRow {
  const { config, state } = machine;
  return create(DirectoryRowSchema, {
    machineId: machine.id,
    app: machine.app,
    network: machine.network,
    hostId: machine.hostId,
    region: machine.region,
    epoch: machine.epoch,
    revision: machine.revision,
    privateIp: machine.privateIp,
    bindIp: machine.bindIp === machine.privateIp ? '' : machine.bindIp,
    started: state === MachineState.STARTED,
    processGroup: config?.metadata.process_group || 'app',
    metadata: { ...config?.metadata },
    skipRegistration: config?.dns?.skipRegistration ?? false,
    gone: state === MachineState.DESTROYED,
  });
}

/** Whether a row is at least as new as the one that is known: the higher epoch wins, then the higher revision, then who comes last. */
export function isNewer(row: DirectoryRow, known: DirectoryRow | undefined): boolean {
  if (known === undefined || row.epoch !== known.epoch) return known === undefined || row.epoch > known.epoch;
  return row.revision >= known.revision;
}

/** Whether two rows say the same, whatever their revisions are. */
export function saysTheSame(row: DirectoryRow, known: DirectoryRow | undefined): boolean {
  if (known === undefined) return false;
  const facts = ({ metadata, revision: _, epoch, ...rest }: DirectoryRow) =>
    JSON.stringify([Object.entries(rest).sort(), Object.entries(metadata).sort(), String(epoch)]);
  return facts(row) === facts(known);
}

/** Whether a row that arrived can be answered: IDs and addresses have their shapes. */
export function isSound({ machineId, app, privateIp, bindIp, metadata }: DirectoryRow): boolean {
  if (!idPatterns.machine.pattern.test(machineId) || !idPatterns.name.pattern.test(app)) return false;
  if (Object.keys(metadata).length > metadataMax) return false;
  return isIPv6(privateIp) && (bindIp === '' || isIP(bindIp) !== 0);
}
