import { CommandError } from './command.ts';
import type { Holder } from './holders.ts';

/**
 * Why a volume operation failed. The list is closed; what to do follows from the reason alone:
 *
 * - `volume_not_found`: there is no such volume here.
 * - `volume_busy`: somebody still uses it; `holders`, `mounts` and `devices` say who. Kill them and call again, or park.
 * - `no_space`: the host's disk (or quota) is full. Never retried blindly: free space first.
 * - `read_only`: the disk or the folder refuses writes.
 * - `strange_content`: what is on disk is not what this store writes; `paths` names it. An operator must look.
 * - `io`: the disk failed, or a program did. Never retried blindly: after a failed sync the data is unknown.
 * - `unsupported`: this host lacks a program or a permission.
 * - `wrong_state`: the volume's ownership state or epoch does not allow it; nothing was changed.
 * - `invalid`: the argument is wrong; the message names it and what would be right.
 */
export const volumeErrorReasons = [
  'volume_not_found',
  'volume_busy',
  'no_space',
  'read_only',
  'strange_content',
  'io',
  'unsupported',
  'wrong_state',
  'invalid',
] as const;

export type VolumeErrorReason = (typeof volumeErrorReasons)[number];

export interface VolumeErrorFields {
  readonly volumeId?: string;
  /** The files that the error is about. */
  readonly paths?: readonly string[];
  /** Processes that keep the volume in use. May be empty: a holder in another PID namespace cannot be seen. */
  readonly holders?: readonly Holder[];
  /** Further mount points of the volume, or mounts on top of it, in the agent's own mount namespace. */
  readonly mounts?: readonly string[];
  /** Loop devices (`/dev/loopN`) still attached to the image. */
  readonly devices?: readonly string[];
  readonly cause?: unknown;
}

/** Thrown by everything in this folder when a volume operation fails. Decide on `reason`, never on the text. */
export class VolumeError extends Error {
  override readonly name = 'VolumeError';
  readonly reason: VolumeErrorReason;
  readonly volumeId: string | undefined;
  readonly paths: readonly string[];
  readonly holders: readonly Holder[];
  readonly mounts: readonly string[];
  readonly devices: readonly string[];

  constructor(reason: VolumeErrorReason, message: string, fields: VolumeErrorFields = {}) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.reason = reason;
    this.volumeId = fields.volumeId;
    this.paths = fields.paths ?? [];
    this.holders = fields.holders ?? [];
    this.mounts = fields.mounts ?? [];
    this.devices = fields.devices ?? [];
  }
}

/** The `code` of a Node system error (`ENOENT`, …), or undefined. */
export function errnoOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : undefined;
}

const reasonsByErrno: Readonly<Record<string, VolumeErrorReason>> = {
  ENOSPC: 'no_space',
  EDQUOT: 'no_space',
  EFBIG: 'invalid',
  EROFS: 'read_only',
  EACCES: 'read_only',
  EPERM: 'read_only',
};

/**
 * Turns any failure into a VolumeError; VolumeErrors pass unchanged.
 *
 * @param doing what was tried, as in "could not create the volume"
 */
export function toVolumeError(error: unknown, doing: string, fields: VolumeErrorFields = {}): VolumeError {
  if (error instanceof VolumeError) return error;
  const isMissing = error instanceof CommandError && error.reason === 'missing';
  const reason = isMissing ? 'unsupported' : (reasonsByErrno[errnoOf(error) ?? ''] ?? 'io');
  const what = error instanceof Error ? error.message : String(error);
  return new VolumeError(reason, `could not ${doing}: ${what}`, { ...fields, cause: error });
}
