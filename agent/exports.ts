import { NbdError } from '../nbd/error.ts';
import type { Export, ExportDirectory, Peer } from '../nbd/export.ts';
import type { Clock } from '../shared/clock.ts';
import type { Random } from '../shared/random.ts';
import type { Limiter } from './transfer/limiter.ts';

/** Most tokens that are good at one time. */
const grantsMax = 1000;

/** What a token opens, for whom, and for how long. */
export interface Grant {
  /** The migration or command that it was made for; ending it ends its tokens. */
  readonly purpose: string;
  /** What of it is opened, for example a snapshot: its tokens can be ended apart from others of the purpose. */
  readonly round: string;
  readonly open: () => Promise<Export>;
  /** Whether the host's limit holds for it. It does not while a Machine is down for what is read. */
  readonly isLimited: boolean;
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
  readonly opened: Set<Export>;
  /** Ends what waits for the limit. */
  readonly ended: AbortController;
}

/** Who a peer is: its certificate where it has one, else its address. */
function identityOf(peer: Peer): string {
  return peer.tls?.fingerprint256 ?? peer.address;
}

/** The export tokens of one agent. They are in memory only: a restart ends them all, and clients ask for new ones. */
export class Exports {
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #limiter: Limiter;
  readonly #grants = new Map<string, HeldGrant>();

  constructor(options: { clock: Clock; random: Random; limiter: Limiter }) {
    this.#clock = options.clock;
    this.#random = options.random;
    this.#limiter = options.limiter;
  }

  /** Makes a token. */
  grant(grant: Grant): string {
    this.#sweep();
    if (this.#grants.size >= grantsMax)
      throw new NbdError('exhausted', `${grantsMax} exports are open; let some expire`);
    const token = Buffer.from(this.#random.bytes(32)).toString('base64url');
    this.#grants.set(token, {
      ...grant,
      connections: 0,
      client: null,
      opened: new Set(),
      ended: new AbortController(),
    });
    return token;
  }

  /** Ends all tokens of a purpose, but for one round; answers them, so that their connections can be ended. */
  end(purpose: string, but: { round: string } | null = null): string[] {
    const ended = [...this.#grants].filter(([, grant]) => grant.purpose === purpose && grant.round !== but?.round);
    for (const [token, grant] of ended) {
      this.#grants.delete(token);
      grant.ended.abort();
    }
    return ended.map(([token]) => token);
  }

  /** Whether somebody reads with one of these tokens now. */
  isRead(purpose: string): boolean {
    return [...this.#grants.values()].some((grant) => grant.purpose === purpose && grant.opened.size > 0);
  }

  /** Ends all tokens: the agent goes down. */
  close(): void {
    for (const { ended } of this.#grants.values()) ended.abort();
    this.#grants.clear();
  }

  /** The tokens as an NBD port sees them. */
  directory(audience: Grant['audience']): ExportDirectory {
    return { open: (token, peer) => this.#open(token, peer, audience) };
  }

  #sweep(): void {
    const now = this.#clock.nowMs();
    for (const [token, grant] of this.#grants) {
      if (grant.expiresAtMs <= now && grant.opened.size === 0) this.#grants.delete(token);
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
    const opened = await grant.open();
    if (this.#grants.get(token) !== grant) {
      await opened.close();
      throw new NbdError('unknown_export', 'this export has just ended; ask for a new one');
    }
    return this.#held(grant, opened);
  }

  /** The export as it is served: known to its grant while it is open, and slowed down by the limit. */
  #held(grant: HeldGrant, opened: Export): Export {
    const over = new AbortController();
    const signal = AbortSignal.any([over.signal, grant.ended.signal]);
    const held: Export = {
      sizeBytes: opened.sizeBytes,
      contexts: opened.contexts,
      readInto: async (target, offset, length) => {
        if (grant.isLimited) await this.#limiter.take(length, signal);
        await opened.readInto(target, offset, length);
      },
      blockStatus: (context, offset, length) => opened.blockStatus(context, offset, length),
      close: async () => {
        over.abort();
        grant.opened.delete(held);
        await opened.close();
      },
    };
    grant.opened.add(held);
    return held;
  }
}
