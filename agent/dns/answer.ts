import { isIPv6 } from 'node:net';
import type { Answer, Question } from 'dns-packet';
import type { Random } from '../../shared/random.ts';
import { type Apps, addressOf, lookUp, zone } from './names.ts';

/** How long an answer, yes or no, may be kept, in seconds: a moved Machine has another address. */
export const ttlSeconds = 2;
/** Addresses in one answer; of more, random ones. */
const addressesMax = 100;
const textPieceBytes = 255;

/** Response codes that are answered. */
export const rcodes = { ok: 0, malformed: 1, failed: 2, noName: 3, notImplemented: 4, refused: 5 } as const;

/** What the answers come from. */
export interface Names {
  readonly apps: Apps;
  /** Region of this host. */
  readonly region: string;
  /** Rises with each change of the directory. */
  readonly serial: number;
  /** Mixes the addresses of an answer. */
  readonly random: Random;
}

/** The answer to one question, before it is a message. */
export interface Reply {
  readonly rcode: number;
  readonly answers: readonly Answer[];
  readonly authorities: readonly Answer[];
  /** It speaks for the zone. */
  readonly authoritative: boolean;
}

const refused: Reply = { rcode: rcodes.refused, answers: [], authorities: [], authoritative: false };

/** Answers a question from the directory: names below `internal` only, no zone transfers, and as little as ANY allows. */
export function answer(question: Question, names: Names): Reply {
  const { type } = question;
  const name = question.name.toLowerCase();
  if (question.class !== 'IN' || (name !== zone && !name.endsWith(`.${zone}`))) return refused;
  if (type === 'AXFR' || type === 'IXFR') return refused;
  const found = lookUp(name.slice(0, -zone.length - 1), names.apps, names.region);
  if (found.kind === 'none') return without(rcodes.noName, names);
  if ((type as string) === 'ANY') return of([{ ...head(question), type: 'HINFO', data: { cpu: 'RFC8482', os: '' } }]);
  if (type === 'SOA' && name === zone) return of([soa(names)]);
  if (found.kind === 'text' && type === 'TXT') return of([{ ...head(question), type, data: pieces(found.text) }]);
  if (found.kind === 'machines' && (type === 'AAAA' || type === 'A')) {
    const addresses = found.rows.map(addressOf).filter((address) => isIPv6(address) === (type === 'AAAA'));
    const some = found.ordered ? addresses : mixed(addresses, names.random);
    const answers = some.slice(0, addressesMax).map((data) => ({ ...head(question), type, data }));
    if (answers.length > 0) return of(answers);
  }
  return without(rcodes.ok, names);
}

/** The name as it was asked, with its capitals. */
function head({ name }: Question) {
  return { name, ttl: ttlSeconds, class: 'IN' as const };
}

function of(answers: readonly Answer[]): Reply {
  return { rcode: rcodes.ok, answers, authorities: [], authoritative: true };
}

function without(rcode: number, names: Names): Reply {
  return { rcode, answers: [], authorities: [soa(names)], authoritative: true };
}

function soa({ serial }: Names): Answer {
  const data = {
    mname: `ns.${zone}`,
    rname: `hostmaster.${zone}`,
    serial: serial >>> 0,
    refresh: 60,
    retry: 60,
    expire: 600,
    minimum: ttlSeconds,
  };
  return { name: zone, ttl: ttlSeconds, class: 'IN', type: 'SOA', data };
}

function pieces(text: string): Buffer[] {
  const bytes = Buffer.from(text);
  const count = Math.ceil(bytes.length / textPieceBytes);
  return Array.from({ length: count }, (_, index) =>
    bytes.subarray(index * textPieceBytes, (index + 1) * textPieceBytes),
  );
}

/** In random order, so that callers who take the first spread over all. */
function mixed(addresses: readonly string[], random: Random): string[] {
  const list = [...addresses];
  const bytes = random.bytes(list.length * 4);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let last = list.length - 1; last > 0; last -= 1) {
    const other = view.getUint32(last * 4) % (last + 1);
    [list[last], list[other]] = [list[other]!, list[last]!];
  }
  return list;
}
