import type { Command } from 'commander';
import {
  CreateVolumeResponseSchema,
  DestroyVolumeResponseSchema,
  ExportVolumeResponseSchema,
  GetVolumeResponseSchema,
  ListVolumesResponseSchema,
  VolumeService,
} from '../proto/gen/ferry/v1/coordinator_pb.ts';
import type { VolumeExport } from '../proto/gen/ferry/v1/volume_pb.ts';
import { durationFromMs, parseDurationMs } from '../shared/duration.ts';
import { FerryError, invalidArgument } from '../shared/error.ts';
import { checkId } from '../shared/ids.ts';
import { type CommonOptions, type Outcome, Session, type Terminal, withCommonOptions } from './context.ts';
import { parseOrderedBy } from './options.ts';
import { jsonDocument } from './output/json.ts';
import { formatTime, parseBytes } from './output/units.ts';
import { renderVolume, renderVolumeList } from './output/volume.ts';

const createMsMax = 60_000;
/** An import copies the image, unless the file system can share its bytes. */
const importMsMax = 1_800_000;
const destroyMsMax = 45_000;

/** Registers `ferry volume ...`. */
export function registerVolume(program: Command, terminal: Terminal, _outcome: Outcome): void {
  const noun = program.command('volume').description('make, look at and export volumes');

  withCommonOptions(noun.command('create <name>'))
    .description('create a volume on a host: empty, or with the bytes of a disk image')
    .option('--size <size>', 'for example 10GiB; a bare number is GiB (with --from: default its own)')
    .option('--from <file>', 'raw disk image that it starts with; a path at the host, see below')
    .requiredOption('--host <name>', 'host that holds it')
    .addHelpText(
      'after',
      '\nThe agent of the host reads FILE, from its import folder only (flag --import-dir): put the image\nthere first. It is copied, and stays as it is.\n\nExample: ferry volume create data --size 10GiB --host host-1\nExample: ferry volume create data --from old-server.img --host host-1',
    )
    .action(async (name: string, options: CommonOptions & { size?: string; from?: string; host: string }) => {
      const session = new Session(terminal, options);
      const { size, from } = options;
      if (size === undefined && from === undefined) {
        throw invalidArgument('--size', 'is missing', 'a size such as "10GiB", or --from with a disk image');
      }
      if (from === '')
        throw invalidArgument('--from', 'is empty', "the path of a disk image in the host's import folder");
      const request = {
        name: checkId('name', name, 'NAME'),
        sizeBytes: size === undefined ? 0n : parseBytes(size, '--size'),
        hostId: checkId('name', options.host, '--host'),
        fromPath: from ?? '',
      };
      const response = await session.order(
        (call) => session.client(VolumeService).createVolume(request, call),
        from === undefined ? createMsMax : importMsMax,
      );
      if (session.json) terminal.out(jsonDocument(CreateVolumeResponseSchema, response));
      else terminal.out(renderVolume(present(response.volume)));
    });

  withCommonOptions(noun.command('list'))
    .description('volumes, one a line, copies kept after a move included')
    .option('--host <name>', 'only those of this host')
    .addHelpText('after', '\nExample: ferry volume list --host host-1')
    .action(async (options: CommonOptions & { host?: string }) => {
      const session = new Session(terminal, options);
      const request = { hostId: options.host ?? '' };
      const response = await session.call((call) => session.client(VolumeService).listVolumes(request, call));
      if (session.json) terminal.out(jsonDocument(ListVolumesResponseSchema, response));
      else terminal.out(renderVolumeList(response.volumes));
    });

  withCommonOptions(noun.command('show <id>'))
    .description('one volume')
    .addHelpText('after', '\nExample: ferry volume show vol_0123456789abcdef')
    .action(async (id: string, options: CommonOptions) => {
      const session = new Session(terminal, options);
      const request = { volumeId: volumeId(id) };
      const response = await session.call((call) => session.client(VolumeService).getVolume(request, call));
      if (session.json) terminal.out(jsonDocument(GetVolumeResponseSchema, response));
      else terminal.out(renderVolume(present(response.volume)));
    });

  withCommonOptions(noun.command('export <id>'))
    .description('open a volume, read-only, for nbdinfo, nbdcopy and qemu-img')
    .option('--ttl <time>', 'time until the export ends, at most 24h', '10m')
    .addHelpText('after', '\nExample: ferry volume export vol_0123456789abcdef --ttl 1h')
    .action(async (id: string, options: CommonOptions & { ttl: string }) => {
      const session = new Session(terminal, options);
      const request = { volumeId: volumeId(id), ttl: durationFromMs(parseDurationMs(options.ttl, '--ttl')) };
      const response = await session.call((call) => session.client(VolumeService).exportVolume(request, call));
      if (session.json) terminal.out(jsonDocument(ExportVolumeResponseSchema, response));
      else tellExport(session, present(response.export));
    });

  withCommonOptions(noun.command('destroy <id>'))
    .description('destroy a volume that belongs to no Machine, or let a kept copy go that differs from what moved')
    .option('--force', 'of a copy that differs: it was compared, and what moved is right')
    .option('--by <name>', 'who orders it (default: the user)')
    .addHelpText(
      'after',
      '\nA copy that differs is not destroyed at once: its retention time begins.\n\nExample: ferry volume destroy vol_0123456789abcdef',
    )
    .action(async (id: string, options: CommonOptions & { force?: boolean; by?: string }) => {
      const session = new Session(terminal, options);
      const orderedBy = parseOrderedBy(options.by, terminal.env);
      const request = { volumeId: volumeId(id), force: options.force ?? false, orderedBy };
      const response = await session.order(
        (call) => session.client(VolumeService).destroyVolume(request, call),
        destroyMsMax,
      );
      if (session.json) terminal.out(jsonDocument(DestroyVolumeResponseSchema, response));
      else if (response.volume === undefined) session.line(`Volume ${id} is destroyed.`);
      else session.line(`Volume ${id} is kept until ${formatTime(response.volume.destroyAt)}, then destroyed.`);
    });
}

function tellExport(session: Session, { uri, expiresAt, tls }: VolumeExport): void {
  session.line(uri);
  session.line(
    `  until ${formatTime(expiresAt)}${tls ? ', with TLS' : ''}; whoever knows this URI can read the volume`,
  );
  session.line(`  look:  nbdinfo --map '${uri}'`);
  session.line(`  copy:  nbdcopy '${uri}' copy.img`);
}

function volumeId(text: string): string {
  return checkId('volume', text, 'ID');
}

function present<T>(volume: T | undefined): T {
  if (volume === undefined) throw new FerryError('internal', 'the coordinator answered without the volume');
  return volume;
}
