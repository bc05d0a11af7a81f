import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram';
import { type AddressInfo, createServer, isIPv6, type Server, type Socket } from 'node:net';
import { promisify } from 'node:util';
import type { Clock } from '../../shared/clock.ts';
import { FerryError } from '../../shared/error.ts';
import type { ListenAddress } from '../../shared/flags.ts';
import type { Logger } from '../../shared/log.ts';
import type { Names } from './answer.ts';
import { respond } from './message.ts';
import { QueryRate } from './rate.ts';

const queriesPerSecond = 2000;
const queriesAtOnce = 4000;
const connectionsMax = 64;
/** A TCP connection without a query ends after this. */
const idleMs = 5_000;
/** Longest query over TCP: a name, and room for EDNS. */
const queryBytesMax = 4096;
/** Ports that are tried until one is free for both UDP and TCP. */
const portTries = 10;

/** What a resolver works with. */
export interface DnsServerOptions {
  /** The names, as they are at the moment of a question. */
  readonly names: () => Names;
  readonly clock: Clock;
  readonly log: Logger;
}

/** The sockets of an agent's resolver: the only place where DNS meets the network. */
export class DnsServer {
  readonly #options: DnsServerOptions;
  readonly #rate: QueryRate;
  readonly #sockets: { udp: UdpSocket; tcp: Server }[] = [];
  readonly #connections = new Set<Socket>();

  constructor(options: DnsServerOptions) {
    this.#options = options;
    this.#rate = new QueryRate(options.clock, queriesPerSecond, queriesAtOnce);
  }

  /** Answers at this address too, by UDP and TCP on one port; resolves to "host:port". Throws invalid_argument. */
  async listen({ host, port }: ListenAddress): Promise<string> {
    for (let tries = 1; ; tries += 1) {
      try {
        return await this.#bind(host, port);
      } catch (cause) {
        const { code } = cause as { code?: string };
        if (port === 0 && code === 'EADDRINUSE' && tries < portTries) continue;
        throw new FerryError('invalid_argument', `--dns-listen: ${host} port ${port} cannot be listened on: ${code}`, {
          field: '--dns-listen',
          expected: 'an address of this host with a free port, for UDP and TCP',
          cause,
        });
      }
    }
  }

  async #bind(host: string, port: number): Promise<string> {
    const tcp = createServer((socket) => this.#serve(socket));
    const udp = createSocket(isIPv6(host) ? 'udp6' : 'udp4');
    try {
      await new Promise<void>((resolve, reject) => {
        tcp.once('error', reject).listen({ host, port }, resolve);
      });
      const bound = tcp.address() as AddressInfo;
      await new Promise<void>((resolve, reject) => {
        udp.once('error', reject).bind({ address: host, port: bound.port, exclusive: true }, resolve);
      });
      const { log } = this.#options;
      for (const each of [tcp, udp]) each.on('error', (error: Error) => log.warn({ err: error }, 'resolver'));
      udp.on('message', (packet, from) => this.#datagram(udp, packet, from));
      this.#sockets.push({ tcp, udp });
      return `${isIPv6(host) ? `[${host}]` : host}:${bound.port}`;
    } catch (error) {
      tcp.close();
      udp.close();
      throw error;
    }
  }

  /** Stops answering; twice is harmless. */
  async close(): Promise<void> {
    for (const connection of this.#connections) connection.destroy();
    for (const { tcp, udp } of this.#sockets.splice(0)) {
      udp.close();
      await promisify(tcp.close.bind(tcp))();
    }
  }

  #answer(packet: Buffer, transport: 'udp' | 'tcp', client: string): Buffer | null {
    if (!this.#rate.allows(client)) return null;
    try {
      return respond(packet, transport, this.#options.names());
    } catch (error) {
      this.#options.log.error({ err: error }, 'a DNS query was not answered');
      return null;
    }
  }

  #datagram(udp: UdpSocket, packet: Buffer, { address, port }: RemoteInfo): void {
    // Nobody asks from port 0, and an answer cannot be sent there.
    const reply = port === 0 ? null : this.#answer(packet, 'udp', address);
    if (reply !== null) udp.send(reply, port, address, () => {});
  }

  #serve(socket: Socket): void {
    // Whoever hoards connections locks nobody out.
    if (this.#connections.size >= connectionsMax) this.#connections.values().next().value?.destroy();
    this.#connections.add(socket);
    socket.on('close', () => this.#connections.delete(socket));
    socket.on('error', () => socket.destroy());
    socket.setTimeout(idleMs, () => socket.destroy());
    this.#converse(socket).catch(() => socket.destroy());
  }

  /** Questions one after another, each with its length before it; the next is read once the answer is on its way. */
  async #converse(socket: Socket): Promise<void> {
    let waiting = Buffer.alloc(0);
    for await (const piece of socket) {
      waiting = Buffer.concat([waiting, piece as Buffer]);
      while (waiting.length >= 2) {
        const length = waiting.readUInt16BE(0);
        if (length > queryBytesMax) return;
        if (waiting.length < 2 + length) break;
        const reply = this.#answer(waiting.subarray(2, 2 + length), 'tcp', socket.remoteAddress ?? '');
        waiting = waiting.subarray(2 + length);
        if (reply === null) return;
        const size = Buffer.alloc(2);
        size.writeUInt16BE(reply.length);
        await new Promise<void>((resolve, reject) => {
          socket.write(Buffer.concat([size, reply]), (error) => (error ? reject(error) : resolve()));
        });
      }
    }
    socket.end();
  }
}
