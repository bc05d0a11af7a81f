/** The promises I1–I5, I7 and I9, told from processes and bytes: never from what the functions think of themselves. */
import type { Step } from './search.ts';
import {
  FREED,
  type Host,
  hostName,
  migrationName,
  retainedSlot,
  type Scope,
  type Volume,
  type World,
} from './world.ts';

export function broken(scope: Scope, before: World, step: Step<World>): string | null {
  const { next: after } = step;
  return (
    oneHostRuns(after) ??
    whatRunsIsOwned(after) ??
    latestIsKept(scope, after) ??
    epochsRise(before, after) ??
    retainedIsKept(scope, before, after) ??
    rowsGoForward(before, after) ??
    oneWordOnly(after)
  );
}

function oneHostRuns(world: World): string | null {
  const running = world.hosts.flatMap((host, number) => (host.process === null ? [] : [hostName(number)]));
  return running.length > 1 ? `I1: the Machine runs on ${running.join(' and ')}` : null;
}

function whatRunsIsOwned(world: World): string | null {
  const owners = world.hosts.flatMap((host, number) => (ownedVolume(host) === null ? [] : [hostName(number)]));
  if (owners.length > 1) return `I2: the markers on ${owners.join(' and ')} both say owned`;
  for (const [number, host] of world.hosts.entries()) {
    if (host.process === null) continue;
    const volume = host.volumes[host.process.slot] ?? null;
    if (volume?.marker?.state !== 'owned') return `I2: what runs on ${hostName(number)} is not owned by it`;
  }
  return null;
}

/** With stale sums the owner may have old data (and parks for it): then the retained volume must be there still. */
function latestIsKept(scope: Scope, world: World): string | null {
  const kept = world.hosts.some((host) => host.volumes.some((volume) => volume?.data === world.latest));
  if (!kept) return `I3: no host has the acknowledged write ${world.latest} any more`;
  if (scope.staleSums) return null;
  for (const [number, host] of world.hosts.entries()) {
    const volume = ownedVolume(host);
    if (volume !== null && volume.data !== world.latest) {
      return `I3: the owner ${hostName(number)} has the data of write ${volume.data}, acknowledged is ${world.latest}`;
    }
  }
  return null;
}

/** Who becomes owner does so at an epoch above all that any host ever had. */
function epochsRise(before: World, after: World): string | null {
  if (before.hosts === after.hosts) return null;
  let highest = 0;
  for (const host of before.hosts) highest = Math.max(highest, highestEpoch(host));
  for (const [number, host] of after.hosts.entries()) {
    const old = before.hosts[number] as Host;
    if (host.volumes === old.volumes) continue;
    const is = ownedVolume(host)?.marker?.epoch;
    const was = ownedVolume(old)?.marker?.epoch;
    if (is !== undefined && is !== was && is <= highest) {
      return `I4: ${hostName(number)} became owner at epoch ${is}, though epoch ${highest} was owned already`;
    }
    if (highestEpoch(host) < highestEpoch(old)) return `I4: the epoch on ${hostName(number)} fell`;
  }
  return null;
}

/** A retained volume goes only with that epoch's settlement and after the retention time. */
function retainedIsKept(scope: Scope, before: World, after: World): string | null {
  for (const [migration, { source }] of scope.migrations.entries()) {
    const slot = retainedSlot(scope, migration);
    const was = before.hosts[source]?.volumes[slot] ?? null;
    const is = after.hosts[source]?.volumes[slot] ?? null;
    if (
      was === null ||
      was.data === FREED ||
      is?.data !== FREED ||
      was.marker?.state === 'receiving' ||
      was.marker === null
    )
      continue;
    const epoch = was.marker.epoch;
    const settling = before.known.findIndex((known) => known.type === 'settlement' && known.body.epoch === epoch + 1);
    if (settling < 0) return `I5: the volume of epoch ${epoch} went without a settlement of that epoch`;
    if (!before.late[before.known[settling]?.migration ?? 0])
      return `I5: the volume of epoch ${epoch} went before its retention time`;
  }
  return null;
}

/** No term goes back, and an ID that has ended at an agent never lives again there; a journal put back is told apart. */
function rowsGoForward(before: World, after: World): string | null {
  if (before.restoresLeft !== after.restoresLeft || before.hosts === after.hosts) return null;
  for (const [number, host] of after.hosts.entries()) {
    const old = before.hosts[number] as Host;
    if (old.journal === host.journal) continue;
    const pairs = [
      ...host.journal.sources.map((row, index) => [old.journal.sources[index] ?? null, row, index] as const),
      ...host.journal.destinations.map((row, index) => [old.journal.destinations[index] ?? null, row, index] as const),
    ];
    for (const [was, is, migration] of pairs) {
      if (was === null || was === is) continue;
      if (is === null || is.term < was.term)
        return `I7: the term of ${migrationName(migration)} went back on ${hostName(number)}`;
      const over = was.step === 'aborted' || was.step === 'declined' || was.step === 'returned' || was.step === 'owner';
      if (over && is.step !== was.step)
        return `I9: ${migrationName(migration)} was ${was.step} on ${hostName(number)} and is ${is.step} again`;
    }
  }
  return null;
}

/** Of one migration one ticket leaves at most, and never both a settlement and a decline of one copy, or an answer "aborted". */
function oneWordOnly(world: World): string | null {
  for (const [index, a] of world.known.entries()) {
    for (const b of world.known.slice(index + 1)) {
      if (a.migration !== b.migration) continue;
      const types = [a.type, b.type];
      if (types.includes('aborted') && types.includes('settlement')) {
        return `I9: ${migrationName(a.migration)} was answered aborted, yet the destination took it`;
      }
      if (a.body.volumeId !== b.body.volumeId) continue;
      if (a.type === 'ticket' && b.type === 'ticket') return `I9: two tickets of ${migrationName(a.migration)}`;
      if (types.includes('settlement') && types.includes('decline')) {
        return `I9: ${migrationName(a.migration)} was both settled and declined`;
      }
    }
  }
  return null;
}

function ownedVolume(host: Host): Volume | null {
  const sealed = highestEpoch(host);
  const volume =
    host.volumes.find((other) => other?.marker?.epoch === sealed && other.marker.state !== 'receiving') ?? null;
  return volume?.marker?.state === 'owned' ? volume : null;
}

function highestEpoch(host: Host): number {
  let highest = 0;
  for (const volume of host.volumes) {
    if (volume?.marker && volume.marker.state !== 'receiving') highest = Math.max(highest, volume.marker.epoch);
  }
  return highest;
}
