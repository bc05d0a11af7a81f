import type { Socket } from 'node:net';
import { NbdError, type NbdReason } from './error.ts';
import type { Export } from './export.ts';
import type { NbdLimits } from './limits.ts';
import * as nbd from './protocol.ts';
import type { SocketReader } from './reader.ts';

/** A socket and its only reader. */
export interface Link {
  readonly socket: Socket;
  readonly reader: SocketReader;
}

/** A block status context that the client asked for; the number is its index in the export's list plus one. */
export interface Context {
  readonly id: number;
  readonly name: string;
}

/** What a connection's negotiation came to. */
export interface Session {
  readonly link: Link;
  readonly name: string;
  readonly export: Export;
  readonly structured: boolean;
  readonly contexts: readonly Context[];
}

export interface HandshakeOptions {
  readonly limits: NbdLimits;
  /** `required`: nothing but STARTTLS is answered until TLS stands. `standing`: the socket is TLS already. */
  readonly tls: 'none' | 'required' | 'standing';
  /** Opens the export for the peer of this link. */
  readonly open: (name: string, link: Link) => Promise<Export>;
  /** Turns the plain link into a TLS link, handshake included. */
  readonly startTls: (link: Link) => Promise<Link>;
}

/** The server's side of the fixed newstyle negotiation, up to the first request. */
export class Handshake {
  readonly #options: HandshakeOptions;
  #link: Link;
  #tls: HandshakeOptions['tls'];
  #structured = false;
  #noZeroes = false;
  #opened: { name: string; export: Export } | null = null;
  #contexts: { name: string; contexts: Context[] } | null = null;

  constructor(link: Link, options: HandshakeOptions) {
    this.#link = link;
    this.#tls = options.tls;
    this.#options = options;
  }

  /**
   * Runs to the end of the negotiation. Null when the client gave up politely. Rejects with an `NbdError` when the
   * connection is to be ended; the export, if one was opened, is closed then.
   */
  async run(): Promise<Session | null> {
    let session: Session | null = null;
    try {
      session = await this.#negotiate();
      return session;
    } finally {
      if (session === null) await this.#opened?.export.close();
    }
  }

  async #negotiate(): Promise<Session | null> {
    const greeting = Buffer.alloc(18);
    greeting.writeBigUInt64BE(nbd.GREETING_MAGIC, 0);
    greeting.writeBigUInt64BE(nbd.OPTION_MAGIC, 8);
    greeting.writeUInt16BE(nbd.HANDSHAKE_FIXED_NEWSTYLE | nbd.HANDSHAKE_NO_ZEROES, 16);
    this.#link.socket.write(greeting);
    const flags = (await this.#link.reader.read(4)).readUInt32BE(0);
    if ((flags & ~(nbd.HANDSHAKE_FIXED_NEWSTYLE | nbd.HANDSHAKE_NO_ZEROES)) !== 0) {
      throw new NbdError('protocol', `unknown client flags ${flags}`);
    }
    this.#noZeroes = (flags & nbd.HANDSHAKE_NO_ZEROES) !== 0;
    for (let options = 0; options < this.#options.limits.optionsMax; options += 1) {
      const head = await this.#link.reader.read(nbd.OPTION_HEADER_BYTES);
      if (head.readBigUInt64BE(0) !== nbd.OPTION_MAGIC)
        throw new NbdError('protocol', 'option without its magic number');
      const option = head.readUInt32BE(8);
      const length = head.readUInt32BE(12);
      if (length > this.#options.limits.optionBytesMax) throw new NbdError('too_big', `option of ${length} bytes`);
      const data = await this.#link.reader.read(length);
      if (option === nbd.OPT_ABORT) {
        this.#reply(option, nbd.REP_ACK);
        return null;
      }
      const session = await this.#answer(option, data);
      if (session) return session;
    }
    throw new NbdError('too_big', `more than ${this.#options.limits.optionsMax} options`);
  }

  async #answer(option: number, data: Buffer): Promise<Session | null> {
    if (option === nbd.OPT_EXPORT_NAME) return this.#exportName(data);
    try {
      if (this.#tls === 'required' && option !== nbd.OPT_STARTTLS) {
        throw new NbdError('tls_required', 'this server speaks only TLS: send STARTTLS first');
      }
      return await this.#answerReplied(option, data);
    } catch (error) {
      if (!(error instanceof NbdError) || endsConnection(error.reason)) throw error;
      this.#reply(option, nbd.replyForReason(error.reason), Buffer.from(error.message));
      return null;
    }
  }

  async #answerReplied(option: number, data: Buffer): Promise<Session | null> {
    switch (option) {
      case nbd.OPT_LIST:
        expectEmpty(data);
        this.#reply(option, nbd.REP_ACK);
        return null;
      case nbd.OPT_STARTTLS:
        expectEmpty(data);
        await this.#startTls();
        return null;
      case nbd.OPT_STRUCTURED_REPLY:
        expectEmpty(data);
        this.#structured = true;
        this.#reply(option, nbd.REP_ACK);
        return null;
      case nbd.OPT_LIST_META_CONTEXT:
      case nbd.OPT_SET_META_CONTEXT:
        await this.#metaContexts(option, data);
        return null;
      case nbd.OPT_INFO:
      case nbd.OPT_GO:
        return this.#go(option, data);
      default:
        throw new NbdError('unsupported', `option ${option} is not known here`);
    }
  }

  async #exportName(data: Buffer): Promise<Session> {
    if (this.#tls === 'required') throw new NbdError('tls_required', 'EXPORT_NAME before STARTTLS');
    const name = data.toString('utf8');
    const opened = await this.#open(name);
    const reply = Buffer.alloc(this.#noZeroes ? 10 : 134);
    nbd.writeUint64(reply, opened.sizeBytes, 0);
    reply.writeUInt16BE(TRANSMISSION_FLAGS, 8);
    this.#link.socket.write(reply);
    return this.#session(name, opened);
  }

  async #startTls(): Promise<void> {
    if (this.#tls === 'none') throw new NbdError('unsupported', 'this server has no certificate: go on without TLS');
    if (this.#tls === 'standing') throw new NbdError('invalid', 'TLS stands already');
    this.#reply(nbd.OPT_STARTTLS, nbd.REP_ACK);
    this.#link = await this.#options.startTls(this.#link);
    this.#tls = 'standing';
    // What was agreed in the clear could have been put there by anybody.
    this.#structured = false;
    this.#contexts = null;
  }

  async #metaContexts(option: number, data: Buffer): Promise<void> {
    const fields = new Fields(data);
    const name = fields.string();
    const count = fields.uint32();
    const queries: string[] = [];
    for (let i = 0; i < count; i += 1) queries.push(fields.string());
    fields.end();
    const setting = option === nbd.OPT_SET_META_CONTEXT;
    if (setting) {
      this.#contexts = null;
      if (!this.#structured) throw new NbdError('invalid', 'SET_META_CONTEXT needs STRUCTURED_REPLY first');
    }
    const opened = await this.#open(name);
    const all = opened.contexts.map((context, index) => ({ id: index + 1, name: context }));
    const wanted = (context: Context): boolean =>
      queries.some(
        (query) => query === context.name || (!setting && query.endsWith(':') && context.name.startsWith(query)),
      );
    const found = queries.length === 0 && !setting ? all : all.filter(wanted);
    for (const context of found) {
      const body = Buffer.alloc(4 + Buffer.byteLength(context.name));
      body.writeUInt32BE(setting ? context.id : 0, 0);
      body.write(context.name, 4);
      this.#reply(option, nbd.REP_META_CONTEXT, body);
    }
    if (setting) this.#contexts = { name, contexts: found };
    this.#reply(option, nbd.REP_ACK);
  }

  async #go(option: number, data: Buffer): Promise<Session | null> {
    const fields = new Fields(data);
    const name = fields.string();
    for (let left = fields.uint16(); left > 0; left -= 1) fields.uint16();
    fields.end();
    const opened = await this.#open(name);
    const info = Buffer.alloc(12);
    info.writeUInt16BE(nbd.INFO_EXPORT, 0);
    nbd.writeUint64(info, opened.sizeBytes, 2);
    info.writeUInt16BE(TRANSMISSION_FLAGS, 10);
    this.#reply(option, nbd.REP_INFO, info);
    const block = Buffer.alloc(14);
    block.writeUInt16BE(nbd.INFO_BLOCK_SIZE, 0);
    block.writeUInt32BE(1, 2);
    block.writeUInt32BE(65_536, 6);
    block.writeUInt32BE(this.#options.limits.requestBytesMax, 10);
    this.#reply(option, nbd.REP_INFO, block);
    this.#reply(option, nbd.REP_ACK);
    return option === nbd.OPT_GO ? this.#session(name, opened) : null;
  }

  #session(name: string, opened: Export): Session {
    const contexts = this.#contexts?.name === name ? this.#contexts.contexts : [];
    return { link: this.#link, name, export: opened, structured: this.#structured, contexts };
  }

  /** One export is open at a time: the negotiation names the same one in several options. */
  async #open(name: string): Promise<Export> {
    if (Buffer.byteLength(name) > nbd.EXPORT_NAME_BYTES_MAX)
      throw new NbdError('too_big', 'export name over 4096 bytes');
    if (this.#opened?.name === name) return this.#opened.export;
    const before = this.#opened;
    this.#opened = null;
    await before?.export.close();
    const opened = await this.#options.open(name, this.#link);
    this.#opened = { name, export: opened };
    return opened;
  }

  #reply(option: number, type: number, data?: Uint8Array): void {
    this.#link.socket.write(nbd.encodeOptionReply(option, type, data));
  }
}

const TRANSMISSION_FLAGS = nbd.FLAG_HAS_FLAGS | nbd.FLAG_READ_ONLY | nbd.FLAG_SEND_DF | nbd.FLAG_CAN_MULTI_CONN;

function endsConnection(reason: NbdReason): boolean {
  return reason === 'protocol' || reason === 'disconnected' || reason === 'timeout' || reason === 'tls';
}

function expectEmpty(data: Buffer): void {
  if (data.length > 0) throw new NbdError('invalid', `this option takes no data, got ${data.length} bytes`);
}

/** Reads the fields of one option; throws `invalid` where they do not fit its length. */
class Fields {
  readonly #data: Buffer;
  #at = 0;

  constructor(data: Buffer) {
    this.#data = data;
  }

  uint16(): number {
    return this.#take(2).readUInt16BE(0);
  }

  uint32(): number {
    return this.#take(4).readUInt32BE(0);
  }

  string(): string {
    return this.#take(this.uint32()).toString('utf8');
  }

  end(): void {
    if (this.#at !== this.#data.length) throw new NbdError('invalid', 'the option is longer than its fields');
  }

  #take(length: number): Buffer {
    if (this.#at + length > this.#data.length) throw new NbdError('invalid', 'the option is shorter than its fields');
    this.#at += length;
    return this.#data.subarray(this.#at - length, this.#at);
  }
}
