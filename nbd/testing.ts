/** What the NBD tests share: an export in memory, certificates made with openssl, and the probing for tools. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { NbdError } from './error.ts';
import { BASE_ALLOCATION, EXTENT_HOLE, EXTENT_ZERO, type Export, type ExportDirectory, type Extent } from './export.ts';

/** True when the program can be run here. */
export function hasTool(name: string): boolean {
  return spawnSync(name, ['--version'], { stdio: 'ignore' }).error === undefined;
}

/** A temporary directory that goes with the `using` block. */
export function temporaryDirectory(): { path: string; [Symbol.dispose](): void } {
  const path = mkdtempSync(join(tmpdir(), 'ferry-nbd-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** An export over bytes in memory; 4096-byte blocks of zeros are holes. */
export class MemoryExport implements Export {
  readonly contexts: readonly string[] = [BASE_ALLOCATION, 'ferry:changed:first'];
  readonly bytes: Buffer;
  closed = 0;
  /** Awaited before each read is answered. */
  gate: Promise<void> = Promise.resolve();
  /** Resolves when the first read is under way. */
  readonly firstRead = Promise.withResolvers<void>();

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  get sizeBytes(): number {
    return this.bytes.length;
  }

  async readInto(target: Uint8Array, offset: number, length: number): Promise<void> {
    this.firstRead.resolve();
    await this.gate;
    target.set(this.bytes.subarray(offset, offset + length));
  }

  async blockStatus(context: string, offset: number, length: number): Promise<Extent[]> {
    const extents: { offset: number; length: number; flags: number }[] = [];
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const next = Math.min(end, (Math.floor(at / 4096) + 1) * 4096);
      const zero = this.bytes.subarray(at, next).every((byte) => byte === 0);
      const flags = context === BASE_ALLOCATION ? (zero ? EXTENT_HOLE | EXTENT_ZERO : 0) : zero ? 0 : 1;
      const last = extents.at(-1);
      if (last?.flags === flags) last.length += next - at;
      else extents.push({ offset: at, length: next - at, flags });
      at = next;
    }
    return extents;
  }

  async close(): Promise<void> {
    this.closed += 1;
  }
}

/** A directory of named exports; every other name is unknown. */
export function directoryOf(exports: Record<string, Export>): ExportDirectory {
  return {
    open: async (name) => {
      const found = exports[name];
      if (!found) throw new NbdError('unknown_export', `no export is called ${JSON.stringify(name)}`);
      return found;
    },
  };
}

/** 256 KiB of noise, 256 KiB of zeros, 300 KiB of noise, 212 KiB of zeros and a ragged end. */
export function patternedBytes(): Buffer {
  const bytes = Buffer.alloc(1024 * 1024 + 512);
  for (let at = 0; at < bytes.length; at += 1) {
    const kib = at >> 10;
    if (kib < 256 || (kib >= 512 && kib < 812) || kib >= 1024) bytes[at] = ((at * 2_654_435_761) >>> 13) & 0xff;
  }
  return bytes;
}

export interface TestPki {
  readonly ca: string;
  readonly server: { cert: string; key: string };
  readonly client: { cert: string; key: string };
  /** A client certificate that no CA of ours signed. */
  readonly stranger: { cert: string; key: string };
}

/** Writes certificates with the names that nbdkit, libnbd and QEMU look for into `directory`. */
export function makePki(directory: string): TestPki {
  const openssl = (...args: string[]): void => {
    execFileSync('openssl', args, { cwd: directory, stdio: 'ignore' });
  };
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  writeFileSync(join(directory, 'san'), 'subjectAltName=DNS:localhost,IP:127.0.0.1\n');
  const selfSigned = (name: string): void =>
    openssl(
      'req',
      '-x509',
      ...key,
      '-keyout',
      `${name}-key.pem`,
      '-out',
      `${name}-cert.pem`,
      '-days',
      '2',
      '-subj',
      `/CN=${name}`,
    );
  selfSigned('ca');
  selfSigned('stranger');
  for (const name of ['server', 'client']) {
    openssl('req', ...key, '-keyout', `${name}-key.pem`, '-out', `${name}.csr`, '-subj', `/CN=${name}`);
    openssl(
      ...['x509', '-req', '-in', `${name}.csr`, '-CA', 'ca-cert.pem', '-CAkey', 'ca-key.pem', '-CAcreateserial'],
      ...['-out', `${name}-cert.pem`, '-days', '2', '-extfile', 'san'],
    );
  }
  const read = (file: string): string => readFileSync(join(directory, file), 'utf8');
  const pair = (name: string) => ({ cert: read(`${name}-cert.pem`), key: read(`${name}-key.pem`) });
  return { ca: read('ca-cert.pem'), server: pair('server'), client: pair('client'), stranger: pair('stranger') };
}
