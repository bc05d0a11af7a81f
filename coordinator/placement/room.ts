import type { MachineConfig } from '../../proto/gen/ferry/v1/machine_pb.ts';

/** Shared CPUs that one CPU of a host may be promised as; performance CPUs are promised once. */
export const sharedPerCpu = 8;

/** What an agent wants free besides the bytes of a copy; the same figure as its own check. */
export const diskReserveBytes = 64 * 1024 * 1024;

const gibibyte = 1024 ** 3;

/** Room on a host, or what a Machine takes of it. */
export interface Room {
  /** In shares: `sharedPerCpu` of them are one CPU. */
  readonly cpuShares: number;
  readonly memoryMb: number;
  readonly diskBytes: number;
}

export const noRoom: Room = { cpuShares: 0, memoryMb: 0, diskBytes: 0 };

/** What is left after `taken` is gone; may fall below zero. */
export function less(room: Room, taken: Room): Room {
  return {
    cpuShares: room.cpuShares - taken.cpuShares,
    memoryMb: room.memoryMb - taken.memoryMb,
    diskBytes: room.diskBytes - taken.diskBytes,
  };
}

/** Both together. */
export function plus(room: Room, other: Room): Room {
  return {
    cpuShares: room.cpuShares + other.cpuShares,
    memoryMb: room.memoryMb + other.memoryMb,
    diskBytes: room.diskBytes + other.diskBytes,
  };
}

/**
 * What a Machine takes. Of a volume that exists its bytes on the disk count; of one that is to be created, or whose
 * bytes are not known, the full size of the config's mounts.
 */
export function roomOf(config: MachineConfig | undefined, allocatedBytes?: number): Room {
  const { cpus = 0, cpuKind = '', memoryMb = 0 } = config?.guest ?? {};
  const fullBytes = (config?.mounts ?? []).reduce((sum, mount) => sum + mount.sizeGb * gibibyte, 0);
  return {
    cpuShares: cpuKind === 'performance' ? cpus * sharedPerCpu : cpus,
    memoryMb,
    diskBytes: allocatedBytes ?? fullBytes,
  };
}
