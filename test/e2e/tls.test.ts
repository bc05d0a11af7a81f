import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { NbdClient, type NbdConnectOptions } from '../../nbd/client.ts';
import { NbdError } from '../../nbd/error.ts';
import * as nbd from '../../nbd/protocol.ts';
import { hasTool } from '../../nbd/testing.ts';
import { MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { type Migration, MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { durationFromMs } from '../../shared/duration.ts';
import { TestAuthority, type TestCertificate } from '../harness/certificates.ts';
import { TestCluster } from '../harness/cluster.ts';
import { holdBeforeCopy, imagePath, nbdPorts, runWriter, stopMachine, throwAt, tool } from '../harness/nbd.ts';

const hasTools = ['nbdinfo', 'nbdcopy', 'qemu-img'].every(hasTool);
const hasOpenssl = hasTool('openssl');

describe.skipIf(!hasOpenssl)('certificates (needs openssl)', () => {
  let directory: string;
  let authority: TestAuthority;
  let hosts: Readonly<Record<string, TestCertificate>>;
  let client: TestCertificate;
  let stranger: TestCertificate;

  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'ferry-certificates-'));
    authority = new TestAuthority(directory);
    hosts = { 'host-a': authority.issue('host-a'), 'host-b': authority.issue('host-b') };
    client = authority.issue('client');
    stranger = new TestAuthority(join(directory, 'other'), 'other').issue('stranger');
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  const flagsOf = ({ certPath, keyPath }: TestCertificate, caPath = authority.caPath) => ({
    'tls-cert': certPath,
    'tls-key': keyPath,
    'tls-ca': caPath,
  });

  /** The reason for which a connection is not granted; the connection itself would be the failure. */
  async function refusal(at: Omit<NbdConnectOptions, 'host' | 'timeoutMs'>): Promise<string> {
    const outcome = await NbdClient.connect({ host: '127.0.0.1', timeoutMs: 20_000, ...at }).catch((error) => error);
    if (outcome instanceof NbdClient) await outcome.close();
    expect(outcome).toBeInstanceOf(NbdError);
    return (outcome as NbdError).reason;
  }

  const as = ({ cert, key }: TestCertificate, server: TestCertificate) => ({
    ca: authority.ca,
    cert,
    key,
    fingerprint256: server.fingerprint,
  });

  test('a copy runs inside TLS 1.3, for the certificate of the destination alone', async () => {
    await using cluster = await TestCluster.start({ agentFlags: (host) => flagsOf(hosts[host]!) });
    const [a, b] = [hosts['host-a']!, hosts['host-b']!];
    const gate = join(cluster.dir, 'gate');
    const { id } = await runWriter(cluster, 'host-a', gate);
    const held = await holdBeforeCopy(cluster, id, { source: 'host-a', destination: 'host-b', gate });
    try {
      const { token, port, tls, fingerprint } = await held.openExport(b.fingerprint);
      expect({ tls, port, fingerprint }).toEqual({
        tls: true,
        port: nbdPorts(cluster, 'host-a').stream,
        fingerprint: a.fingerprint,
      });
      // In the clear the port says nothing, not even its greeting.
      const { received, ended } = await throwAt(port, Buffer.from([0, 0, 0, 3, ...nbd.encodeOption(nbd.OPT_LIST)]), {
        halfOpen: true,
      });
      expect(ended).toBe(true);
      expect(received.includes('NBDMAGIC')).toBe(false);
      expect(await refusal({ port, exportName: token, mode: 'plain' })).toBe('disconnected');
      expect(await olderTls(port, b)).not.toBe('');
      // Another certificate of the same authority, one of another, and none.
      expect(await refusal({ port, exportName: token, mode: 'tls', tls: as(client, a) })).toBe('refused');
      expect(await refusal({ port, exportName: token, mode: 'tls', tls: as(a, a) })).toBe('refused');
      const mode = 'tls';
      expect(['tls', 'disconnected']).toContain(await refusal({ port, exportName: token, mode, tls: as(stranger, a) }));
      const none = { ca: authority.ca, fingerprint256: a.fingerprint };
      expect(['tls', 'disconnected']).toContain(await refusal({ port, exportName: token, mode, tls: none }));
      // The destination itself gets it, and knows the source by its certificate alone.
      expect(await refusal({ port, exportName: token, mode, tls: as(b, client) })).toBe('tls');
      const own = await NbdClient.connect({
        host: '127.0.0.1',
        port,
        exportName: token,
        mode,
        tls: as(b, a),
        timeoutMs: 20_000,
      });
      expect(own.sizeBytes).toBe(1024 ** 3);
      await own.close();
    } finally {
      held.release();
    }
    const migration = await cluster.ended(held.id);
    expect(migration).toMatchObject({ state: MigrationState.MOVED, settled: true });
    expect(migration.sourceRoot).toMatch(/^[0-9a-f]{64}$/);
    expect(migration.destinationRoot).toBe(migration.sourceRoot);
    expect(migration.progress!.bytesTransferred).toBeGreaterThan(0n);
  });

  /** The error that a client up to TLS 1.2 gets; '' when it gets in. */
  function olderTls(port: number, { cert, key }: TestCertificate): Promise<string> {
    return new Promise((resolve) => {
      const options = { host: '127.0.0.1', port, ca: authority.ca, cert, key, maxVersion: 'TLSv1.2' } as const;
      const socket = connect(options, () => {
        socket.destroy();
        resolve('');
      });
      socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    });
  }

  test.skipIf(!hasTools)(
    'standard tools read through STARTTLS, and in no other way (needs libnbd-bin, qemu-utils)',
    async () => {
      await using cluster = await TestCluster.start({ hosts: ['host-a'], agentFlags: (host) => flagsOf(hosts[host]!) });
      const machine = await runWriter(cluster, 'host-a');
      await stopMachine(cluster, machine.id);
      const image = imagePath(cluster, 'host-a', machine.volumeId);
      const exportVolume = async () =>
        (
          await cluster.volumes.exportVolume(
            { volumeId: machine.volumeId, ttl: durationFromMs(60_000) },
            { timeoutMs: 20_000 },
          )
        ).export!;
      const { uri, tls, port, token } = await exportVolume();
      expect(tls).toBe(true);
      expect(uri).toMatch(/^nbds:/);
      const withCertificates = (folder: string) => `${uri}?tls-certificates=${folder}`;
      expect(await tool('nbdinfo', '--size', withCertificates(client.folder))).toBe(`${1024 ** 3}\n`);
      expect(await tool('nbdinfo', '--map', '--totals', withCertificates(client.folder))).toContain('hole,zero');
      const copy = join(cluster.dir, 'copy.img');
      await tool('nbdcopy', withCertificates(client.folder), copy);
      await tool('cmp', copy, image);
      // The export belongs to the certificate that used it first.
      const other = hosts['host-a']!;
      await expect(tool('nbdinfo', '--size', withCertificates(other.folder))).rejects.toThrow(/server policy/);
      // QEMU takes its certificates as an object.
      const second = await exportVolume();
      const objects = ['--object', `tls-creds-x509,id=tls0,dir=${client.folder},endpoint=client`];
      const options = `driver=nbd,host=127.0.0.1,port=${second.port},export=${second.token},tls-creds=tls0`;
      const raw = `driver=file,filename=${image}`;
      expect(await tool('qemu-img', 'compare', ...objects, '--image-opts', options, raw)).toContain(
        'Images are identical',
      );
      // Without TLS there is nothing to have, and a client that turns back after STARTTLS gets nothing either.
      await expect(tool('nbdinfo', '--size', uri.replace('nbds:', 'nbd:'))).rejects.toThrow(/TLS/);
      expect(await refusal({ port, exportName: token, mode: 'plain' })).toBe('tls_required');
      const turned = Buffer.concat([
        Buffer.from([0, 0, 0, 3]),
        nbd.encodeOption(nbd.OPT_STARTTLS),
        nbd.encodeOption(nbd.OPT_GO, Buffer.concat([nbd.encodeString(token), Buffer.from([0, 0])])),
      ]);
      const { received, ended } = await throwAt(port, turned, { halfOpen: true });
      expect(ended).toBe(true);
      expect(received.includes(nbd.encodeOptionReply(nbd.OPT_GO, nbd.REP_ACK).subarray(0, 12))).toBe(false);
      const server = hosts['host-a']!;
      const mode = 'starttls';
      expect(['tls', 'disconnected']).toContain(
        await refusal({ port, exportName: token, mode, tls: as(stranger, server) }),
      );
      expect(await refusal({ port, exportName: 'wrong', mode, tls: as(client, server) })).toBe('unknown_export');
      expect(await tool('nbdinfo', '--size', withCertificates(client.folder))).toBe(`${1024 ** 3}\n`);
    },
  );

  for (const bare of ['host-a', 'host-b']) {
    test(`only ${bare} has no certificates: nothing is copied in the clear, and the Machine comes back`, async () => {
      await using cluster = await TestCluster.start({
        agentFlags: (host): Record<string, string> => (host === bare ? {} : flagsOf(hosts[host]!)),
      });
      const { migration, machineId } = await movesBack(cluster);
      expect(migration).toMatchObject({ failure: 'unsupported' });
      expect(migration.reason).toMatch(/certificates/);
      expect(migration.progress?.bytesTransferred ?? 0n).toBe(0n);
      expect(await cluster.machine(machineId)).toMatchObject({ hostId: 'host-a', state: MachineState.STARTED });
    });
  }

  test('certificates of two authorities: nothing is copied, and the Machine comes back', async () => {
    const other = new TestAuthority(join(directory, 'second'), 'second');
    const flags = { 'host-a': flagsOf(hosts['host-a']!), 'host-b': flagsOf(other.issue('host-b'), other.caPath) };
    await using cluster = await TestCluster.start({ agentFlags: (host) => flags[host as keyof typeof flags] });
    const { migration, machineId } = await movesBack(cluster);
    expect(migration.reason).toMatch(/TLS|certificate/);
    expect(migration.progress?.bytesTransferred ?? 0n).toBe(0n);
    expect(await cluster.machine(machineId)).toMatchObject({ hostId: 'host-a', state: MachineState.STARTED });
  });

  async function movesBack(cluster: TestCluster): Promise<{ migration: Migration; machineId: string }> {
    const { id: machineId } = await runWriter(cluster, 'host-a');
    const migration = await cluster.ended(await cluster.migrate(machineId, 'host-b'));
    expect(migration.state).toBe(MigrationState.MOVED_BACK);
    await cluster.until(
      'the Machine is up again',
      async () => (await cluster.machine(machineId)).state === MachineState.STARTED,
    );
    return { migration, machineId };
  }
});
