import { connect as connectPlain, type Socket } from 'node:net';
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls';
import { NbdError } from './error.ts';
import type { Sink } from './sink.ts';

/** How the client proves itself and knows the server. TLS 1.3 only; `ca`, `fingerprint256` or both must be given. */
export interface ClientTls {
  /** PEM: the server's certificate must be under it. */
  readonly ca?: string | Buffer;
  /** PEM: the client's own certificate and key. */
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
  /** Name to find in the server's certificate instead of the host; not looked at when a fingerprint is given. */
  readonly servername?: string;
  /** SHA-256 of the server's certificate as `AA:BB:…`; any other certificate is refused. */
  readonly fingerprint256?: string;
}

/** A socket whose bytes go to whatever sink is set at the time. */
export interface Wire {
  socket: Socket;
  readonly into: { sink: Sink };
}

const SOCKET_OPTIONS = { noDelay: true, keepAlive: true };
/** AES-128 first: as safe here and a tenth faster. */
const CIPHERS = 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256';

/** Opens a plain or a TLS connection that fills the sink's own buffers. The caller listens for errors. */
export function dial(at: { host: string; port: number; tls: ClientTls | null }, sink: Sink, fail: Fail): Wire {
  const into = { sink };
  const onread = {
    buffer: () => into.sink.nextBuffer() as Buffer,
    callback: (length: number, buffer: Uint8Array) => guarded(fail, () => into.sink.filled(buffer, length)),
  };
  const { host, port } = at;
  const socket = at.tls
    ? connectTls({ host, port, onread, ...SOCKET_OPTIONS, ...tlsOptions(at.tls) } as ConnectionOptions)
    : connectPlain({ host, port, onread, ...SOCKET_OPTIONS });
  return { socket, into };
}

/** Opens a plain connection that can still be turned into TLS. */
export function dialForStartTls(at: { host: string; port: number }, sink: Sink, fail: Fail): Wire {
  const socket = connectPlain({ host: at.host, port: at.port, ...SOCKET_OPTIONS });
  const into = { sink };
  socket.on('data', (bytes) => guarded(fail, () => into.sink.push(bytes)));
  return { socket, into };
}

/** Puts TLS on a wire of `dialForStartTls`; the sink stays. */
export function upgrade(wire: Wire, host: string, tls: ClientTls, fail: Fail): void {
  wire.socket.removeAllListeners('data');
  const socket = connectTls({ socket: wire.socket, host, ...tlsOptions(tls) });
  socket.on('data', (bytes) => guarded(fail, () => wire.into.sink.push(bytes)));
  wire.socket = socket;
}

/** Resolves when the connection stands and the server is who it must be; else rejects, or never when the socket ends. */
export async function established(socket: Socket, tls: ClientTls | null): Promise<void> {
  await new Promise<void>((resolve) => socket.once(tls ? 'secureConnect' : 'connect', () => resolve()));
  if (tls?.fingerprint256 === undefined) return;
  const shown = (socket as TLSSocket).getPeerCertificate().fingerprint256;
  if (shown !== tls.fingerprint256) {
    throw new NbdError('tls', `the server's certificate is ${shown}, pinned is ${tls.fingerprint256}`);
  }
}

type Fail = (error: unknown) => void;

/** Socket callbacks must not throw: what they throw ends the connection. */
function guarded(fail: Fail, take: () => void): boolean {
  try {
    take();
  } catch (error) {
    fail(error);
  }
  return true;
}

function tlsOptions(tls: ClientTls): ConnectionOptions {
  if (tls.ca === undefined && tls.fingerprint256 === undefined) {
    throw new NbdError('tls', 'nothing to know the server by: give ca, fingerprint256 or both');
  }
  const { ca, cert, key, servername, fingerprint256 } = tls;
  return {
    ...(ca === undefined ? {} : { ca }),
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
    ...(servername === undefined ? {} : { servername }),
    ...(fingerprint256 === undefined ? {} : { checkServerIdentity: () => undefined }),
    // Without a ca the pinned fingerprint decides, in `established`, before anything is sent.
    rejectUnauthorized: ca !== undefined,
    minVersion: 'TLSv1.3',
    ciphers: CIPHERS,
  };
}
