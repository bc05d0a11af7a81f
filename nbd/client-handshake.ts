import type { Socket } from 'node:net';
import { NbdError } from './error.ts';
import * as nbd from './protocol.ts';

/** Longest data of one option reply, in bytes, and most replies to one option. */
const REPLY_BYTES_MAX = 65_536;
const REPLIES_MAX = 1_024;

/** Reads exact numbers of bytes of the negotiation. */
export interface HandshakeInput {
  read(length: number): Promise<Buffer>;
}

/** What the server said about the export. */
export interface Negotiated {
  readonly sizeBytes: number;
  /** Numbers of the contexts that the server granted, by name. */
  readonly contexts: ReadonlyMap<string, number>;
  /** Longest read that the server takes, in bytes. */
  readonly requestBytesMax: number;
}

interface OptionReply {
  readonly type: number;
  readonly data: Buffer;
}

/** Takes the greeting; returns when options may be sent. */
export async function greet(socket: Socket, input: HandshakeInput): Promise<void> {
  const greeting = await input.read(18);
  if (greeting.readBigUInt64BE(0) !== nbd.GREETING_MAGIC || greeting.readBigUInt64BE(8) !== nbd.OPTION_MAGIC) {
    throw new NbdError('protocol', 'the other end does not speak NBD (newstyle)');
  }
  const flags = greeting.readUInt16BE(16);
  if ((flags & nbd.HANDSHAKE_FIXED_NEWSTYLE) === 0) throw new NbdError('protocol', 'the server is not fixed newstyle');
  const answer = Buffer.alloc(4);
  answer.writeUInt32BE(nbd.HANDSHAKE_FIXED_NEWSTYLE | (flags & nbd.HANDSHAKE_NO_ZEROES));
  socket.write(answer);
}

/** Asks for TLS; resolves when the server waits for the TLS handshake. */
export async function startTls(socket: Socket, input: HandshakeInput): Promise<void> {
  await ask(socket, input, nbd.OPT_STARTTLS);
}

/** Negotiates structured replies, the contexts and the export; resolves when requests may be sent. */
export async function negotiate(
  socket: Socket,
  input: HandshakeInput,
  wanted: { exportName: string; contexts: readonly string[] },
): Promise<Negotiated> {
  await ask(socket, input, nbd.OPT_STRUCTURED_REPLY);
  const contexts = new Map<string, number>();
  const name = nbd.encodeString(wanted.exportName);
  if (wanted.contexts.length > 0) {
    const count = Buffer.alloc(4);
    count.writeUInt32BE(wanted.contexts.length);
    const queries = Buffer.concat([name, count, ...wanted.contexts.map(nbd.encodeString)]);
    for (const { type, data } of await ask(socket, input, nbd.OPT_SET_META_CONTEXT, queries)) {
      if (type === nbd.REP_META_CONTEXT && data.length > 4) {
        contexts.set(data.subarray(4).toString('utf8'), data.readUInt32BE(0));
      }
    }
  }
  let sizeBytes: number | null = null;
  let requestBytesMax = 32 * 1_048_576;
  const request = Buffer.concat([name, Buffer.from([0, 1, 0, nbd.INFO_BLOCK_SIZE])]);
  for (const { type, data } of await ask(socket, input, nbd.OPT_GO, request)) {
    if (type !== nbd.REP_INFO || data.length < 2) continue;
    const info = data.readUInt16BE(0);
    if (info === nbd.INFO_EXPORT && data.length === 12) sizeBytes = nbd.readUint64(data, 2);
    if (info === nbd.INFO_BLOCK_SIZE && data.length === 14) requestBytesMax = data.readUInt32BE(10);
  }
  if (sizeBytes === null) throw new NbdError('protocol', 'the server never said how big the export is');
  return { sizeBytes, contexts, requestBytesMax };
}

/** Sends one option and collects its replies up to the acknowledgement; rejects with the reason of an error reply. */
async function ask(socket: Socket, input: HandshakeInput, option: number, data?: Uint8Array): Promise<OptionReply[]> {
  socket.write(nbd.encodeOption(option, data));
  const replies: OptionReply[] = [];
  while (replies.length < REPLIES_MAX) {
    const head = await input.read(nbd.OPTION_REPLY_HEADER_BYTES);
    const length = head.readUInt32BE(16);
    if (
      head.readBigUInt64BE(0) !== nbd.OPTION_REPLY_MAGIC ||
      head.readUInt32BE(8) !== option ||
      length > REPLY_BYTES_MAX
    ) {
      throw new NbdError('protocol', `a reply that does not answer option ${option}`);
    }
    const reply = { type: head.readUInt32BE(12), data: await input.read(length) };
    if (reply.type === nbd.REP_ACK) return replies;
    if (reply.type >= nbd.REP_ERROR_BIT) {
      const text = reply.data.toString('utf8');
      throw new NbdError(nbd.reasonForReply(reply.type), text || `the server refused option ${option}`);
    }
    replies.push(reply);
  }
  throw new NbdError('protocol', `over ${REPLIES_MAX} replies to option ${option}`);
}
