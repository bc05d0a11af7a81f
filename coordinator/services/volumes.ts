import type { ServiceImpl } from '@connectrpc/connect';
import type { VolumeService } from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import type { Volume } from '../../proto/gen/ferry/v1/volume_pb.ts';
import { FerryError, invalidArgument, toFerryError } from '../../shared/error.ts';
import { checkId, newVolumeId } from '../../shared/ids.ts';
import type { Random } from '../../shared/random.ts';
import { type Agents, isSilence } from '../agents.ts';
import type { Roster } from '../roster.ts';
import { boundedMs, boundedText } from './validate.ts';

const sizeBytesMin = 1n << 20n;
const sizeBytesMax = 1n << 44n;
const pathMax = 4096;
const createMsMax = 60_000;
/** An import copies the image, unless the file system can share its bytes. */
const importMsMax = 1_800_000;
const ttlMsDefault = 600_000;
const ttlMsMax = 86_400_000;

/** What volumes need. */
export interface VolumeParts {
  readonly roster: Roster;
  readonly agents: Agents;
  readonly random: Random;
}

/** VolumeService: the coordinator keeps no list of volumes; it asks the hosts. */
export function volumeService({ roster, agents, random }: VolumeParts): ServiceImpl<typeof VolumeService> {
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

    destroyVolume: async ({ volumeId }) => {
      const { hostId } = await find(volumeId);
      await agents.machines(hostId, (client, options) => client.agentDestroyVolume({ volumeId }, options), {
        timeoutMs: 30_000,
      });
      return {};
    },
  };
}
