import { FerryError } from '../../shared/error.ts';
import type { Journal, MachineRow } from '../journal.ts';
import { type Addresses, privateIp } from './addresses.ts';
import type { Placement } from './environment.ts';

/** What the rows are told with. */
export interface MachineRowsOptions {
  readonly host: string;
  readonly region: string;
  readonly journal: Journal;
  readonly addresses: Addresses;
}

/** The journal's rows of this host's Machines, and where this host places them. */
export class MachineRows {
  readonly #options: MachineRowsOptions;

  constructor(options: MachineRowsOptions) {
    this.#options = options;
  }

  /** Throws unknown_machine. */
  of(machineId: string): MachineRow {
    const row = this.#options.journal.machine(machineId);
    if (row === undefined)
      throw new FerryError('unknown_machine', `no Machine ${machineId} on host ${this.#options.host}`, {
        field: 'machine_id',
      });
    return row;
  }

  /** Throws unknown_machine, or not_owner naming where it went. */
  owned(machineId: string): MachineRow {
    const row = this.of(machineId);
    const { placement } = row;
    if (placement.kind === 'owner') return row;
    const to = placement.kind === 'none' ? 'another host' : placement.destination;
    throw new FerryError('not_owner', `Machine ${machineId} moved from host ${this.#options.host} to ${to}`, {
      facts: { host: to },
    });
  }

  /** Its own address on this host. */
  privateIp(row: MachineRow): string {
    return privateIp(row.record.networkNumber, Number(this.#options.journal.meta('host_number') ?? 0), row.slot);
  }

  /** What its program is told of where it is. */
  placement(row: MachineRow): Placement {
    const { region, addresses } = this.#options;
    const address = this.privateIp(row);
    const bindIp = addresses.bindIp(address);
    return { appName: row.record.app, machineId: row.id, region, privateIp: address, bindIp };
  }
}
