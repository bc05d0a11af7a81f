import { createRegistry, type DescFile, type Registry, toBinary } from '@bufbuild/protobuf';
import { FileDescriptorProtoSchema } from '@bufbuild/protobuf/wkt';
import { Code, type ConnectRouter } from '@connectrpc/connect';
import {
  type ServerReflectionRequest,
  ServerReflection as V1,
} from '../../proto/gen/grpc/reflection/v1/reflection_pb.ts';
import { ServerReflection as V1Alpha } from '../../proto/gen/grpc/reflection/v1alpha/reflection_pb.ts';

/** Both versions of the protocol have the same fields; this is what one request asks. */
type Question = ServerReflectionRequest['messageRequest'];

function withDependencies(file: DescFile, seen = new Map<string, DescFile>()): Map<string, DescFile> {
  if (!seen.has(file.proto.name)) {
    seen.set(file.proto.name, file);
    for (const dependency of file.dependencies) withDependencies(dependency, seen);
  }
  return seen;
}

function fileOfSymbol(registry: Registry, symbol: string): DescFile | undefined {
  const type = registry.get(symbol);
  if (type !== undefined) return type.file;
  const cut = symbol.lastIndexOf('.');
  return cut < 0 ? undefined : registry.get(symbol.slice(0, cut))?.file;
}

/** What this server can be asked about. */
interface Described {
  readonly services: readonly string[];
  readonly files: ReadonlyMap<string, DescFile>;
  readonly registry: Registry;
}

function answer(question: Question, { services, files: known, registry }: Described) {
  const files = (file: DescFile) => ({
    case: 'fileDescriptorResponse' as const,
    value: {
      fileDescriptorProto: [...withDependencies(file).values()].map((each) =>
        toBinary(FileDescriptorProtoSchema, each.proto),
      ),
    },
  });
  const refused = (errorCode: Code, errorMessage: string) => ({
    case: 'errorResponse' as const,
    value: { errorCode, errorMessage },
  });
  switch (question.case) {
    case 'listServices':
      return { case: 'listServicesResponse' as const, value: { service: services.map((name) => ({ name })) } };
    case 'fileByFilename': {
      const file = known.get(question.value);
      return file === undefined ? refused(Code.NotFound, `no file ${question.value}`) : files(file);
    }
    case 'fileContainingSymbol': {
      const file = fileOfSymbol(registry, question.value);
      return file === undefined ? refused(Code.NotFound, `no symbol ${question.value}`) : files(file);
    }
    case 'fileContainingExtension':
    case 'allExtensionNumbersOfType':
      return refused(Code.NotFound, 'Ferry has no extensions');
    case undefined:
      return refused(Code.InvalidArgument, 'the request asks nothing');
  }
}

/** Registers server reflection (v1 and v1alpha) for all services that the router has by now and for itself. */
export function registerReflection(router: ConnectRouter): void {
  const described = [...new Set([...router.handlers.map((handler) => handler.service), V1, V1Alpha])];
  const services = described.map((service) => service.typeName).sort();
  const files = new Map<string, DescFile>();
  for (const service of described) withDependencies(service.file, files);
  const here: Described = { services, files, registry: createRegistry(...files.values()) };
  const respond = (request: { host: string; messageRequest: Question }) => ({
    validHost: request.host,
    messageResponse: answer(request.messageRequest, here),
  });
  router.service(V1, {
    async *serverReflectionInfo(requests) {
      for await (const request of requests) yield { ...respond(request), originalRequest: request };
    },
  });
  router.service(V1Alpha, {
    async *serverReflectionInfo(requests) {
      for await (const request of requests) yield { ...respond(request as never), originalRequest: request } as never;
    },
  });
}
