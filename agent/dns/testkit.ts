import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { type DirectoryRow, DirectoryRowSchema } from '../../proto/gen/ferry/v1/directory_pb.ts';
import { seededRandom } from '../../shared/random.ts';
import type { Names } from './answer.ts';

/** A Machine of app "shop" in region "ams" that runs; for tests. */
export function row(id: string, facts: MessageInitShape<typeof DirectoryRowSchema> = {}): DirectoryRow {
  return create(DirectoryRowSchema, {
    machineId: id.padEnd(14, '0'),
    app: 'shop',
    network: 'net',
    hostId: 'host-a',
    region: 'ams',
    epoch: 1n,
    privateIp: `fdaa:0:1:0:1:0:${id}:0`,
    started: true,
    processGroup: 'app',
    ...facts,
  });
}

/** Names of these Machines, as an agent in region "ams" answers them. */
export function namesOf(...rows: readonly DirectoryRow[]): Names {
  const apps = new Map<string, DirectoryRow[]>();
  for (const each of rows) apps.set(each.app, [...(apps.get(each.app) ?? []), each]);
  return { apps, region: 'ams', serial: 7, random: seededRandom(1) };
}
