import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { ConnectRouter, ServiceImpl } from '@connectrpc/connect';
import {
  ClusterService,
  DrainService,
  HostService,
  LockService,
  MachineService,
  MigrationService,
  VolumeService,
} from '../proto/gen/ferry/v1/coordinator_pb.ts';
import {
  DowntimeSchema,
  HostStatus,
  type Machine,
  MachineSchema,
  MachineState,
} from '../proto/gen/ferry/v1/machine_pb.ts';
import {
  type Migration,
  MigrationSchema,
  MigrationState,
  MigrationStep,
  StepReportSchema,
} from '../proto/gen/ferry/v1/migration_pb.ts';
import { ManualClock } from '../shared/clock.ts';
import { silentLog } from '../shared/log.ts';
import { RpcServer } from '../shared/rpc/server.ts';
import type { Terminal } from './context.ts';
import { runCli } from './program.ts';

/** What a fake coordinator answers; what is left out is unimplemented. */
export interface FakeCoordinator {
  readonly machines?: Partial<ServiceImpl<typeof MachineService>>;
  readonly migrations?: Partial<ServiceImpl<typeof MigrationService>>;
  readonly hosts?: Partial<ServiceImpl<typeof HostService>>;
  readonly volumes?: Partial<ServiceImpl<typeof VolumeService>>;
  readonly locks?: Partial<ServiceImpl<typeof LockService>>;
  readonly drains?: Partial<ServiceImpl<typeof DrainService>>;
  readonly cluster?: Partial<ServiceImpl<typeof ClusterService>>;
}

/** A coordinator on loopback that answers what it is told to. */
export function fakeCoordinator(fake: FakeCoordinator, port = 0): RpcServer {
  const routes = (router: ConnectRouter) => {
    router.service(MachineService, fake.machines ?? {});
    router.service(MigrationService, fake.migrations ?? {});
    router.service(HostService, fake.hosts ?? {});
    router.service(VolumeService, fake.volumes ?? {});
    router.service(LockService, fake.locks ?? {});
    router.service(DrainService, fake.drains ?? {});
    router.service(ClusterService, fake.cluster ?? {});
  };
  return new RpcServer({ host: '127.0.0.1', port, log: silentLog, routes });
}

/** A clock that stands still, and says when somebody waits for it. */
class AnnouncingClock extends ManualClock {
  #announce = () => {};

  override sleep(ms: number, signal?: AbortSignal): Promise<void> {
    const slept = super.sleep(ms, signal);
    this.#announce();
    return slept;
  }

  /** Resolves once somebody sleeps. */
  async untilSleeping(): Promise<void> {
    while (this.sleeping === 0) {
      await new Promise<void>((resolve) => {
        this.#announce = resolve;
      });
    }
  }
}

/** A terminal that remembers what was printed. */
export class FakeTerminal implements Terminal {
  readonly env: Record<string, string | undefined> = {};
  readonly clock = new AnnouncingClock();
  readonly ctrlC = new AbortController();
  readonly isTerminal: boolean;
  stdout = '';
  stderr = '';
  #printed = () => {};

  constructor(isTerminal = false) {
    this.isTerminal = isTerminal;
  }

  out = (text: string) => {
    this.stdout += text;
    this.#printed();
  };
  err = (text: string) => {
    this.stderr += text;
    this.#printed();
  };
  columns = () => 200;
  rows = () => 40;
  interrupted = () => this.ctrlC.signal;

  /** Resolves once `text` was printed. */
  async until(text: string): Promise<void> {
    while (!(this.stdout + this.stderr).includes(text)) {
      await new Promise<void>((resolve) => {
        this.#printed = resolve;
      });
    }
  }

  run(...argv: string[]): Promise<number> {
    return runCli(argv, this);
  }
}

/** 2026-11-22T10:00:00Z and so many milliseconds. */
export const at = (ms: number) => timestampFromMs(Date.UTC(2026, 10, 22, 10) + ms);

export const machineId = 'd8dd625fed5568';
export const migrationId = 'mig_01J08P60K8NK33K9P5MQ5M4QN8';

/** A Machine that has moved once. */
export function movedMachine(changes: Partial<Machine> = {}): Machine {
  const machine = create(MachineSchema, {
    id: machineId,
    name: 'ledger',
    app: 'shop',
    network: 'default',
    state: MachineState.STARTED,
    instanceId: '01J08P60K8NK33K9P5MQ5M4QN8',
    privateIp: 'fdaa:0:1:2::3',
    bindIp: '127.1.2.3',
    region: 'local',
    hostId: 'host-2',
    hostStatus: HostStatus.OK,
    epoch: 2n,
    volumeId: 'vol_0123456789abcdef',
    config: {
      image: '/usr/bin/node',
      guest: { cpuKind: 'shared', cpus: 1, memoryMb: 256 },
      init: { entrypoint: ['nice'], cmd: ['ledger.ts', '--fast'] },
    },
    checks: [
      { name: 'http', status: 'passing', output: '{"status":"ok"}', updatedAt: at(9000) },
      { name: 'tcp', status: 'critical', output: 'refused\nagain', updatedAt: at(9100) },
    ],
    createdAt: at(0),
    updatedAt: at(8000),
    events: [
      { type: 'launch', status: 'created', source: 'user', timestamp: at(0) },
      { type: 'start', status: 'started', source: 'agent', timestamp: at(120) },
      {
        type: 'exit',
        status: 'stopped',
        source: 'agent',
        timestamp: at(5000),
        exitEvent: { exitCode: 0, oomKilled: false, requestedStop: true },
      },
      {
        type: 'launch',
        status: 'created',
        source: 'agent',
        timestamp: at(6000),
        migration: {
          migrated: true,
          migrationId,
          sourceHost: 'host-1',
          destinationHost: 'host-2',
          sourceVolumeId: 'vol_aaaaaaaaaaaaaaaa',
          destinationVolumeId: 'vol_0123456789abcdef',
          downtime: {
            signalToExitMs: 100n,
            exitToCopiedMs: 800n,
            copiedToVerifiedMs: 200n,
            verifiedToStartedMs: 34n,
            startedToHealthyMs: 100n,
            totalMs: 1234n,
            longestWriteStallMs: 12n,
          },
          moveReason: 'maintenance',
          orderedBy: 'alice',
          drainId: 'drn_01J08P60K8NK33K9P5MQ5M4QN8',
        },
      },
      { type: 'start', status: 'started', source: 'agent', timestamp: at(6100) },
    ],
  });
  return Object.assign(machine, changes);
}

const stepsDone = [
  { step: MigrationStep.PLAN, startedAt: at(0), endedAt: at(3), message: 'claimed' },
  { step: MigrationStep.PREPARE, startedAt: at(3), endedAt: at(50), message: 'host-2 is ready' },
  { step: MigrationStep.LOCK, startedAt: at(50), endedAt: at(70), message: 'network default, fence 1' },
  { step: MigrationStep.STOP, startedAt: at(70), endedAt: at(1170), message: 'stopped' },
].map((step) => create(StepReportSchema, step));

/** A migration on its way: copying. */
export function copyingMigration(changes: Partial<Migration> = {}): Migration {
  const migration = create(MigrationSchema, {
    id: migrationId,
    machineId,
    network: 'default',
    source: 'host-1',
    destination: 'host-2',
    state: MigrationState.RUNNING,
    step: MigrationStep.FORK,
    attempt: 1,
    waitingFor: 'the copy at host-2',
    steps: [...stepsDone, { step: MigrationStep.FORK, startedAt: at(1170) }],
    progress: {
      bytesTotal: 1024n ** 3n,
      bytesDone: 512n * 1024n ** 2n,
      bytesTransferred: 100n * 1024n ** 2n,
      bytesPerSecond: 256n * 1024n ** 2n,
      remainingMs: 2000n,
      phase: 'copying',
    },
    createdAt: at(0),
    holdsLock: true,
    fence: 1n,
    term: 1n,
  });
  return Object.assign(migration, changes);
}

/** The same, moved and settled. */
export function movedMigration(changes: Partial<Migration> = {}): Migration {
  return copyingMigration({
    state: MigrationState.MOVED,
    step: MigrationStep.SETTLE,
    steps: [
      ...stepsDone,
      create(StepReportSchema, {
        step: MigrationStep.FORK,
        startedAt: at(1170),
        endedAt: at(2170),
        message: 'roots equal',
      }),
    ],
    waitingFor: '',
    sourceRoot: 'aa11',
    destinationRoot: 'aa11',
    downtime: create(DowntimeSchema, {
      signalToExitMs: 100n,
      exitToCopiedMs: 800n,
      copiedToVerifiedMs: 200n,
      verifiedToStartedMs: 34n,
      startedToHealthyMs: 100n,
      totalMs: 1234n,
    }),
    endedAt: at(2500),
    holdsLock: false,
    settled: true,
    epoch: 2n,
    ...changes,
  });
}
