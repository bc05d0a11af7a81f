import { NbdError } from '../nbd/error.ts';
import type { Export, ExportDirectory, Peer } from '../nbd/export.ts';
import type { Clock } from '../shared/clock.ts';
import type { Random } from '../shared/random.ts';

/** Most tokens that are good at one time. */
const grantsMax = 1000;

/** What a token opens, for whom, and for how long. */
export interface Grant {
  /** The migration or command that it was made for; ending it ends its tokens. */
  readonly purpose: string;
  readonly volumeId: string;
  /** Port that it is good at: another agent's stream, or standard NBD tools. */
  readonly audience: 'stream' | 'tools';
  /** SHA-256 of the client's certificate; null = the first client that uses the token is the one. */
  readonly fingerprint: string | null;
  readonly connectionsMax: number;
  readonly expiresAtMs: number;
}

interface HeldGrant extends Grant {
  connections: number;
  /** Address and certificate of the first client. */
  client: string | null;
  readonly open: Set<Export>;
}

/** Who a peer is: its certificate where it has one, else its address. */
function identityOf(peer: Peer): string {
  return peer.tls?.fingerprint256 ?? peer.address;
}

/** The export tokens of one agent. They are in memory only: a restart ends them all, and clients ask for new ones. */
export class Exports {
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #openVolume: (volumeId: string) => Promise<Export>;
  readonly #grants = new Map<string, HeldGrant>();

  constructor(options: { clock: Clock; random: Random; openVolume: (volumeId: string) => Promise<Export> }) {
    this.#clock = options.clock;
    this.#random = options.random;
    this.#openVolume = options.openVolume;
  }

  /** Makes a token. */
  grant(grant: Grant): string {
    this.#sweep();
    if (this.#grants.size >= grantsMax)
      throw new NbdError('exhausted', `${grantsMax} exports are open; let some expire`);
    const token = Buffer.from(this.#random.bytes(32)).toString('base64url');
    this.#grants.set(token, { ...grant, connections: 0, client: null, open: new Set() });
    return token;
  }

  /** Ends all tokens of a purpose; answers them, so that their connections can be ended. */
  end(purpose: string): string[] {
    const ended = [...this.#grants].filter(([, grant]) => grant.purpose === purpose).map(([token]) => token);
    for (const token of ended) this.#grants.delete(token);
    return ended;
  }

  /** The tokens as an NBD port sees them. */
  directory(audience: Grant['audience']): ExportDirectory {
    return { open: (token, peer) => this.#open(token, peer, audience) };
  }

  #sweep(): void {
    const now = this.#clock.nowMs();
    for (const [token, grant] of this.#grants) {
      if (grant.expiresAtMs <= now && grant.open.size === 0) this.#grants.delete(token);
    }
  }

  async #open(token: string, peer: Peer, audience: Grant['audience']): Promise<Export> {
    const grant = this.#grants.get(token);
    if (grant === undefined || grant.audience !== audience) {
      throw new NbdError('unknown_export', 'no such export here; ask for a new one with "ferry volume export"');
    }
    const identity = identityOf(peer);
    const wanted = grant.fingerprint ?? grant.client;
    if (wanted !== null && wanted !== identity) throw new NbdError('wrong_client', 'this export is for another client');
    if (grant.expiresAtMs <= this.#clock.nowMs())
      throw new NbdError('expired', 'this export has expired; ask for a new one');
    if (grant.connections >= grant.connectionsMax) {
      throw new NbdError('exhausted', `this export was opened ${grant.connectionsMax} times; ask for a new one`);
    }
    grant.connections += 1;
    grant.client ??= identity;
    const opened = await this.#openVolume(grant.volumeId);
    if (this.#grants.get(token) !== grant) {
      await opened.close();
      throw new NbdError('unknown_export', 'this export has just ended; ask for a new one');
    }
    const close = opened.close.bind(opened);
    opened.close = async () => {
      grant.open.delete(opened);
      await close();
    };
    grant.open.add(opened);
    return opened;
  }
}
