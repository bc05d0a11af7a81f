import { Code, ConnectError } from '@connectrpc/connect';
import { ErrorDetailSchema } from '../proto/gen/ferry/v1/error_pb.ts';
import { type Disposition, isReason, type Reason, reasons } from './reasons.ts';

/** What an error says besides its reason and message. */
export interface FerryErrorOptions {
  /** Path of the request field that was wrong. */
  readonly field?: string;
  /** What would have been right. */
  readonly expected?: string;
  /** What to do next; the reason's remedy when left out. */
  readonly nextAction?: string;
  /** IDs, host names, numbers as decimal text. */
  readonly facts?: Readonly<Record<string, string>>;
  readonly cause?: unknown;
}

/** The one error type of Ferry: a reason of the closed list decides everything; the text is for people. */
export class FerryError extends Error {
  override readonly name = 'FerryError';
  readonly reason: Reason;
  readonly field: string;
  readonly expected: string;
  readonly nextAction: string;
  readonly facts: Readonly<Record<string, string>>;

  constructor(reason: Reason, message: string, options: FerryErrorOptions = {}) {
    super(message, { cause: options.cause });
    this.reason = reason;
    this.field = options.field ?? '';
    this.expected = options.expected ?? '';
    this.nextAction = options.nextAction ?? reasons[reason].remedy;
    this.facts = options.facts ?? {};
  }

  /** What a driver of a migration does about it. */
  get disposition(): Disposition {
    return reasons[this.reason].disposition;
  }
}

/** The error for a wrong request field: what was found, and what would have been right. */
export function invalidArgument(field: string, found: string, expected: string): FerryError {
  return new FerryError('invalid_argument', `${field}: ${found}; expected ${expected}`, { field, expected });
}

const reasonOfCode: Partial<Record<Code, Reason>> = {
  [Code.Unavailable]: 'unreachable',
  [Code.DeadlineExceeded]: 'deadline',
  [Code.Canceled]: 'cancelled',
  // Ours carry a detail; without one it is the transport's limit of a message.
  [Code.ResourceExhausted]: 'too_large',
  [Code.InvalidArgument]: 'invalid_argument',
  [Code.Unimplemented]: 'unsupported',
};

const reasonOfErrno: Record<string, Reason> = {
  ENOSPC: 'no_space',
  EDQUOT: 'no_space',
  EIO: 'io_error',
  EROFS: 'io_error',
};

function errnoOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : undefined;
}

/** Turns whatever was thrown into a FerryError, by type, error number or attached detail; never by its text. */
export function toFerryError(error: unknown): FerryError {
  for (let cause = error, depth = 0; cause !== undefined && cause !== null && depth < 8; depth += 1) {
    if (cause instanceof FerryError) return cause;
    const errno = reasonOfErrno[errnoOf(cause) ?? ''];
    if (errno !== undefined) return new FerryError(errno, (cause as Error).message, { cause: error });
    const reason = (cause as { reason?: unknown }).reason;
    if (typeof reason === 'string' && isReason(reason))
      return new FerryError(reason, (cause as Error).message, { cause: error });
    cause = (cause as { cause?: unknown }).cause;
  }
  if (error instanceof ConnectError) return fromConnectError(error);
  return new FerryError('internal', error instanceof Error ? error.message : String(error), { cause: error });
}

/** Reads the typed detail of an RPC error. */
export function fromConnectError(error: ConnectError): FerryError {
  const detail = error.findDetails(ErrorDetailSchema)[0];
  if (detail !== undefined && isReason(detail.reason)) {
    return new FerryError(detail.reason, error.rawMessage, {
      field: detail.field,
      expected: detail.expected,
      nextAction: detail.nextAction,
      facts: detail.facts,
      cause: error,
    });
  }
  return new FerryError(reasonOfCode[error.code] ?? 'internal', error.rawMessage, { cause: error });
}

/** The RPC error of an error: the reason's code and the typed detail. */
export function toConnectError(error: unknown): ConnectError {
  if (error instanceof ConnectError && error.findDetails(ErrorDetailSchema).length > 0) return error;
  if (error instanceof ConnectError && error.cause === undefined) return error;
  const known = toFerryError(error);
  const { reason, field, expected, nextAction } = known;
  return new ConnectError(
    known.message,
    reasons[reason].code,
    undefined,
    [{ desc: ErrorDetailSchema, value: { reason, field, expected, nextAction, facts: { ...known.facts } } }],
    error,
  );
}
