import { createServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer, TLSSocket, type TlsOptions } from 'node:tls';
import { NbdError } from './error.ts';
import type { ExportDirectory, Peer } from './export.ts';
import { Handshake, type Link } from './handshake.ts';
import { NBD_LIMITS, type NbdLimits } from './limits.ts';
import { BufferPool } from './pool.ts';
import { SocketReader } from './reader.ts';
import { Transmission } from './transmission.ts';

/** How a port speaks TLS. TLS 1.3 only. */
export interface ServerTls {
  /** `starttls`: plain until the STARTTLS option, which is demanded. `direct`: TLS from the first byte. */
  readonly mode: 'starttls' | 'direct';
  /** PEM. */
  readonly cert: string | Buffer;
  readonly key: string | Buffer;
  /** PEM; when given, only clients with a certificate under it get in. Otherwise the directory judges the fingerprint. */
  readonly ca?: string | Buffer;
}

/** How one connection went, told when it has ended. */
export interface ConnectionEnd {
  readonly peer: Peer;
  /** Null when the client never opened an export. */
  readonly exportName: string | null;
  /** Bytes of volume data sent. */
  readonly bytesSent: number;
  /** Null when the client said goodbye. */
  readonly error: NbdError | null;
}

export interface NbdServerOptions {
  readonly directory: ExportDirectory;
  readonly limits?: Partial<NbdLimits>;
  readonly onConnectionEnd?: (end: ConnectionEnd) => void;
}

interface Connection {
  readonly socket: Socket;
  exportName: string | null;
  ended: Promise<void>;
}

/** A read-only NBD server. What a client sends can end no more than the client's own connection. */
export class NbdServer {
  readonly #options: NbdServerOptions;
  readonly #limits: NbdLimits;
  readonly #pool: BufferPool;
  readonly #servers = new Set<Server>();
  readonly #connections = new Set<Connection>();

  constructor(options: NbdServerOptions) {
    this.#options = options;
    this.#limits = { ...NBD_LIMITS, ...options.limits };
    // Headers go in front of the data in the same buffer, so that a reply is one write.
    this.#pool = new BufferPool({
      bufferBytes: this.#limits.requestBytesMax + 4096,
      countMax: this.#limits.buffersMax,
    });
  }

  /** Listens on one more port; `port` 0 takes a free one. Rejects with the system's error when the port is taken. */
  async listen(at: { host: string; port: number; tls?: ServerTls }): Promise<{ port: number }> {
    const server = createServer({ noDelay: true, keepAlive: true }, (socket) => this.#accept(socket, at.tls));
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen({ host: at.host, port: at.port }, () => {
        server.off('error', reject);
        resolve();
      });
    });
    this.#servers.add(server);
    const address = server.address();
    if (address === null || typeof address === 'string')
      throw new Error(`listening at ${address}, expected a TCP port`);
    return { port: address.port };
  }

  /** Ends every connection of one export; resolves when its files are closed. */
  async disconnect(exportName: string): Promise<void> {
    await this.#end((connection) => connection.exportName === exportName);
  }

  /** Stops listening and ends every connection; resolves when all exports are closed. */
  async close(): Promise<void> {
    const closed = [...this.#servers].map((server) => new Promise((resolve) => server.close(resolve)));
    this.#servers.clear();
    await this.#end(() => true);
    await Promise.all(closed);
  }

  async #end(which: (connection: Connection) => boolean): Promise<void> {
    const ending = [...this.#connections].filter(which);
    for (const connection of ending) connection.socket.destroy();
    await Promise.all(ending.map((connection) => connection.ended));
  }

  #accept(socket: Socket, tls: ServerTls | undefined): void {
    // Without a listener an error of the socket would end the process; its cause reaches the reader as an end.
    socket.on('error', () => {});
    if (this.#connections.size >= this.#limits.connectionsMax) {
      socket.destroy();
      return;
    }
    const connection: Connection = { socket, exportName: null, ended: Promise.resolve() };
    this.#connections.add(connection);
    connection.ended = this.#serve(connection, tls).finally(() => {
      socket.destroy();
      this.#connections.delete(connection);
    });
  }

  /** Never rejects. */
  async #serve(connection: Connection, tls: ServerTls | undefined): Promise<void> {
    let transmission: Transmission | null = null;
    let error: NbdError | null = null;
    let peer: Peer = { address: addressOf(connection.socket), tls: null };
    const deadline = setTimeout(() => connection.socket.destroy(), this.#limits.handshakeTimeoutMs);
    try {
      const { socket } = connection;
      const link = tls?.mode === 'direct' ? await upgrade(socket, tls) : { socket, reader: new SocketReader(socket) };
      const handshake = new Handshake(link, {
        limits: this.#limits,
        tls: tls === undefined ? 'none' : tls.mode === 'direct' ? 'standing' : 'required',
        startTls: (plain) => {
          if (tls === undefined) throw new NbdError('unsupported', 'this port has no certificate');
          const early = plain.reader.detach();
          // Bytes sent in the clear behind STARTTLS must never be taken for bytes that came inside TLS.
          if (early > 0) throw new NbdError('protocol', `${early} bytes in the clear behind STARTTLS`);
          return upgrade(plain.socket, tls);
        },
        open: async (name, on) => {
          peer = peerOf(on.socket);
          const opened = await this.#options.directory.open(name, peer);
          connection.exportName = name;
          return opened;
        },
      });
      const session = await handshake.run();
      clearTimeout(deadline);
      if (session) {
        const { socket } = session.link;
        socket.setTimeout(this.#limits.idleTimeoutMs, () => socket.destroy());
        transmission = new Transmission(session, this.#limits, this.#pool);
        await transmission.run();
        await new Promise<void>((resolve) => socket.end(resolve));
      }
    } catch (thrown) {
      error = thrown instanceof NbdError ? thrown : new NbdError('io', String(thrown), { cause: thrown });
    } finally {
      clearTimeout(deadline);
    }
    this.#options.onConnectionEnd?.({
      peer,
      exportName: connection.exportName,
      bytesSent: transmission?.bytesSent ?? 0,
      error,
    });
  }
}

/** Puts TLS on a socket that nobody reads; rejects with `tls` when the handshake fails. */
async function upgrade(plain: Socket, tls: ServerTls): Promise<Link> {
  const options: TlsOptions = {
    cert: tls.cert,
    key: tls.key,
    ...(tls.ca === undefined ? {} : { ca: tls.ca }),
    requestCert: true,
    rejectUnauthorized: tls.ca !== undefined,
    minVersion: 'TLSv1.3',
  };
  const socket = await new Promise<TLSSocket>((resolve, reject) => {
    const fail = (error?: Error): void => {
      reject(new NbdError('tls', error?.message ?? 'the peer ended the TLS handshake', { cause: error }));
    };
    plain.once('close', () => fail());
    // A server of its own for one socket: it judges the client's certificate, and nothing can mix up two handshakes.
    createTlsServer(options, resolve).on('tlsClientError', fail).emit('connection', plain);
  });
  socket.on('error', () => {});
  return { socket, reader: new SocketReader(socket) };
}

function peerOf(socket: Socket): Peer {
  const fingerprint = socket instanceof TLSSocket ? socket.getPeerCertificate().fingerprint256 : undefined;
  return {
    address: addressOf(socket),
    tls: socket instanceof TLSSocket ? { fingerprint256: fingerprint ?? null } : null,
  };
}

function addressOf(socket: Socket): string {
  return (socket.remoteAddress ?? 'unknown').replace(/^::ffff:/, '');
}
