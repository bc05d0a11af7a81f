import { once } from 'node:events';
import { connect } from 'node:net';
import { createClient } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { afterEach, expect, test } from 'vitest';
import { LockService } from '../../proto/gen/ferry/v1/coordinator_pb.ts';
import { Health, HealthCheckResponse_ServingStatus as Status } from '../../proto/gen/grpc/health/v1/health_pb.ts';
import { ServerReflection } from '../../proto/gen/grpc/reflection/v1/reflection_pb.ts';
import { FerryError, toFerryError } from '../error.ts';
import { silentLog } from '../log.ts';
import { ClientPool } from './client.ts';
import { RpcServer } from './server.ts';

const servers: RpcServer[] = [];

afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.close()));
});

async function startServer(): Promise<string> {
  const server = new RpcServer({
    host: '127.0.0.1',
    port: 0,
    log: silentLog,
    routes: (router) =>
      router.service(LockService, {
        listLocks: () => ({ locks: [{ network: 'alpha' }] }),
        explainLock: () => {
          throw new FerryError('unknown_network', 'no network beta', { field: 'network', facts: { network: 'beta' } });
        },
      }),
  });
  servers.push(server);
  return server.listen();
}

test('calls pass, and errors arrive typed', async () => {
  const client = new ClientPool().client(LockService, await startServer());
  expect((await client.listLocks({})).locks[0]?.network).toBe('alpha');
  const error = await client.explainLock({}).then(
    () => undefined,
    (thrown: unknown) => toFerryError(thrown),
  );
  expect(error).toMatchObject({ reason: 'unknown_network', field: 'network', facts: { network: 'beta' } });
  expect(error?.nextAction).toContain('ferry machine list');
});

test('a server that is not there is unreachable', async () => {
  const client = new ClientPool().client(LockService, '127.0.0.1:1');
  const error = await client.listLocks({}, { timeoutMs: 2000 }).catch((thrown: unknown) => toFerryError(thrown));
  expect(error).toMatchObject({ reason: 'unreachable' });
});

test('refuses to listen beyond loopback', () => {
  expect(() => new RpcServer({ host: '0.0.0.0', port: 0, log: silentLog, routes: () => {} })).toThrow(
    /no certificates/,
  );
});

test('health checks each service and says NOT_SERVING when going down', async () => {
  const address = await startServer();
  const health = createClient(Health, createGrpcTransport({ baseUrl: `http://${address}` }));
  expect((await health.check({})).status).toBe(Status.SERVING);
  expect((await health.check({ service: 'ferry.v1.LockService' })).status).toBe(Status.SERVING);
  await expect(health.check({ service: 'nobody' })).rejects.toThrow('not_found');
  const seen: Status[] = [];
  for await (const { status } of health.watch({})) {
    seen.push(status);
    if (seen.length === 1) void servers[0]!.close();
  }
  expect(seen).toEqual([Status.SERVING, Status.NOT_SERVING]);
});

test('reflection lists services and gives the file of a symbol with its dependencies', async () => {
  const address = await startServer();
  const reflection = createClient(ServerReflection, createGrpcTransport({ baseUrl: `http://${address}` }));
  async function* questions() {
    yield { messageRequest: { case: 'listServices' as const, value: '' } };
    yield { messageRequest: { case: 'fileContainingSymbol' as const, value: 'ferry.v1.LockService.ListLocks' } };
    yield { messageRequest: { case: 'fileContainingSymbol' as const, value: 'no.such.Thing' } };
  }
  const answers = [];
  for await (const response of reflection.serverReflectionInfo(questions())) answers.push(response.messageResponse);
  expect(answers[0]?.value).toMatchObject({
    service: expect.arrayContaining([expect.objectContaining({ name: 'ferry.v1.LockService' })]),
  });
  expect(answers[1]).toMatchObject({ case: 'fileDescriptorResponse' });
  expect(answers[2]).toMatchObject({ case: 'errorResponse' });
});

test('a peer that never hangs up does not keep the server from closing', async () => {
  const address = await startServer();
  const socket = connect({ host: '127.0.0.1', port: Number(address.split(':')[1]), allowHalfOpen: true });
  // The preface of HTTP/2 and empty settings; the server's own settings are the sign that the session is there.
  socket.write(
    Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0])]),
  );
  await once(socket, 'readable');
  await servers[0]?.close();
  socket.destroy();
});
