import { execFileSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** PEM files of one certificate, and what they hold. */
export interface TestCertificate {
  readonly certPath: string;
  readonly keyPath: string;
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly fingerprint: string;
  /** Folder with ca-cert.pem, client-cert.pem and client-key.pem, as libnbd and QEMU look for them. */
  readonly folder: string;
}

/** An authority made with openssl for one test. */
export class TestAuthority {
  readonly caPath: string;
  readonly ca: Buffer;
  readonly #directory: string;

  constructor(directory: string, name = 'ca') {
    this.#directory = directory;
    mkdirSync(directory, { recursive: true });
    const paths = ['-keyout', `${name}-key.pem`, '-out', `${name}-cert.pem`];
    this.#openssl('req', '-x509', ...newKey, ...paths, '-days', '2', '-subj', `/CN=${name}`);
    this.caPath = join(directory, `${name}-cert.pem`);
    this.ca = readFileSync(this.caPath);
    writeFileSync(join(directory, 'san'), 'subjectAltName=DNS:localhost,IP:127.0.0.1\n');
  }

  /** A certificate for 127.0.0.1 that this authority signs. */
  issue(name: string): TestCertificate {
    const [certPath, keyPath] = [join(this.#directory, `${name}-cert.pem`), join(this.#directory, `${name}-key.pem`)];
    this.#openssl('req', ...newKey, '-keyout', keyPath, '-out', `${name}.csr`, '-subj', `/CN=${name}`);
    const signer = ['-CA', this.caPath, '-CAkey', this.caPath.replace('-cert.pem', '-key.pem'), '-CAcreateserial'];
    this.#openssl('x509', '-req', '-in', `${name}.csr`, ...signer, '-out', certPath, '-days', '2', '-extfile', 'san');
    const folder = join(this.#directory, `${name}.d`);
    mkdirSync(folder);
    copyFileSync(this.caPath, join(folder, 'ca-cert.pem'));
    copyFileSync(certPath, join(folder, 'client-cert.pem'));
    copyFileSync(keyPath, join(folder, 'client-key.pem'));
    const cert = readFileSync(certPath);
    const { fingerprint256: fingerprint } = new X509Certificate(cert);
    return { certPath, keyPath, cert, key: readFileSync(keyPath), fingerprint, folder };
  }

  #openssl(...args: readonly string[]): void {
    execFileSync('openssl', args, { cwd: this.#directory, stdio: 'ignore' });
  }
}

const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
