import type { ServiceImpl } from '@connectrpc/connect';
import type { VolumeService } from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import type { Volume } from '../../proto/gen/ferry/v1/volume_pb.ts';
import { FerryError, invalidArgument, toFerryError } from '../../shared/error.ts';
import { checkId, newVolumeId } from '../../shared/ids.ts';
import type { Random } from '../../shared/random.ts';
import { type Agents, isSilence } from '../agents.ts';
import type { MigrationBook } from '../migrations/book.ts';
import type { Roster } from '../roster.ts';
import type { Store } from '../store/store.ts';
import { boundedMs, boundedText } from './validate.ts';

const sizeBytesMin = 1n << 20n;
const sizeBytesMax = 1n << 44n;
const pathMax = 4096;
const createMsMax = 60_000;
/** An import copies the image, unless the file system can share its bytes. */
const importMsMax = 1_800_000;
const orderedByMax = 200;
const ttlMsDefault = 600_000;
const ttlMsMax = 86_400_000;

/** What volumes need. */
export interface VolumeParts {
  readonly store: Pick<Store, 'placement'>;
  readonly book: MigrationBook;
  readonly roster: Roster;
  readonly agents: Agents;
  readonly random: Random;
}

/** VolumeService: the coordinator keeps no list of volumes; it asks the hosts. */
export function volumeService({ store, book, roster, agents, random }: VolumeParts): ServiceImpl<typeof VolumeService> {
  const volumesAt = async (hostId: string): Promise<Volume[]> => {
    const { volumes } = await agents.machines(hostId, (client, options) => client.agentListVolumes({}, options), {
      timeoutMs: 3000,
    });
    for (const volume of volumes) volume.hostId = hostId;
    return volumes;
  };

  const volumesEverywhere = async () => {
    const silent: string[] = [];
    const lists = await Promise.all(
      (await roster.hosts()).map(async ({ id }) => {
        try {
          return await volumesAt(id);
        } catch (thrown) {
          const error = toFerryError(thrown);
          if (!isSilence(error)) throw error;
          silent.push(id);
          return [];
        }
      }),
    );
    return { volumes: lists.flat(), silent };
  };

  const find = async (volumeId: string): Promise<Volume> => {
    checkId('volume', volumeId, 'volume_id');
    const { volumes, silent } = await volumesEverywhere();
    const volume = volumes.find((each) => each.id === volumeId);
    if (volume !== undefined) return volume;
    const but = silent.length === 0 ? '' : ` that answers (silent: ${silent.join(', ')})`;
    throw new FerryError('unknown_volume', `no host${but} has volume ${volumeId}`, {
      field: 'volume_id',
      facts: { volume: volumeId, silent: silent.join(',') },
    });
  };

  /** In the event log of the Machine, where it is now. */
  const noteAcceptance = async (volume: Volume, orderedBy: string): Promise<void> => {
    const { machineId, migrationId, hostId: sourceHost, id: sourceVolumeId } = volume;
    const placement = await store.placement(machineId);
    if (placement === undefined) return;
    const { hostId } = placement;
    const event = {
      type: 'accept',
      source: 'user',
      migration: { migrationId, sourceHost, sourceVolumeId, orderedBy },
      message: `${acceptedText(volume, orderedBy)}: ${volume.differs}`,
    };
    await agents.machines(hostId, (client, options) => client.agentNoteEvent({ machineId, event }, options));
  };

  /** The parked migration has its answer; one that a lost store does not know needs none. */
  const answer = async (volume: Volume, orderedBy: string): Promise<void> => {
    try {
      await book.update(volume.migrationId, ({ migration }) => {
        migration.answered = acceptedText(volume, orderedBy);
        migration.nextAction = 'Nothing: it has been answered.';
      });
    } catch (error) {
      if (toFerryError(error).reason !== 'unknown_migration') throw error;
    }
  };

  return {
    createVolume: async ({ name, sizeBytes, hostId, fromPath }) => {
      checkId('name', name, 'name');
      // A volume that begins with a disk image may have the image's own size.
      const isGiven = fromPath === '' || sizeBytes > 0n;
      boundedText(fromPath, 'from_path', pathMax);
      if (isGiven && (sizeBytes < sizeBytesMin || sizeBytes > sizeBytesMax || sizeBytes % 4096n !== 0n)) {
        throw invalidArgument('size_bytes', `is ${sizeBytes}`, 'a multiple of 4096 from 1 MiB to 16 TiB');
      }
      await roster.host(checkId('name', hostId, 'host_id'));
      const volumeId = newVolumeId(random);
      const { volume } = await agents.machines(
        hostId,
        (client, options) => client.agentCreateVolume({ volumeId, name, sizeBytes, fromPath }, options),
        { timeoutMs: fromPath === '' ? createMsMax : importMsMax },
      );
      return volume === undefined ? {} : { volume };
    },

    listVolumes: async ({ hostId }) => {
      if (hostId === '') return { volumes: (await volumesEverywhere()).volumes };
      await roster.host(checkId('name', hostId, 'host_id'));
      return { volumes: await volumesAt(hostId) };
    },

    getVolume: async ({ volumeId }) => ({ volume: await find(volumeId) }),

    exportVolume: async ({ volumeId, ttl }) => {
      boundedMs(ttl, 'ttl', { msMin: 1000, msMax: ttlMsMax, fallbackMs: ttlMsDefault });
      const { hostId } = await find(volumeId);
      const answer = await agents.machines(hostId, (client, options) =>
        client.agentExportVolume({ volumeId, ...(ttl === undefined ? {} : { ttl }) }, options),
      );
      return answer.export === undefined ? {} : { export: answer.export };
    },

    destroyVolume: async (request) => {
      const { volumeId, force } = request;
      const orderedBy = boundedText(request.orderedBy, 'ordered_by', orderedByMax);
      const volume = await find(volumeId);
      const accepts = force && volume.differs !== '';
      // First where everybody sees it: what cannot be written there is not done.
      if (accepts) await noteAcceptance(volume, orderedBy);
      const { volume: left } = await agents.machines(
        volume.hostId,
        (client, options) => client.agentDestroyVolume({ volumeId, force, orderedBy }, options),
        { timeoutMs: 30_000 },
      );
      if (left === undefined) return {};
      left.hostId = volume.hostId;
      if (accepts) await answer(left, orderedBy);
      return { volume: left };
    },
  };
}

/** In words, for a person who looks at a migration or a Machine. */
function acceptedText({ id, hostId }: Volume, orderedBy: string): string {
  const who = orderedBy === '' ? 'an operator' : orderedBy;
  return `${who} goes on with what moved; the copy ${id} that ${hostId} kept, and that differs, goes after its retention time`;
}
