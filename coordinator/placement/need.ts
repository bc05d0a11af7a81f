import type { Machine } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { roomOf } from './room.ts';
import type { Need, Site } from './site.ts';
import type { VolumeFacts } from './volumes.ts';

/** Where a Machine may go. */
export interface Wishes {
  readonly to?: Iterable<string>;
  readonly not?: ReadonlyMap<string, string>;
  /** Any region; else the one of the host that it is on. Hosts that were named may be anywhere, too. */
  readonly anyRegion?: boolean;
}

/** What a Machine that exists wants of another host; `volume` is undefined without one, or when its host is silent. */
export function needOfMove(machine: Machine, source: Site, volume: VolumeFacts | undefined, wishes: Wishes = {}): Need {
  const to = new Set(wishes.to);
  return {
    app: machine.app,
    room: roomOf(machine.config, volume?.allocatedBytes),
    // Where nothing can be mounted, the program works on the raw image, and goes on doing so elsewhere.
    mount: volume?.isExt4 === true && source.capabilities.has('mount'),
    region: wishes.anyRegion === true || to.size > 0 ? '' : source.region,
    to,
    not: new Map([...(wishes.not ?? []), [source.id, 'the Machine is there already']]),
  };
}
