import { type Volume, VolumeState } from '../../proto/gen/ferry/v1/volume_pb.ts';
import { keyValues, table } from './table.ts';
import { formatBytes, formatTime, word } from './units.ts';

/** `volume list`. */
export function renderVolumeList(volumes: readonly Volume[]): string {
  if (volumes.length === 0) return 'No volumes.\n';
  const rows = volumes.map((volume) => [
    volume.id,
    volume.name,
    word(VolumeState, volume.state),
    formatBytes(volume.sizeBytes),
    formatBytes(volume.allocatedBytes),
    volume.hostId,
    volume.machineId,
    formatTime(volume.createdAt),
    formatTime(volume.destroyAt),
  ]);
  return table(['ID', 'Name', 'State', 'Size', 'On disk', 'Host', 'Machine', 'Created', 'Destroyed at'], rows);
}

/** `volume show`. */
export function renderVolume(volume: Volume): string {
  const pairs: [string, string][] = [
    ['Name', volume.name],
    ['State', word(VolumeState, volume.state)],
    ['Size', formatBytes(volume.sizeBytes)],
    ['On disk', formatBytes(volume.allocatedBytes)],
    ['File system', volume.filesystem],
    ['Host', volume.hostId],
    ['Machine', volume.machineId],
    ['Epoch', String(volume.epoch)],
    ['Created', formatTime(volume.createdAt)],
  ];
  if (volume.root !== '') pairs.push(['Root', volume.root]);
  if (volume.migrationId !== '') pairs.push(['Kept after', volume.migrationId]);
  if (volume.differs !== '') pairs.push(['Differs', volume.differs]);
  if (volume.destroyAt !== undefined) pairs.push(['Destroyed at', formatTime(volume.destroyAt)]);
  return `Volume ID: ${volume.id}\n\n${keyValues(pairs)}`;
}
