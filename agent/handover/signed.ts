import { create, type DescMessage, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import {
  DeclineSchema,
  type Ticket as ProtoTicket,
  SettlementSchema,
  type SignedStatement,
  SignedStatementSchema,
  TicketSchema,
} from '../../proto/gen/ferry/v1/handover_pb.ts';
import { FerryError, invalidArgument } from '../../shared/error.ts';
import { type SigningKey, verifySignature } from '../../shared/signing.ts';
import type { Decline, Received, Settlement, Subject, Ticket } from './statements.ts';

/** A signed statement as one of its three kinds, its signature checked against the pinned key. */
export type ReceivedStatement =
  | { readonly kind: 'Ticket'; readonly received: Received<Ticket> }
  | { readonly kind: 'Decline'; readonly received: Received<Decline> }
  | { readonly kind: 'Settlement'; readonly received: Received<Settlement> };

const schemas = { Ticket: TicketSchema, Decline: DeclineSchema, Settlement: SettlementSchema } as const;

function signed<D extends DescMessage>(
  key: SigningKey,
  kind: string,
  desc: D,
  value: MessageInitShape<D>,
): SignedStatement {
  const statement = toBinary(desc, create(desc, value));
  return create(SignedStatementSchema, { kind, statement, signature: key.sign(`ferry.v1.${kind}`, statement) });
}

/** Signs a ticket. Ed25519 is deterministic: the same ticket gives the same bytes. */
export function signTicket(key: SigningKey, ticket: Ticket): SignedStatement {
  return signed(key, 'Ticket', TicketSchema, { ...ticket, epoch: BigInt(ticket.epoch) });
}

/** Signs a decline. */
export function signDecline(key: SigningKey, decline: Decline): SignedStatement {
  return signed(key, 'Decline', DeclineSchema, { ...decline, epoch: BigInt(decline.epoch) });
}

/** Signs a settlement. */
export function signSettlement(key: SigningKey, settlement: Settlement): SignedStatement {
  return signed(key, 'Settlement', SettlementSchema, { ...settlement, epoch: BigInt(settlement.epoch) });
}

/** Reads a statement. A signature that does not fit is told, not thrown: the transition refuses it with its reason. */
export function readStatement(statement: SignedStatement, publicKey: Uint8Array | null): ReceivedStatement {
  const kind = statement.kind;
  if (kind !== 'Ticket' && kind !== 'Decline' && kind !== 'Settlement') {
    throw invalidArgument('statement.kind', `is ${JSON.stringify(kind)}`, '"Ticket", "Decline" or "Settlement"');
  }
  const signatureValid = isSigned(statement, publicKey);
  const message = parse(statement);
  const { migrationId, machineId, source, destination, volumeId } = message;
  const subject: Subject = { migrationId, machineId, epoch: Number(message.epoch), source, destination, volumeId };
  if (message.$typeName === 'ferry.v1.Decline')
    return { kind: 'Decline', received: { statement: subject, signatureValid } };
  if (message.$typeName === 'ferry.v1.Settlement') {
    return { kind: 'Settlement', received: { statement: { ...subject, root: message.root }, signatureValid } };
  }
  const { root, recordDigest } = message as ProtoTicket;
  return { kind: 'Ticket', received: { statement: { ...subject, root, recordDigest }, signatureValid } };
}

function parse(statement: SignedStatement) {
  try {
    return fromBinary(schemas[statement.kind as keyof typeof schemas], statement.statement);
  } catch (cause) {
    throw new FerryError('invalid_argument', 'statement: is not a message of its kind', { field: 'statement', cause });
  }
}

function isSigned(statement: SignedStatement, publicKey: Uint8Array | null): boolean {
  if (publicKey === null) return false;
  try {
    verifySignature(publicKey, `ferry.v1.${statement.kind}`, statement.statement, statement.signature);
    return true;
  } catch {
    return false;
  }
}
