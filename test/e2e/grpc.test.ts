import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { MigrationService, WatchMigrationResponseSchema } from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import { MigrationState } from '../../proto/gen/ferry/v1/migration_pb.ts';
import {
  Health,
  HealthCheckResponseSchema,
  HealthCheckResponse_ServingStatus as Status,
} from '../../proto/gen/grpc/health/v1/health_pb.ts';
import { stepsInOrder } from '../../shared/migration-steps.ts';
import { TestCluster } from '../harness/cluster.ts';
import { GrpcClient } from '../harness/grpc.ts';
import { listenerConfig } from '../harness/listener.ts';

const run = promisify(execFile);
const buf = join(import.meta.dirname, '../../node_modules/.bin/buf');
const protocols = ['grpc', 'grpcweb', 'connect'] as const;
const coordinatorServices = ['Host', 'Lock', 'Machine', 'Migration', 'Volume'].map((name) => `ferry.v1.${name}Service`);
const agentServices = ['Agent', 'Handover', 'Peer'].map((name) => `ferry.v1.${name}Service`);

let cluster: TestCluster;
let machineId: string;

beforeAll(async () => {
  cluster = await TestCluster.start();
  machineId = (await cluster.run(listenerConfig(), { host: 'host-a' })).id;
});
afterAll(async () => cluster?.[Symbol.asyncDispose]());

/** Calls as grpcurl would: the schema comes from the server. Rejects with what buf wrote. */
async function curl(address: string, path: string, ...flags: readonly string[]): Promise<string> {
  const args = ['curl', '--http2-prior-knowledge', ...flags, `http://${address}${path}`];
  const { stdout } = await run(buf, args, { timeout: 60_000, cwd: cluster.dir });
  return stdout;
}

/** The JSON documents of a stream, one after the other. */
function documents(text: string): Record<string, unknown>[] {
  return JSON.parse(`[${text.trim().replaceAll(/\}\s*\n\{/g, '},{')}]`) as Record<string, unknown>[];
}

describe('through reflection, without proto files', () => {
  test.each(['grpc-v1', 'grpc-v1alpha'])('both daemons list their services and methods (%s)', async (reflection) => {
    const list = async (address: string) =>
      (await curl(address, '', '--reflect-protocol', reflection, '--list-services')).trim().split('\n');
    expect(await list(cluster.coordinator)).toEqual(
      expect.arrayContaining([...coordinatorServices, 'grpc.health.v1.Health']),
    );
    expect(await list(cluster.address('host-a'))).toEqual(
      expect.arrayContaining([...agentServices, 'grpc.health.v1.Health']),
    );
    const methods = await curl(cluster.coordinator, '', '--reflect-protocol', reflection, '--list-methods');
    expect(methods).toContain('ferry.v1.MigrationService/WatchMigration');
  });

  test.each(protocols)('both daemons answer calls and say what is wrong (%s over HTTP/2)', async (protocol) => {
    const hosts = JSON.parse(
      await curl(cluster.coordinator, '/ferry.v1.HostService/ListHosts', '--protocol', protocol),
    ) as { hosts: { id: string; status: string }[] };
    expect(hosts.hosts.map(({ id }) => id).sort()).toEqual(['host-a', 'host-b']);
    const request = JSON.stringify({ machineId });
    const path = '/ferry.v1.AgentService/AgentGetMachine';
    const { machine } = JSON.parse(
      await curl(cluster.address('host-a'), path, '--protocol', protocol, '--data', request),
    ) as { machine: { id: string; state: string } };
    expect(machine).toMatchObject({ id: machineId, state: 'MACHINE_STATE_STARTED' });
    const wrong = curl(cluster.address('host-b'), path, '--protocol', protocol, '--data', '{"machineId": "no such"}');
    const error = (await wrong.catch((thrown: unknown) => thrown)) as { stderr: string };
    expect(error.stderr).toContain('"code": "invalid_argument"');
    // The typed detail names the field.
    expect(error.stderr).toContain('ferry.v1.ErrorDetail');
    expect(error.stderr).toContain('machine_id');
  });

  test.each(protocols)('a migration is watched to its end (%s over HTTP/2)', async (protocol) => {
    const { hostId } = await cluster.machine(machineId);
    const destination = hostId === 'host-a' ? 'host-b' : 'host-a';
    const migrationId = await cluster.migrate(machineId, destination);
    const path = '/ferry.v1.MigrationService/WatchMigration';
    const data = JSON.stringify({ migrationId });
    const seen = documents(await curl(cluster.coordinator, path, '--protocol', protocol, '--data', data));
    expect(seen.at(-1)).toMatchObject({
      migration: { id: migrationId, destination, state: 'MIGRATION_STATE_MOVED', settled: true },
    });
  });
});

describe('@grpc/grpc-js, another implementation', () => {
  test('checks the health of both daemons and of each service', async () => {
    for (const [address, services] of [
      [cluster.coordinator, coordinatorServices],
      [cluster.address('host-a'), agentServices],
    ] as const) {
      using health = new GrpcClient(Health, address);
      for (const service of ['', ...services]) {
        const answer = await health.unary('check', HealthCheckResponseSchema, { service });
        expect(answer.status).toBe(Status.SERVING);
      }
      const unknown = health.unary('check', HealthCheckResponseSchema, { service: 'no.such.Service' });
      await expect(unknown).rejects.toMatchObject({ code: status.NOT_FOUND });
    }
  });

  test('watches the health of an agent until it goes down, and sees it again after', async () => {
    using health = new GrpcClient(Health, cluster.address('host-b'));
    const begun = Promise.withResolvers<void>();
    const watch = health.stream('watch', HealthCheckResponseSchema, { service: 'ferry.v1.AgentService' }, () =>
      begun.resolve(),
    );
    await begun.promise;
    await cluster.kill('host-b', 'SIGTERM');
    const { messages } = await watch;
    expect(messages.map((message) => message.status)).toEqual([Status.SERVING, Status.NOT_SERVING]);
    cluster.spawn('host-b');
    await cluster.until('it serves again', async () => {
      using again = new GrpcClient(Health, cluster.address('host-b'));
      return (await again.unary('check', HealthCheckResponseSchema)).status === Status.SERVING;
    });
  });

  test("watches a migration's stream to its end", async () => {
    const { hostId } = await cluster.machine(machineId);
    const migrationId = await cluster.migrate(machineId, hostId === 'host-a' ? 'host-b' : 'host-a');
    using migrations = new GrpcClient(MigrationService, cluster.coordinator);
    const { messages, code } = await migrations.stream('watchMigration', WatchMigrationResponseSchema, { migrationId });
    expect(code).toBe(status.OK);
    const seen = messages.map(({ migration }) => migration!);
    expect(seen.every(({ id }) => id === migrationId)).toBe(true);
    const places = seen.map(({ step }) => stepsInOrder.indexOf(step));
    expect(places).toEqual(places.toSorted((a, b) => a - b));
    expect(seen.at(-1)).toMatchObject({ state: MigrationState.MOVED, settled: true });
    expect(seen.at(-1)!.steps).toHaveLength(stepsInOrder.length);
    const unknown = await migrations.stream('watchMigration', WatchMigrationResponseSchema, { migrationId: 'mig_x' });
    expect(unknown).toMatchObject({ code: status.INVALID_ARGUMENT, messages: [] });
  });
});
