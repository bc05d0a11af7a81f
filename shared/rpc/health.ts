import { Code, ConnectError, type ConnectRouter } from '@connectrpc/connect';
import { Health, HealthCheckResponse_ServingStatus as Status } from '../../proto/gen/grpc/health/v1/health_pb.ts';

/** Registers grpc.health.v1: every service that the router has is serving until `shutdown` aborts. */
export function registerHealth(router: ConnectRouter, shutdown: AbortSignal): void {
  const statusOf = (service: string): Status | undefined => {
    const known = service === '' || router.handlers.some((handler) => handler.service.typeName === service);
    if (!known) return undefined;
    return shutdown.aborted ? Status.NOT_SERVING : Status.SERVING;
  };
  router.service(Health, {
    check(request) {
      const status = statusOf(request.service);
      if (status === undefined) throw new ConnectError(`no service ${request.service} here`, Code.NotFound);
      return { status };
    },
    list() {
      const names = new Set(['', ...router.handlers.map((handler) => handler.service.typeName)]);
      return {
        statuses: Object.fromEntries([...names].map((name) => [name, { status: statusOf(name) ?? Status.UNKNOWN }])),
      };
    },
    async *watch(request, context) {
      yield { status: statusOf(request.service) ?? Status.SERVICE_UNKNOWN };
      const ended = AbortSignal.any([context.signal, shutdown]);
      if (!ended.aborted) await new Promise((resolve) => ended.addEventListener('abort', resolve, { once: true }));
      if (shutdown.aborted && !context.signal.aborted) yield { status: Status.NOT_SERVING };
    },
  });
}
