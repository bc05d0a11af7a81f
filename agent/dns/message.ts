import packets, { type DecodedPacket, type OptAnswer, type Question } from 'dns-packet';
import { answer, type Names, type Reply, rcodes } from './answer.ts';

/** Largest answer over UDP, in bytes: fits every path without fragments. */
export const udpBytesMax = 1232;
const plainUdpBytesMax = 512;
/** Records besides the question that a query may carry: EDNS, a signature. */
const additionalsMax = 4;
const badVersion = 16;
const opcodeBits = 0xf << 11;

/** How a query came: only TCP carries answers of any length. */
export type Transport = 'udp' | 'tcp';

/**
 * The answer to one packet, or null for what is no query. Never throws: what cannot be read is answered with a bare header
 * (no longer than the query), an answer that is too long for UDP with "truncated" alone.
 */
export function respond(packet: Buffer, transport: Transport, names: Names): Buffer | null {
  if (packet.length < 12) return null;
  const header = packets.decode(withoutCounts(packet));
  if (header.type !== 'query') return null;
  const bare = (rcode: number) => encode(header, { rcode });
  if (((header.flags ?? 0) & opcodeBits) !== 0) return bare(rcodes.notImplemented);
  const query = read(packet);
  if (query === null) return bare(rcodes.malformed);
  const { question, edns } = query;
  if (edns !== undefined && edns.ednsVersion !== 0) return encode(header, { rcode: badVersion, question, edns });
  try {
    const reply = encode(header, { ...answer(question, names), question, edns });
    const longest = Math.min(Math.max(edns?.udpPayloadSize ?? 0, plainUdpBytesMax), udpBytesMax);
    if (transport === 'tcp' || reply.length <= longest) return reply;
    return encode(header, { rcode: rcodes.ok, question, edns, authoritative: true, truncated: true });
  } catch {
    return encode(header, { rcode: rcodes.failed, question, edns });
  }
}

/** The header alone: the counts of a hostile packet would make the decoder reserve memory for them. */
function withoutCounts(packet: Buffer): Buffer {
  const header = Buffer.from(packet.subarray(0, 12));
  header.fill(0, 4);
  return header;
}

interface Query {
  readonly question: Question;
  readonly edns: OptAnswer | undefined;
}

/** One question and what belongs to it, or null. */
function read(packet: Buffer): Query | null {
  const [questions, answers, authorities, additionals] = [4, 6, 8, 10].map((offset) => packet.readUInt16BE(offset));
  if (questions !== 1 || answers !== 0 || authorities !== 0 || additionals! > additionalsMax) return null;
  try {
    const { questions: asked, additionals: more = [] } = packets.decode(packet);
    const question = asked![0]!;
    const options = more.filter((each): each is OptAnswer => each.type === 'OPT');
    if (options.length > 1 || !isEcho(question, packet)) return null;
    return { question, edns: options[0] };
  } catch {
    return null;
  }
}

/** Whether the question comes out of the encoder as it came in: no dots within labels, no bytes that are no text. */
function isEcho(question: Question, packet: Buffer): boolean {
  const encoded = packets.encode({ questions: [question] }).subarray(12);
  return encoded.equals(packet.subarray(12, 12 + encoded.length));
}

interface Parts extends Partial<Reply> {
  readonly rcode: number;
  readonly question?: Question;
  readonly edns?: OptAnswer | undefined;
  readonly truncated?: boolean;
}

function encode(header: DecodedPacket, parts: Parts): Buffer {
  const { rcode, question, edns, answers = [], authorities = [], authoritative = false, truncated = false } = parts;
  const option = { type: 'OPT', name: '.', flags: 0, flag_do: false, ednsVersion: 0, options: [] } as const;
  const ours: OptAnswer = { ...option, options: [], udpPayloadSize: udpBytesMax, extendedRcode: rcode >> 4 };
  return packets.encode({
    type: 'response',
    id: header.id ?? 0,
    flags:
      ((header.flags ?? 0) & (opcodeBits | packets.RECURSION_DESIRED)) |
      (authoritative ? packets.AUTHORITATIVE_ANSWER : 0) |
      (truncated ? packets.TRUNCATED_RESPONSE : 0) |
      (rcode & 0xf),
    questions: question === undefined ? [] : [question],
    answers: [...answers],
    authorities: [...authorities],
    additionals: edns === undefined ? [] : [ours],
  });
}
