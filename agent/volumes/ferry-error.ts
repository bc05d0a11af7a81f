import { FerryError, toFerryError } from '../../shared/error.ts';
import type { Reason } from '../../shared/reasons.ts';
import { VolumeError, type VolumeErrorReason } from './errors.ts';

const reasonOfVolumeReason: Readonly<Record<VolumeErrorReason, Reason>> = {
  volume_not_found: 'unknown_volume',
  volume_busy: 'volume_busy',
  no_space: 'no_space',
  read_only: 'io_error',
  // Nothing that another try would change: an operator must look, so it parks like a failed disk.
  strange_content: 'io_error',
  io: 'io_error',
  unsupported: 'unsupported',
  wrong_state: 'wrong_epoch',
  invalid: 'invalid_argument',
};

/** The error that leaves the agent for whatever was thrown here; its facts name holders, mounts, devices and files. */
export function ferryErrorOf(error: unknown): FerryError {
  if (!(error instanceof VolumeError)) return toFerryError(error);
  const holders = error.holders.map(({ pid, how, command }) => `${pid} ${how} ${command}`);
  const lists = { holders, mounts: error.mounts, devices: error.devices, paths: error.paths };
  const facts: Record<string, string> = {};
  if (error.volumeId !== undefined) facts.volume_id = error.volumeId;
  for (const [name, items] of Object.entries(lists)) if (items.length > 0) facts[name] = items.slice(0, 20).join('\n');
  return new FerryError(reasonOfVolumeReason[error.reason], error.message, { facts, cause: error });
}
