import { createHash } from 'node:crypto';
import { FerryError } from '../../shared/error.ts';
import type { Run } from '../volumes/command.ts';

const commandMs = 5_000;

/** 6PN address of a placement: fdaa, network, host, Machine (32 bits each), 16 free bits. The host part changes with a move. */
export function privateIp(networkNumber: number, hostNumber: number, slot: number): string {
  const words = [networkNumber, hostNumber, slot].flatMap((number) => [number >>> 16, number & 0xffff]);
  return `fdaa:${words.map((word) => word.toString(16)).join(':')}:0`;
}

/** A loopback address of this placement's own, where 6PN addresses cannot be added: 127.x.y.z, never 127.0.x.x. */
export function loopbackIp(privateAddress: string): string {
  const [a = 0, b = 0, c = 0] = createHash('sha256').update(privateAddress).digest();
  return `127.${1 + (a % 254)}.${b}.${1 + (c % 254)}`;
}

/** Puts Machines' addresses on this host's loopback interface, where it may. */
export class Addresses {
  readonly #run: Run;
  /** Whether 6PN addresses are really there; else Machines bind to 127.x.y.z. */
  readonly has6pn: boolean;

  private constructor(run: Run, has6pn: boolean) {
    this.#run = run;
    this.has6pn = has6pn;
  }

  /** Tries it once, with an address of documentation. */
  static async probe(run: Run, isRoot: boolean): Promise<Addresses> {
    if (!isRoot) return new Addresses(run, false);
    const probe = new Addresses(run, true);
    try {
      await probe.add('fdaa:0:0:0:0:0:0:ffff');
      await probe.remove('fdaa:0:0:0:0:0:0:ffff');
      return probe;
    } catch {
      return new Addresses(run, false);
    }
  }

  /** Address that a Machine binds to. */
  bindIp(privateAddress: string): string {
    return this.has6pn ? privateAddress : loopbackIp(privateAddress);
  }

  /** Makes the address answer here. Repeatable. */
  async add(privateAddress: string): Promise<void> {
    if (!this.has6pn) return;
    await this.#ip(['-6', 'addr', 'replace', `${privateAddress}/128`, 'dev', 'lo', 'nodad']);
  }

  /** Puts the resolver's address there. Throws unsupported where it cannot. */
  async addResolver(address: string): Promise<void> {
    if (!this.has6pn) {
      throw new FerryError('unsupported', `--dns-listen: ${address} cannot be added to this host`, {
        field: '--dns-listen',
        expected: 'an agent that runs as root on a host with IPv6, or another address',
      });
    }
    await this.add(address);
  }

  /** Takes the address off. Repeatable. */
  async remove(privateAddress: string): Promise<void> {
    if (!this.has6pn) return;
    await this.#ip(['-6', 'addr', 'del', `${privateAddress}/128`, 'dev', 'lo']).catch(() => {});
  }

  async #ip(args: string[]): Promise<void> {
    const result = await this.#run('ip', args, { timeoutMs: commandMs });
    if (result.exitCode !== 0) throw new Error(`ip ${args.join(' ')}: ${result.stderr.trim()}`);
  }
}
