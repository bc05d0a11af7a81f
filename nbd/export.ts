/** A run of bytes that share their flags; offsets and lengths in bytes. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
  /** For `base:allocation`: `EXTENT_HOLE` and `EXTENT_ZERO`; other contexts define their own. */
  readonly flags: number;
}

/** The context every export offers: which bytes are allocated, and which read as zeros. */
export const BASE_ALLOCATION = 'base:allocation';
/** `base:allocation`: no storage behind these bytes. */
export const EXTENT_HOLE = 1;
/** `base:allocation`: these bytes read as zeros. */
export const EXTENT_ZERO = 2;

/** One read-only byte range as the server serves it; opened for each connection, closed when its last request ended. */
export interface Export {
  readonly sizeBytes: number;
  /** Names of the block status contexts, such as `base:allocation`. */
  readonly contexts: readonly string[];
  /**
   * Fills the first `length` bytes of `target` from `offset`, or rejects; never fills only a part. An `NbdError` of reason
   * `shutdown` tells the client that the export is gone and may be asked for again; anything else is told as a read error.
   */
  readInto(target: Uint8Array, offset: number, length: number): Promise<void>;
  /**
   * Extents in order and without gaps, the first starting at `offset`. At least one; may cover less than `length`
   * (the asker goes on behind the last).
   */
  blockStatus(context: string, offset: number, length: number): Promise<Extent[]>;
  close(): Promise<void>;
}

/** Who asks for an export. */
export interface Peer {
  /** IP address of the other end. */
  readonly address: string;
  /** Null on a plain connection; SHA-256 of the client's certificate as `AA:BB:…`, or null when it showed none. */
  readonly tls: null | { readonly fingerprint256: string | null };
}

/** Decides what a peer may open. */
export interface ExportDirectory {
  /** Rejects with an `NbdError` of reason `unknown_export`, `expired`, `wrong_client` or `exhausted`. */
  open(name: string, peer: Peer): Promise<Export>;
}
