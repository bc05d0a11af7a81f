import { create } from '@bufbuild/protobuf';
import type { DirectoryRow } from '../../proto/gen/ferry/v1/directory_pb.ts';
import {
  type Handover,
  type OpenExportRequest,
  OpenExportRequestSchema,
  type OpenExportResponse,
  PeerService,
  type SignedStatement,
} from '../../proto/gen/ferry/v1/handover_pb.ts';
import { FerryError, toFerryError } from '../../shared/error.ts';
import type { Random } from '../../shared/random.ts';
import type { Client, ClientPool } from '../../shared/rpc/client.ts';
import type { SigningKey } from '../../shared/signing.ts';
import type { HandoverDetail, Journal } from '../journal.ts';

const callMs = 5_000;
/** A source compares extent maps before it answers. */
const exportMs = 15_000;
/** It first writes what the Machine has in memory, and takes a snapshot. */
const liveExportMs = 60_000;

/** What the destination wants to read, and what it has. */
export interface ExportAsk {
  /** Of the running Machine; null = the stopped volume. */
  readonly round: number | null;
  /** Snapshot that the copy holds, in part at least; '' = none. */
  readonly haveSnapshot: string;
  /** Root of the kept copy that this one began with, while it holds nothing newer; '' = none. */
  readonly haveRoot: string;
}

/** What the destination signs to open an export: every field but the signature, as a JSON array, so that none runs into another. */
export function exportRequestBytes(request: OpenExportRequest): Uint8Array {
  const { migrationId, nonce, fingerprint, live, round, haveSnapshot, haveRoot } = request;
  const fields = [migrationId, Buffer.from(nonce).toString('hex'), fingerprint, live, round, haveSnapshot, haveRoot];
  return Buffer.from(JSON.stringify(fields));
}

/** Calls to other agents. Each throws a FerryError: host_unreachable when the other does not answer. */
export class Peers {
  readonly #options: { host: string; pool: ClientPool; key: SigningKey; random: Random; journal: Journal };

  constructor(options: { host: string; pool: ClientPool; key: SigningKey; random: Random; journal: Journal }) {
    this.#options = options;
  }

  /** Shows our key and the prepared copy to the source; answers the source's key. */
  async pair(peer: HandoverDetail['peer'], migrationId: string, volumeId: string, tls: boolean): Promise<Uint8Array> {
    const { host, key } = this.#options;
    const request = { migrationId, hostId: host, publicKey: key.publicKey, volumeId, tls };
    const response = await this.#call(peer, (client) => client.pair(request, { timeoutMs: callMs }));
    if (response.hostId !== peer.hostId) {
      throw new FerryError('wrong_statement', `${peer.address} says that it is ${response.hostId}, not ${peer.hostId}`);
    }
    return response.publicKey;
  }

  /** Asks the source for a way to read the volume; `fingerprint` is our TLS certificate's, or "". */
  openExport(
    peer: HandoverDetail['peer'],
    migrationId: string,
    fingerprint: string,
    ask: ExportAsk,
  ): Promise<OpenExportResponse> {
    const { key, random } = this.#options;
    const live = ask.round !== null;
    const request = create(OpenExportRequestSchema, {
      migrationId,
      nonce: random.bytes(32),
      fingerprint,
      live,
      round: ask.round ?? 0,
      haveSnapshot: ask.haveSnapshot,
      haveRoot: ask.haveRoot,
    });
    request.signature = key.sign('ferry.v1.OpenExport', exportRequestBytes(request));
    const timeoutMs = live ? liveExportMs : exportMs;
    return this.#call(peer, (client) => client.openExport(request, { timeoutMs }));
  }

  /** Hands a statement over; answers where the hand-over stands there, with the other side's statement if it has one. */
  async deliver(
    peer: HandoverDetail['peer'],
    migrationId: string,
    statement: SignedStatement,
    { record = null, directory }: { record?: Uint8Array | null; directory?: DirectoryRow | undefined } = {},
  ): Promise<Handover> {
    const told = directory === undefined ? {} : { directory };
    const request = { migrationId, statement, record: record ?? new Uint8Array(), ...told };
    const response = await this.#call(peer, (client) => client.deliver(request, { timeoutMs: callMs }));
    if (response.handover === undefined)
      throw new FerryError('internal', `${peer.hostId} answered without a hand-over`);
    return response.handover;
  }

  /** Says where a Machine is, once it runs here. */
  async tell(peer: HandoverDetail['peer'], migrationId: string, directory: DirectoryRow | undefined): Promise<void> {
    if (directory === undefined) return;
    await this.#call(peer, (client) => client.deliver({ migrationId, directory }, { timeoutMs: callMs }));
  }

  async #call<T>(peer: HandoverDetail['peer'], call: (client: Client<typeof PeerService>) => Promise<T>): Promise<T> {
    // The roster knows where an agent is that came back on another port.
    const address = this.#options.journal.roster().get(peer.hostId) ?? peer.address;
    try {
      return await call(this.#options.pool.client(PeerService, address));
    } catch (error) {
      const known = toFerryError(error);
      if (known.reason !== 'unreachable' && known.reason !== 'deadline' && known.reason !== 'cancelled') throw known;
      throw new FerryError('host_unreachable', `agent ${peer.hostId} at ${address} does not answer: ${known.message}`, {
        facts: { host: peer.hostId },
        cause: error,
      });
    }
  }
}
