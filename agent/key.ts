import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { SigningKey } from '../shared/signing.ts';

/** This agent's Ed25519 key: read, or made at the first start, durably, readable by the agent's user only. */
export function openKey(path: string): SigningKey {
  if (!existsSync(path)) {
    const file = openSync(`${path}.new`, 'w', 0o600);
    writeSync(file, SigningKey.generatePem());
    fsyncSync(file);
    closeSync(file);
    renameSync(`${path}.new`, path);
    const folder = openSync(dirname(path), 'r');
    fsyncSync(folder);
    closeSync(folder);
  }
  return new SigningKey(readFileSync(path, 'utf8'));
}
