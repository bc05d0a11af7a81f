import type { MachineRecord } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { FerryError, invalidArgument } from '../../shared/error.ts';
import { checkMachineConfig } from '../../shared/machine-config.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { VolumeStore } from '../volumes/store.ts';
import { privateIp } from './addresses.ts';
import { readConfig } from './config.ts';
import { buildEnvironment } from './environment.ts';

/** Room that a host keeps for itself, in bytes. */
const spareBytes = 64 * 1024 * 1024;

/** What is asked before a Machine is taken. */
export interface AdmissionOptions {
  readonly host: string;
  readonly region: string;
  readonly volumes: Pick<VolumeStore, 'freeBytes'>;
  readonly runtime: Pick<Runtime, 'canRun'>;
  /** Bytes promised to copies that are being received. */
  readonly reservedBytes: () => number;
}

/** Whether this host can take one more Machine. */
export class Admission {
  readonly #options: AdmissionOptions;

  constructor(options: AdmissionOptions) {
    this.#options = options;
  }

  /** Throws cannot_run or no_space unless this host could run the Machine. */
  async canTake(record: MachineRecord): Promise<void> {
    const { runtime, volumes, host, region, reservedBytes } = this.#options;
    const config = record.config;
    if (config === undefined) throw invalidArgument('config', 'is missing', 'a Machine config');
    checkMachineConfig(config);
    const { command } = readConfig(config);
    const address = privateIp(record.networkNumber, 0, 0);
    const placement = { appName: record.app, machineId: record.machineId, region, privateIp: address, bindIp: address };
    const environment = buildEnvironment(config, placement, '', null);
    await runtime.canRun(command, environment, '/');
    const wanted = Number(record.volumeAllocatedBytes) + spareBytes;
    const free = (await volumes.freeBytes()) - reservedBytes();
    if (record.volumeSizeBytes > 0n && free < wanted) {
      throw new FerryError('no_space', `host ${host} has ${free} bytes free for volumes, this copy needs ${wanted}`, {
        facts: { host, free: String(free), needed: String(wanted) },
      });
    }
  }
}
