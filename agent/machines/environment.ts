import type { MachineConfig } from '../../proto/gen/ferry/v1/machine_pb.ts';

/** Where a Machine is placed, as its program is told. */
export interface Placement {
  readonly appName: string;
  readonly machineId: string;
  readonly region: string;
  /** 6PN address of this placement. */
  readonly privateIp: string;
  /** Address to listen on. */
  readonly bindIp: string;
}

/** What a Machine's volume is to its program: a mounted directory, or the image file itself. */
export interface AttachedVolume {
  readonly path: string;
  readonly kind: 'ext4' | 'raw';
}

/** The environment of one start of a Machine's program: the config's variables, then Ferry's own. */
export function buildEnvironment(
  config: MachineConfig,
  placement: Placement,
  instanceId: string,
  volume: AttachedVolume | null,
): Record<string, string> {
  const memoryMb = config.guest?.memoryMb ?? 0;
  return {
    ...config.env,
    FERRY_APP_NAME: placement.appName,
    FERRY_MACHINE_ID: placement.machineId,
    FERRY_INSTANCE_ID: instanceId,
    FERRY_REGION: placement.region,
    FERRY_PRIVATE_IP: placement.privateIp,
    FERRY_BIND_IP: placement.bindIp,
    FERRY_PROCESS_GROUP: config.metadata.process_group ?? 'app',
    FERRY_IMAGE_REF: config.image,
    ...(memoryMb === 0 ? {} : { FERRY_VM_MEMORY_MB: String(memoryMb) }),
    ...(volume === null ? {} : { FERRY_VOLUME_PATH: volume.path, FERRY_VOLUME_KIND: volume.kind }),
  };
}

/** Working directory of a Machine's program: its mounted volume, else the root directory. */
export function workingDirectory(volume: AttachedVolume | null): string {
  return volume?.kind === 'ext4' ? volume.path : '/';
}
