/**
 * Why an NBD connection or request ended, as a closed list.
 *
 * - `unknown_export`, `expired`, `wrong_client`, `exhausted`: the server refuses the export. Over the wire the last three
 *   arrive as `refused`.
 * - `refused`: the server refused the export or an option by its own policy.
 * - `tls_required`: the server speaks only after STARTTLS. `tls`: the TLS handshake or the peer's identity failed.
 * - `unsupported`: the server lacks an option that was asked for. `too_big`: an option or request beyond its limit.
 * - `io`, `no_space`, `denied`, `invalid`: the server answered a request with this error.
 * - `disconnected`: the connection broke; nothing is known about the requests that were under way.
 * - `timeout`: a deadline passed; the connection has been ended. `aborted`: the caller's signal. `closed`: used after close.
 * - `shutdown`: the server is going away. `protocol`: the peer broke the protocol; the connection has been ended.
 */
export type NbdReason =
  | 'unknown_export'
  | 'expired'
  | 'wrong_client'
  | 'exhausted'
  | 'refused'
  | 'tls_required'
  | 'tls'
  | 'unsupported'
  | 'too_big'
  | 'io'
  | 'no_space'
  | 'denied'
  | 'invalid'
  | 'disconnected'
  | 'timeout'
  | 'aborted'
  | 'closed'
  | 'shutdown'
  | 'protocol';

/** Thrown by the NBD server and client; decide on `reason`, never on the text. */
export class NbdError extends Error {
  override readonly name = 'NbdError';
  readonly reason: NbdReason;

  constructor(reason: NbdReason, message: string, options?: ErrorOptions) {
    super(message, options);
    this.reason = reason;
  }
}
