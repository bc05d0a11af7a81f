import { execFile, spawnSync } from 'node:child_process';
import { promisify } from 'node:util';

/** Whether the standard tool to ask for names is here. */
export const hasDig = spawnSync('dig', ['-v']).error === undefined;

/** What a resolver answered, as dig shows it. */
export interface Dug {
  /** NOERROR, NXDOMAIN, REFUSED ... */
  readonly status: string;
  /** Lower-case flags: qr, aa, tc ... */
  readonly flags: readonly string[];
  /** Data of the answers, sorted; texts without their quotes. */
  readonly answers: readonly string[];
  /** Name and TTL of each answer and of the zone's record. */
  readonly kept: readonly { readonly name: string; readonly ttlSeconds: number }[];
}

/** Asks the resolver at "127.0.0.1:port". Throws when it does not answer. */
export async function dig(resolver: string, name: string, type: string, ...options: string[]): Promise<Dug> {
  const [host = '', port = ''] = resolver.split(':');
  const shown = ['+noall', '+comments', '+answer', '+authority', '+time=2', '+tries=1', '+nocookie'];
  const { stdout } = await promisify(execFile)('dig', [`@${host}`, '-p', port, name, type, ...shown, ...options]);
  const records = stdout.split('\n').flatMap((line) => {
    const match = /^([^;\s]\S*)\s+(\d+)\s+IN\s+(\S+)\s+(.*)$/.exec(line);
    return match === null ? [] : [{ name: match[1]!, ttlSeconds: Number(match[2]), type: match[3]!, data: match[4]! }];
  });
  return {
    status: /status: (\w+)/.exec(stdout)?.[1] ?? 'none',
    flags: /flags: ([a-z ]*);/.exec(stdout)?.[1]?.split(' ') ?? [],
    answers: records
      .filter((record) => record.type !== 'SOA')
      .map(({ data }) => data.replace(/" "/g, '').replace(/^"|"$/g, ''))
      .sort(),
    kept: records.map(({ name: of, ttlSeconds }) => ({ name: of, ttlSeconds })),
  };
}
