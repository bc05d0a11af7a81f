import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { NbdClient } from '../nbd/client.ts';
import { NbdError } from '../nbd/error.ts';
import { BASE_ALLOCATION } from '../nbd/export.ts';
import { NbdServer, type ServerTls } from '../nbd/server.ts';
import type { OpenExportResponse } from '../proto/gen/ferry/v1/handover_pb.ts';
import { CopyProgressSchema } from '../proto/gen/ferry/v1/migration_pb.ts';
import type { Clock } from '../shared/clock.ts';
import { FerryError, invalidArgument, toFerryError } from '../shared/error.ts';
import type { ListenAddress } from '../shared/flags.ts';
import type { Reason } from '../shared/reasons.ts';
import type { TlsFiles } from './config.ts';
import type { HostCopyLimits } from './copy-limits.ts';
import type { Exports } from './exports.ts';
import type { PullWish, VolumeTransfer } from './handover/transfer.ts';
import { TransferError, type TransferReason } from './transfer/error.ts';
import { rereadKept } from './transfer/kept-sums.ts';
import { pullVolume } from './transfer/pull.ts';
import { heldSnapshot } from './transfer/seed-copy.ts';
import { ferryErrorOf } from './volumes/ferry-error.ts';

/** Bound of a connection's handshake and of a silence while requests wait. */
const nbdTimeoutMs = 15_000;
/** A copy to which nothing comes for so long has failed, so that whoever ordered it hears of it and decides. */
const copySilenceMs = 10_000;
/** The same while the Machine runs: limits may make a copy slow, and nobody is waiting. */
const liveSilenceMs = 60_000;

const reasonOf: Readonly<Record<TransferReason, Reason>> = {
  aborted: 'cancelled',
  gave_up: 'copy_broken',
  refused: 'copy_broken',
  source_io: 'io_error',
  target_io: 'io_error',
  no_space: 'no_space',
  size_mismatch: 'copy_corrupt',
  reread_mismatch: 'copy_corrupt',
};

interface Credentials {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly ca: Buffer;
  readonly fingerprint: string;
}

function readCredentials(files: TlsFiles | null): Credentials | null {
  if (files === null) return null;
  try {
    const cert = readFileSync(files.certPath);
    const fingerprint = new X509Certificate(cert).fingerprint256;
    return { cert, key: readFileSync(files.keyPath), ca: readFileSync(files.caPath), fingerprint };
  } catch (error) {
    throw invalidArgument('--tls-cert, --tls-key, --tls-ca', (error as Error).message, 'three readable PEM files');
  }
}

/** The volume streams of one agent: its two NBD ports, and the copies that it pulls from others. */
export class VolumeStream implements VolumeTransfer {
  readonly #credentials: Credentials | null;
  readonly #clock: Clock;
  readonly #copyLimits: HostCopyLimits;
  readonly #stream: NbdServer;
  readonly #tools: NbdServer;
  /** Where other agents read. */
  streamPort = 0;
  /** Where standard NBD tools read. */
  toolsPort = 0;

  constructor(options: { exports: Exports; clock: Clock; tls: TlsFiles | null; copyLimits: HostCopyLimits }) {
    this.#credentials = readCredentials(options.tls);
    this.#clock = options.clock;
    this.#copyLimits = options.copyLimits;
    this.#stream = new NbdServer({ directory: options.exports.directory('stream') });
    this.#tools = new NbdServer({ directory: options.exports.directory('tools') });
  }

  get fingerprint(): string {
    return this.#credentials?.fingerprint ?? '';
  }

  /** Whether both ports speak TLS. */
  get tls(): boolean {
    return this.#credentials !== null;
  }

  /** Listens on both ports. */
  async listen(stream: ListenAddress, tools: ListenAddress): Promise<void> {
    this.streamPort = (await this.#stream.listen({ ...stream, ...this.#serverTls('direct') })).port;
    this.toolsPort = (await this.#tools.listen({ ...tools, ...this.#serverTls('starttls') })).port;
  }

  #serverTls(mode: ServerTls['mode']): { tls?: ServerTls } {
    if (this.#credentials === null) return {};
    const { cert, key, ca } = this.#credentials;
    return { tls: { mode, cert, key, ca } };
  }

  /** Ends the connections of these tokens. */
  async disconnect(tokens: readonly string[]): Promise<void> {
    await Promise.all(tokens.flatMap((token) => [this.#stream.disconnect(token), this.#tools.disconnect(token)]));
  }

  async close(): Promise<void> {
    await Promise.all([this.#stream.close(), this.#tools.close()]);
  }

  async rereadKept(paths: { imagePath: string; keptPath: string }, root: string, signal: AbortSignal): Promise<string> {
    try {
      return await rereadKept(paths, root, { signal });
    } catch (error) {
      throw explainTransfer(error);
    }
  }

  async held(statePath: string): Promise<string> {
    return (await heldSnapshot(statePath)) ?? '';
  }

  async pull(wish: PullWish): Promise<{ root: string; bytesTransferred: number; bytesResumed: number }> {
    const { host, opened, held, imagePath, statePath, sizeBytes, isLive, signal, onProgress } = wish;
    const { snapshot, baseContext } = opened;
    const limiter = this.#copyLimits.receive;
    let next: OpenExportResponse | null = opened;
    const report = (progress: MessageInitShape<typeof CopyProgressSchema>) => {
      const limit = isLive ? lower(Number(opened.limitBytesPerSecond), limiter.bytesPerSecond ?? 0) : 0;
      onProgress(create(CopyProgressSchema, { ...progress, limitBytesPerSecond: BigInt(limit) }));
    };
    try {
      const result = await pullVolume({
        connect: async (connectSignal) => {
          const grant = next ?? (await openAgain(wish.openAgain));
          next = null;
          // Bytes of two snapshots in one copy would be neither.
          if (grant.snapshot !== snapshot)
            throw new FerryError('copy_broken', `the source exports ${grant.snapshot} instead of ${snapshot} now`);
          return this.#connect(host, grant, isLive ? liveSilenceMs : nbdTimeoutMs, connectSignal);
        },
        imagePath,
        statePath,
        sizeBytes,
        snapshot,
        ...(baseContext === '' || held === '' ? {} : { base: { snapshot: held, context: baseContext } }),
        ...(isLive ? { limiter } : {}),
        giveUpAfterMs: isLive ? liveSilenceMs : copySilenceMs,
        clock: this.#clock,
        signal,
        onProgress: (progress) => {
          const rate = progress.bytesPerSecond;
          const left = progress.bytesTotal - progress.bytesDone;
          report({
            bytesTotal: BigInt(progress.bytesTotal),
            bytesDone: BigInt(progress.bytesDone),
            bytesTransferred: BigInt(progress.bytesTransferred),
            bytesResumed: BigInt(progress.bytesResumed),
            bytesPerSecond: BigInt(Math.round(rate)),
            ...(rate > 0 ? { remainingMs: BigInt(Math.round((left / rate) * 1000)) } : {}),
            phase: progress.phase === 'verifying' ? 'verifying' : 'copying',
          });
        },
      });
      report({
        bytesTotal: BigInt(sizeBytes),
        bytesDone: BigInt(sizeBytes),
        bytesTransferred: BigInt(result.bytesTransferred),
        bytesResumed: BigInt(result.bytesResumed),
        remainingMs: 0n,
        phase: 'done',
      });
      const { root, bytesTransferred, bytesResumed } = result;
      return { root, bytesTransferred, bytesResumed };
    } catch (error) {
      throw explainTransfer(error);
    }
  }

  #connect(
    host: string,
    grant: { port: number; token: string; tls: boolean; fingerprint: string; baseContext: string },
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<NbdClient> {
    const at = {
      host,
      port: grant.port,
      exportName: grant.token,
      contexts: grant.baseContext === '' ? [BASE_ALLOCATION] : [BASE_ALLOCATION, grant.baseContext],
      timeoutMs,
      signal,
    };
    if (!grant.tls) {
      // A peer that has certificates never reads in the clear.
      if (this.#credentials !== null)
        throw new NbdError('tls', 'the source streams without TLS, but this agent has certificates');
      return NbdClient.connect({ ...at, mode: 'plain' });
    }
    if (this.#credentials === null)
      throw new NbdError('tls', 'the source streams with TLS, but this agent has no certificates');
    const { cert, key, ca } = this.#credentials;
    return NbdClient.connect({ ...at, mode: 'tls', tls: { cert, key, ca, fingerprint256: grant.fingerprint } });
  }
}

/** The lower one of two limits; 0 = none. */
function lower(one: number, other: number): number {
  return one === 0 || other === 0 ? Math.max(one, other) : Math.min(one, other);
}

/** A refused or unreachable source is a broken connection to the copy: it is waited out and tried again. */
async function openAgain<T>(openExport: () => Promise<T>): Promise<T> {
  try {
    return await openExport();
  } catch (error) {
    if (toFerryError(error).disposition !== 'retry') throw error;
    throw new NbdError('disconnected', (error as Error).message, { cause: error });
  }
}

/** What went wrong with a volume's bytes, as callers decide by it. */
export function explainTransfer(error: unknown): FerryError {
  const cause = error instanceof TransferError ? error.cause : null;
  // What the source answered when it was asked for the export again.
  if (cause instanceof FerryError) return cause;
  // Trying again would keep the Machine down, and the certificates would be the same.
  if (cause instanceof NbdError && cause.reason === 'tls') {
    const nextAction = 'Give both agents certificates of one authority, or neither.';
    return new FerryError('unsupported', `no TLS with the source: ${cause.message}`, { nextAction, cause: error });
  }
  if (error instanceof TransferError && error.reason === 'gave_up') {
    const nextAction = 'See that the destination reaches the stream port of the source, then retry the migration.';
    return new FerryError('copy_broken', error.message, { nextAction, cause: error });
  }
  if (error instanceof TransferError) return new FerryError(reasonOf[error.reason], error.message, { cause: error });
  return ferryErrorOf(error);
}
