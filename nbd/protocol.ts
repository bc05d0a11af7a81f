/**
 * Numbers and layouts of the NBD protocol: fixed newstyle negotiation, structured replies, block status.
 * Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
 */
import { NbdError, type NbdReason } from './error.ts';

export const GREETING_MAGIC = 0x4e42444d41474943n; // "NBDMAGIC"
export const OPTION_MAGIC = 0x49484156454f5054n; // "IHAVEOPT"
export const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;
export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;

export const OPTION_HEADER_BYTES = 16;
export const OPTION_REPLY_HEADER_BYTES = 20;
export const REQUEST_BYTES = 28;
export const SIMPLE_REPLY_BYTES = 16;
export const STRUCTURED_REPLY_BYTES = 20;
/** Header and offset in front of the data of one structured read reply. */
export const DATA_PREFIX_BYTES = STRUCTURED_REPLY_BYTES + 8;

/** Longest export name that the protocol allows, in bytes. */
export const EXPORT_NAME_BYTES_MAX = 4096;

export const HANDSHAKE_FIXED_NEWSTYLE = 1;
export const HANDSHAKE_NO_ZEROES = 2;

export const OPT_EXPORT_NAME = 1;
export const OPT_ABORT = 2;
export const OPT_LIST = 3;
export const OPT_STARTTLS = 5;
export const OPT_INFO = 6;
export const OPT_GO = 7;
export const OPT_STRUCTURED_REPLY = 8;
export const OPT_LIST_META_CONTEXT = 9;
export const OPT_SET_META_CONTEXT = 10;

export const REP_ACK = 1;
export const REP_SERVER = 2;
export const REP_INFO = 3;
export const REP_META_CONTEXT = 4;
export const REP_ERROR_BIT = 0x80000000;
export const REP_ERR_UNSUP = 0x80000001;
export const REP_ERR_POLICY = 0x80000002;
export const REP_ERR_INVALID = 0x80000003;
export const REP_ERR_TLS_REQD = 0x80000005;
export const REP_ERR_UNKNOWN = 0x80000006;
export const REP_ERR_SHUTDOWN = 0x80000007;
export const REP_ERR_TOO_BIG = 0x80000009;

export const INFO_EXPORT = 0;
export const INFO_BLOCK_SIZE = 3;

export const FLAG_HAS_FLAGS = 1;
export const FLAG_READ_ONLY = 2;
export const FLAG_SEND_DF = 128;
export const FLAG_CAN_MULTI_CONN = 256;

export const CMD_READ = 0;
export const CMD_WRITE = 1;
export const CMD_DISC = 2;
export const CMD_FLUSH = 3;
export const CMD_TRIM = 4;
export const CMD_CACHE = 5;
export const CMD_WRITE_ZEROES = 6;
export const CMD_BLOCK_STATUS = 7;
export const CMD_FLAG_REQ_ONE = 8;

export const REPLY_FLAG_DONE = 1;
export const REPLY_NONE = 0;
export const REPLY_OFFSET_DATA = 1;
export const REPLY_OFFSET_HOLE = 2;
export const REPLY_BLOCK_STATUS = 5;
export const REPLY_ERROR_BIT = 0x8000;
export const REPLY_ERROR = 0x8001;

export const EPERM = 1;
export const EIO = 5;
export const ENOMEM = 12;
export const EINVAL = 22;
export const ENOSPC = 28;
export const EOVERFLOW = 75;
export const ESHUTDOWN = 108;

/** A request of the transmission phase. `handle` is the 8 opaque bytes that its reply repeats. */
export interface Request {
  readonly flags: number;
  readonly command: number;
  readonly handle: Buffer;
  readonly offset: bigint;
  readonly length: number;
}

/** Reads a request header; throws `protocol` on a wrong magic number. */
export function decodeRequest(bytes: Buffer): Request {
  const magic = bytes.readUInt32BE(0);
  if (magic !== REQUEST_MAGIC)
    throw new NbdError('protocol', `request magic is ${magic.toString(16)}, expected 25609513`);
  return {
    flags: bytes.readUInt16BE(4),
    command: bytes.readUInt16BE(6),
    handle: bytes.subarray(8, 16),
    offset: bytes.readBigUInt64BE(16),
    length: bytes.readUInt32BE(24),
  };
}

/** Writes a request header to the start of `target`. The cookie is two 32-bit halves, so that no BigInt is made. */
export function encodeRequest(
  target: Buffer,
  request: { flags: number; command: number; cookie: number; generation: number; offset: number; length: number },
): void {
  target.writeUInt32BE(REQUEST_MAGIC, 0);
  target.writeUInt16BE(request.flags, 4);
  target.writeUInt16BE(request.command, 6);
  target.writeUInt32BE(request.generation, 8);
  target.writeUInt32BE(request.cookie, 12);
  writeUint64(target, request.offset, 16);
  target.writeUInt32BE(request.length, 24);
}

/** Writes the header of a structured reply chunk to the start of `target`. */
export function encodeChunkHeader(
  target: Buffer,
  chunk: { flags: number; type: number; handle: Buffer; length: number },
): void {
  target.writeUInt32BE(STRUCTURED_REPLY_MAGIC, 0);
  target.writeUInt16BE(chunk.flags, 4);
  target.writeUInt16BE(chunk.type, 6);
  chunk.handle.copy(target, 8);
  target.writeUInt32BE(chunk.length, 16);
}

/** Writes a simple reply header to the start of `target`; `error` 0 is success. */
export function encodeSimpleReply(target: Buffer, error: number, handle: Buffer): void {
  target.writeUInt32BE(SIMPLE_REPLY_MAGIC, 0);
  target.writeUInt32BE(error, 4);
  handle.copy(target, 8);
}

/** One option of the negotiation, header and data. */
export function encodeOption(option: number, data: Uint8Array = new Uint8Array()): Buffer {
  const bytes = Buffer.alloc(OPTION_HEADER_BYTES + data.length);
  bytes.writeBigUInt64BE(OPTION_MAGIC, 0);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(data.length, 12);
  bytes.set(data, OPTION_HEADER_BYTES);
  return bytes;
}

/** One reply to an option, header and data. */
export function encodeOptionReply(option: number, type: number, data: Uint8Array = new Uint8Array()): Buffer {
  const bytes = Buffer.alloc(OPTION_REPLY_HEADER_BYTES + data.length);
  bytes.writeBigUInt64BE(OPTION_REPLY_MAGIC, 0);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(type, 12);
  bytes.writeUInt32BE(data.length, 16);
  bytes.set(data, OPTION_REPLY_HEADER_BYTES);
  return bytes;
}

/** A string with its length in front, as options carry names and queries. */
export function encodeString(text: string): Buffer {
  const body = Buffer.from(text, 'utf8');
  const head = Buffer.alloc(4);
  head.writeUInt32BE(body.length);
  return Buffer.concat([head, body]);
}

/** Writes an unsigned 64-bit number that is a safe integer, without making a BigInt. */
export function writeUint64(target: Buffer, value: number, at: number): void {
  target.writeUInt32BE(Math.floor(value / 2 ** 32), at);
  target.writeUInt32BE(value % 2 ** 32, at + 4);
}

/** Reads an unsigned 64-bit number; throws `protocol` when it is no safe integer. */
export function readUint64(source: Buffer, at: number): number {
  const value = source.readUInt32BE(at) * 2 ** 32 + source.readUInt32BE(at + 4);
  if (!Number.isSafeInteger(value)) throw new NbdError('protocol', 'a 64-bit number of the peer is beyond 2^53');
  return value;
}

/** The option error that tells a client about a refusal. */
export function replyForReason(reason: NbdReason): number {
  switch (reason) {
    case 'unknown_export':
      return REP_ERR_UNKNOWN;
    case 'expired':
    case 'wrong_client':
    case 'exhausted':
    case 'refused':
      return REP_ERR_POLICY;
    case 'tls_required':
      return REP_ERR_TLS_REQD;
    case 'unsupported':
      return REP_ERR_UNSUP;
    case 'too_big':
      return REP_ERR_TOO_BIG;
    case 'shutdown':
      return REP_ERR_SHUTDOWN;
    default:
      return REP_ERR_INVALID;
  }
}

/** What an option error of a server means. */
export function reasonForReply(type: number): NbdReason {
  switch (type) {
    case REP_ERR_UNKNOWN:
      return 'unknown_export';
    case REP_ERR_POLICY:
      return 'refused';
    case REP_ERR_TLS_REQD:
      return 'tls_required';
    case REP_ERR_UNSUP:
      return 'unsupported';
    case REP_ERR_TOO_BIG:
      return 'too_big';
    case REP_ERR_SHUTDOWN:
      return 'shutdown';
    default:
      return 'invalid';
  }
}

/** What the error number of a reply means. */
export function reasonForErrno(errno: number): NbdReason {
  switch (errno) {
    case EPERM:
      return 'denied';
    case ENOSPC:
      return 'no_space';
    case EINVAL:
    case EOVERFLOW:
      return 'invalid';
    case ESHUTDOWN:
      return 'shutdown';
    default:
      return 'io';
  }
}
