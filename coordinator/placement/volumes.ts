import { toFerryError } from '../../shared/error.ts';
import { type Agents, isSilence } from '../agents.ts';

const timeoutMs = 3000;

/** A volume, as placement needs it. */
export interface VolumeFacts {
  readonly sizeBytes: number;
  readonly allocatedBytes: number;
  readonly isExt4: boolean;
}

/** The volumes of a host by ID, as its agent counts them now; undefined when it is silent. */
export async function volumesOf(agents: Agents, hostId: string): Promise<ReadonlyMap<string, VolumeFacts> | undefined> {
  try {
    const { volumes } = await agents.machines(hostId, (client, options) => client.agentListVolumes({}, options), {
      timeoutMs,
    });
    return new Map(
      volumes.map(({ id, sizeBytes, allocatedBytes, filesystem }) => [
        id,
        { sizeBytes: Number(sizeBytes), allocatedBytes: Number(allocatedBytes), isExt4: filesystem === 'ext4' },
      ]),
    );
  } catch (thrown) {
    const error = toFerryError(thrown);
    if (isSilence(error)) return undefined;
    throw error;
  }
}
