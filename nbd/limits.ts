/** Bounds of the NBD server. Every one has a default that suits a host serving some dozens of copies. */
export interface NbdLimits {
  /** Connections at a time, those still negotiating included; further ones are closed at once. */
  readonly connectionsMax: number;
  /** Options in one negotiation, before and after STARTTLS together. */
  readonly optionsMax: number;
  /** Data of one option, in bytes. */
  readonly optionBytesMax: number;
  /** Length of one read, in bytes; advertised to the client. A multiple of 4096. */
  readonly requestBytesMax: number;
  /** Requests under way for one connection; further ones wait in the socket. */
  readonly requestsMax: number;
  /** Reply buffers of `requestBytesMax` for the whole server. */
  readonly buffersMax: number;
  /** Extents in one block status reply. */
  readonly extentsMax: number;
  /** From the accepted connection to the first request. */
  readonly handshakeTimeoutMs: number;
  /** Without any byte read or written after that. */
  readonly idleTimeoutMs: number;
}

export const NBD_LIMITS: NbdLimits = {
  connectionsMax: 64,
  optionsMax: 32,
  optionBytesMax: 16_384,
  requestBytesMax: 1_048_576,
  requestsMax: 16,
  buffersMax: 64,
  extentsMax: 8_192,
  handshakeTimeoutMs: 10_000,
  idleTimeoutMs: 300_000,
};
