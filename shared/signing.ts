import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign, verify } from 'node:crypto';
import { FerryError } from './error.ts';

/** DER prefix of an Ed25519 public key (RFC 8410): the raw 32 bytes follow. */
const spkiPrefix = Buffer.from('302a300506032b6570032100', 'hex');

/** An agent's Ed25519 key. */
export class SigningKey {
  readonly #key: KeyObject;
  /** Raw 32 bytes. */
  readonly publicKey: Uint8Array;

  constructor(pem: string) {
    this.#key = createPrivateKey(pem);
    this.publicKey = createPublicKey(this.#key).export({ type: 'spki', format: 'der' }).subarray(spkiPrefix.length);
  }

  /** A new key as PKCS #8 PEM. */
  static generatePem(): string {
    return generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
  }

  /** Signs `domain`, a zero byte, and `payload`. */
  sign(domain: string, payload: Uint8Array): Uint8Array {
    return sign(null, signedBytes(domain, payload), this.#key);
  }
}

function signedBytes(domain: string, payload: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from(domain), Buffer.from([0]), payload]);
}

/** Throws bad_signature unless `signature` is the key's over `domain` and `payload`. */
export function verifySignature(
  publicKey: Uint8Array,
  domain: string,
  payload: Uint8Array,
  signature: Uint8Array,
): void {
  const valid =
    publicKey.length === 32 &&
    verify(
      null,
      signedBytes(domain, payload),
      createPublicKey({ key: Buffer.concat([spkiPrefix, publicKey]), format: 'der', type: 'spki' }),
      signature,
    );
  if (!valid) throw new FerryError('bad_signature', `this ${domain} is not signed with the pinned key`);
}
