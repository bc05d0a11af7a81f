/** Why no lock is granted now. */
export interface Shut {
  readonly kind: 'store' | 'host';
  /** Host that is waited for, or empty. */
  readonly subject: string;
  readonly text: string;
}

/** Keeps new locks back, and keeps orphans from being released, while the store may not know who promised what. */
export interface Gate {
  /** Undefined = open. Hosts that an operator overrides are not waited for. */
  shut(overridden?: readonly string[]): Shut | undefined;
}
