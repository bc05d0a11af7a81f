import { VolumeError } from './errors.ts';

const blockBytes = 4096;
const volumeBytesMin = 1024 * 1024;
const volumeBytesMax = 16 * 1024 ** 4;

/** Returns the ID if it is one; nothing else ever becomes part of a path. Throws `invalid`. */
export function validVolumeId(volumeId: string): string {
  if (/^vol_[0-9a-z]{16}$/.test(volumeId)) return volumeId;
  throw new VolumeError('invalid', `${JSON.stringify(volumeId)} is no volume ID: expected vol_ and 16 of 0-9 a-z`);
}

/** Returns the epoch if it is one. Throws `invalid`. */
export function validEpoch(epoch: number): number {
  if (Number.isSafeInteger(epoch) && epoch >= 1) return epoch;
  throw new VolumeError('invalid', `${epoch} is no epoch: expected a whole number from 1`);
}

/** Returns the size in bytes if a volume can have it. Throws `invalid`. */
export function validSize(sizeBytes: number): number {
  const isValid = sizeBytes >= volumeBytesMin && sizeBytes <= volumeBytesMax && sizeBytes % blockBytes === 0;
  if (isValid) return sizeBytes;
  const expected = `a multiple of ${blockBytes} from ${volumeBytesMin} to ${volumeBytesMax}`;
  throw new VolumeError('invalid', `${sizeBytes} is no size in bytes for a volume: expected ${expected}`);
}

/** Size of the volume that holds a file of `fileBytes`: its own, made a size that a volume can have. */
export function sizeToHold(fileBytes: number): number {
  return validSize(Math.max(volumeBytesMin, Math.ceil(fileBytes / blockBytes) * blockBytes));
}
