/**
 * The three statements that agents sign with their Ed25519 keys during a hand-over. They are the only words by which one
 * agent believes another; everything the coordinator says is an order, never a proof. Every field is signed and every
 * field is compared: a statement of another migration, epoch, host, volume or content proves nothing.
 */

/** Content of a volume: SHA-256 over its length and chunk sums, hex. A Machine without a volume has a named constant. */
export type Root = string;

/** Names one hand-over. The same five fields are in every statement. */
export interface Subject {
  readonly migrationId: string;
  readonly machineId: string;
  /** The epoch that the destination gets: the source's epoch plus one. */
  readonly epoch: number;
  readonly source: string;
  readonly destination: string;
  /**
   * The copy that the destination prepared, minted anew by each prepare (a Machine without a volume has one too). A ticket
   * is good for this copy only, so a destination that forgot and prepares again cannot use a ticket written before.
   */
  readonly volumeId: string;
}

/** Source: "I gave the Machine up at this content; from this epoch on it is yours." */
export interface Ticket extends Subject {
  readonly root: Root;
  /** SHA-256 of the Machine record that travels along, hex. */
  readonly recordDigest: string;
}

/** Destination: "I did not take it and never will under this migration." */
export type Decline = Subject;

/** Destination: "I own it with this content; I need your copy no longer." */
export interface Settlement extends Subject {
  readonly root: Root;
}

/** A statement as it arrived, with the answer whether the pinned key of the peer that must have written it did sign it. */
export interface Received<Statement> {
  readonly statement: Statement;
  readonly signatureValid: boolean;
}

/** Whether both name the same hand-over in all fields. */
export function sameSubject(a: Subject, b: Subject): boolean {
  return (
    a.migrationId === b.migrationId &&
    a.machineId === b.machineId &&
    a.epoch === b.epoch &&
    a.source === b.source &&
    a.destination === b.destination &&
    a.volumeId === b.volumeId
  );
}

/** The subject fields alone, so that no other field of a wider value leaks into what is signed. */
export function subjectOf(value: Subject): Subject {
  const { migrationId, machineId, epoch, source, destination, volumeId } = value;
  return { migrationId, machineId, epoch, source, destination, volumeId };
}
