import { expect, it } from 'vitest';
import type { OpenExportRequest } from '../../proto/gen/ferry/v1/handover_pb.ts';
import { systemRandom } from '../../shared/random.ts';
import { SigningKey } from '../../shared/signing.ts';
import { PeerRoutes } from './peer-service.ts';
import { Peers } from './peers.ts';

const migrationId = 'mig_01ARZ3NDEKTSV4RRFFQ69G5FAV';
const peer = { hostId: 'host-a', address: '127.0.0.1:1', publicKey: null };

/** The request that a destination sends, and the source's answer to it: a source that never gets further than comparing. */
function setUp() {
  const key = new SigningKey(SigningKey.generatePem());
  const publicKey = Buffer.from(key.publicKey).toString('base64');
  const sent: OpenExportRequest[] = [];
  const client = { openExport: async (request: OpenExportRequest) => sent.push(request) };
  const peers = new Peers({
    host: 'host-b',
    pool: { client: () => client } as never,
    key,
    random: systemRandom,
    journal: { roster: () => new Map() } as never,
  });
  const comparing = async () => ({ comparing: true, bytesDone: 1, bytesTotal: 2 });
  const at = (step: string) =>
    new PeerRoutes({
      host: 'host-a',
      handovers: {
        row: () => ({ role: 'source', state: { step }, detail: { sourceVolumeId: 'vol', peer: { publicKey } } }),
      },
      sources: { of: async () => ({ live: comparing, stopped: comparing }) },
    } as never);
  const open = async (request: object, step = 'offered') => at(step).openExport(request as never, {} as never);
  return { peers, sent, open };
}

it('opens an export for what the destination signed, and for nothing that differs from it in any field', async () => {
  const { peers, sent, open } = setUp();
  await peers.openExport(peer, migrationId, 'AA:BB', { round: 2, haveSnapshot: 'mig/1', haveRoot: 'r' });
  const request = sent[0]!;
  expect(await open(request)).toMatchObject({ comparing: true });
  const others: Partial<OpenExportRequest>[] = [
    { migrationId: 'mig_01ARZ3NDEKTSV4RRFFQ69G5FAW' },
    { nonce: systemRandom.bytes(32) },
    { fingerprint: 'AA:BC' },
    { round: 3 },
    { haveSnapshot: '' },
    { haveSnapshot: 'mig/1r', haveRoot: '' },
    { haveRoot: 's' },
  ];
  for (const other of others) {
    await expect(open({ ...request, ...other }), JSON.stringify(Object.keys(other))).rejects.toMatchObject({
      reason: 'bad_signature',
    });
  }
  // A round of the running Machine is no leave to read the stopped one.
  await expect(open({ ...request, live: false }, 'stopped')).rejects.toMatchObject({ reason: 'bad_signature' });
});
