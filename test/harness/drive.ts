import type { Handover, OrderHeader, SignedStatement } from '../../proto/gen/ferry/v1/handover_pb.ts';
import { MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { durationFromMs } from '../../shared/duration.ts';
import { newMigrationId } from '../../shared/ids.ts';
import { systemRandom } from '../../shared/random.ts';
import type { TestCluster } from './cluster.ts';

const waitMs = 20_000;

/** Orders a migration step by step, as a coordinator would that can die after any of them. */
export class Drive {
  readonly migrationId: string;
  readonly source: string;
  readonly destination: string;
  readonly #cluster: TestCluster;
  readonly #machineId: string;
  readonly #network: string;
  #term = 1n;
  #fence = 0n;
  /** Of the copy, once it is verified. */
  root = '';

  constructor(
    cluster: TestCluster,
    machine: { id: string; network: string },
    { source = 'host-a', destination = 'host-b', migrationId = '' } = {},
  ) {
    this.#cluster = cluster;
    this.#machineId = machine.id;
    this.#network = machine.network;
    this.source = source;
    this.destination = destination;
    this.migrationId = migrationId || newMigrationId(Date.now(), systemRandom);
  }

  get header(): Pick<OrderHeader, 'migrationId' | 'term' | 'lockHolder' | 'fence'> {
    const { migrationId } = this;
    return { migrationId, term: this.#term, lockHolder: migrationId, fence: this.#fence };
  }

  get from() {
    return this.#cluster.handover(this.source);
  }

  get to() {
    return this.#cluster.handover(this.destination);
  }

  /** Another driver takes over. */
  raiseTerm(): void {
    this.#term += 1n;
  }

  /** The header of the driver before this one. */
  get staleHeader() {
    return { ...this.header, term: this.#term - 1n };
  }

  async offer() {
    const destination = { hostId: this.destination, address: this.#cluster.address(this.destination) };
    return this.from.offer({ header: this.header, machineId: this.#machineId, destination });
  }

  /** Offer, then Prepare; answers the volume at the destination. */
  async prepare(): Promise<Handover> {
    const { handover, record } = await this.offer();
    const prepared = await this.to.prepare({
      header: this.header,
      ...(record === undefined ? {} : { record }),
      source: { hostId: this.source, address: this.#cluster.address(this.source) },
      epoch: handover!.epoch + 1n,
    });
    return prepared.handover!;
  }

  /** Rounds of the running Machine, until enough is done; with `lastRound` one more. */
  async precopy(lastRound = false, downtimeBudgetMs = 300n): Promise<Handover> {
    for (;;) {
      const wish = { header: this.header, wait: durationFromMs(waitMs), downtimeBudgetMs, lastRound };
      const { handover } = await this.to.precopy(wish, { timeoutMs: waitMs + 10_000 });
      if (handover?.precopy?.ended) return handover;
    }
  }

  async permits(fence = 1n): Promise<void> {
    this.#fence = fence;
    for (const client of [this.from, this.to]) {
      const permit = { network: this.#network, migrationId: this.migrationId, fence };
      await client.grantPermit({ permit, term: this.#term });
    }
  }

  /** Resolves when the source has stopped it. */
  async stop(): Promise<Handover> {
    const { handover } = await this.from.stopForMigration({ header: this.header, wait: durationFromMs(waitMs) });
    return handover!;
  }

  /** Resolves when the copy is verified. */
  async copy(): Promise<Handover> {
    const { handover } = await this.to.copy({ header: this.header, wait: durationFromMs(waitMs) });
    this.root = handover!.root;
    return handover!;
  }

  async relinquish(): Promise<Handover> {
    const { handover } = await this.from.relinquish({ header: this.header, destinationRoot: this.root });
    return handover!;
  }

  async accept(ticket: SignedStatement, record: Uint8Array): Promise<Handover> {
    const { handover } = await this.to.accept({ header: this.header, ticket, record });
    return handover!;
  }

  async decline(epoch = 2n, volumeId = ''): Promise<Handover> {
    const { handover } = await this.to.decline({
      header: this.header,
      machineId: this.#machineId,
      source: this.source,
      epoch,
      volumeId,
      reason: 'the test says no',
    });
    return handover!;
  }

  /** Up to and with the stop. */
  async untilStopped(): Promise<void> {
    await this.prepare();
    await this.permits();
    await this.stop();
  }

  /** From the stopped Machine to the accepted one; resolves when it runs at the destination and the source has settled. */
  async handOver(): Promise<void> {
    const { statement, record } = await this.relinquish();
    await this.accept(statement!, record);
    await untilRuns(this.#cluster, this.destination, this.#machineId);
    await this.#cluster.until(
      'the source has settled',
      async () => (await this.at(this.source))?.step === 'tombstoned',
    );
  }

  /** Gives the permits back. */
  async release(): Promise<void> {
    const permit = { network: this.#network, migrationId: this.migrationId, fence: this.#fence };
    for (const client of [this.from, this.to]) await client.releasePermit({ permit });
  }

  /** How it stands at a host, asked without driving it. */
  async at(host: string): Promise<Handover | undefined> {
    return handoverAt(this.#cluster, host, this.migrationId);
  }
}

/** How a migration stands at a host, without counting as its driver. */
export async function handoverAt(
  cluster: TestCluster,
  host: string,
  migrationId: string,
): Promise<Handover | undefined> {
  const { handovers } = await cluster.handover(host).listHandovers({}, { timeoutMs: 5000 });
  return handovers.find((each) => each.migrationId === migrationId);
}

/** Waits until no lock is held and no host holds a permit. */
export async function untilFree(cluster: TestCluster, hosts = ['host-a', 'host-b']): Promise<void> {
  await cluster.until('locks and permits are gone', async () => {
    const { locks } = await cluster.locks.listLocks({});
    const permits = await Promise.all(hosts.map((host) => cluster.handover(host).listPermits({})));
    return locks.length === 0 && permits.every((each) => each.permits.length === 0);
  });
}

/** Waits until a Machine runs and its checks pass, told by its agent alone. */
export async function untilRuns(cluster: TestCluster, host: string, machineId: string): Promise<void> {
  await cluster.until(`Machine ${machineId} runs on ${host}`, async () => {
    const { machine } = await cluster.agent(host).agentGetMachine({ machineId }, { timeoutMs: 5000 });
    const passing = machine!.checks.filter((check) => check.status === 'passing').length;
    return machine!.state === MachineState.STARTED && passing === Object.keys(machine!.config!.checks).length;
  });
}
