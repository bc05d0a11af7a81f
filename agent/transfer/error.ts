/**
 * Why a volume copy or a checksum run ended without its result, as a closed list.
 *
 * - `aborted`: the caller's signal. What had arrived is recorded; call again to go on.
 * - `gave_up`: no byte arrived for the time the caller allowed. Call again to go on.
 * - `refused`: the source refused the connection or lacks what the copy needs; a new export must be ordered.
 * - `source_io`: the source could not read its volume. Not retried.
 * - `target_io`, `no_space`: the disk here failed or is full. Not retried.
 * - `size_mismatch`: the export or the file has another size than ordered.
 * - `reread_mismatch`: bytes read back from the disk are, for the second time, not those that were written.
 */
export type TransferReason =
  | 'aborted'
  | 'gave_up'
  | 'refused'
  | 'source_io'
  | 'target_io'
  | 'no_space'
  | 'size_mismatch'
  | 'reread_mismatch';

/** Thrown by everything in this folder; decide on `reason`, never on the text. */
export class TransferError extends Error {
  override readonly name = 'TransferError';
  readonly reason: TransferReason;
  /** Where in the volume, in bytes; null when no single place is to blame. */
  readonly offset: number | null;

  constructor(reason: TransferReason, message: string, options?: ErrorOptions & { offset?: number }) {
    super(message, options);
    this.reason = reason;
    this.offset = options?.offset ?? null;
  }
}

/** What an error of a local file means for the transfer. */
export function diskError(error: unknown, what: string): TransferError {
  if (error instanceof TransferError) return error;
  const cause = error instanceof Error ? error : new Error(String(error));
  const full = 'code' in cause && (cause.code === 'ENOSPC' || cause.code === 'EDQUOT');
  const next = full
    ? 'free space on this disk and call again: what has arrived is kept'
    : 'check the disk of this host before the copy is called again';
  return new TransferError(full ? 'no_space' : 'target_io', `${what}: ${cause.message}; ${next}`, { cause });
}
