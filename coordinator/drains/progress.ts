import { type Drain, type DrainMachine, DrainMachineState, DrainState } from '../../proto/gen/ferry/v1/drain_pb.ts';
import { type Migration, MigrationStep, MigrationStrategy } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { stepsInOrder } from '../../shared/migration-steps.ts';
import { copyBytesPerSecondDefault, lockOverheadMs } from '../placement/estimate.ts';
import type { MoveLimits } from '../placement/order.ts';
import { type Job, type Speeds, simulate } from '../placement/simulate.ts';

const { WAITING, MOVING, MOVED, PARKED, GONE } = DrainMachineState;

/** What a drain is moving now, by Machine ID. */
export type Migrations = ReadonlyMap<string, Migration>;

/** Predicts when each Machine that has yet to move gets where, from what was predicted and what has happened. */
export function foresee(drain: Drain, migrations: Migrations, limits: MoveLimits, bytesPerSecond: number) {
  const jobs = drain.machines.flatMap((machine) => jobOf(machine, drain, migrations.get(machine.machineId)));
  const speeds: Speeds = {
    ...limits,
    sourceBytesPerSecond: Math.max(1, bytesPerSecond),
    destinationBytesPerSecond: () => Math.max(1, bytesPerSecond),
  };
  return simulate(jobs, speeds);
}

/** Bytes and times of a drain as they are now. Changes `drain`. */
export function account(drain: Drain, migrations: Migrations, limits: MoveLimits): void {
  const { machines } = drain;
  let rate = 0;
  for (const machine of machines) {
    const { state, bytes } = machine;
    const migration = state === MOVING ? migrations.get(machine.machineId) : undefined;
    if (state === MOVED) machine.bytesDone = bytes;
    else if (state !== MOVING && state !== PARKED) machine.bytesDone = 0n;
    else if (migration !== undefined) machine.bytesDone = arrived(bytes, migration);
    if (migration !== undefined && isCopying(migration)) rate += Number(migration.progress?.bytesPerSecond ?? 0n);
  }
  const counting = machines.filter(({ state }) => state !== GONE);
  drain.machinesTotal = machines.length;
  drain.machinesMoved = machines.filter(({ state }) => state === MOVED || state === GONE).length;
  drain.machinesParked = machines.filter(({ state }) => state === PARKED).length;
  drain.bytesTotal = counting.reduce((sum, { bytes }) => sum + bytes, 0n);
  drain.bytesDone = counting.reduce((sum, { bytesDone }) => sum + bytesDone, 0n);
  drain.bytesPerSecond = BigInt(Math.round(rate));
  const hasRest = machines.some(({ state }) => state === WAITING || state === MOVING);
  const runs = drain.state === DrainState.RUNNING || drain.state === DrainState.PAUSED;
  if (hasRest && runs) {
    const { totalMs } = foresee(drain, migrations, limits, rate > 0 ? rate : predictedRate(drain));
    drain.remainingMs = BigInt(Math.round(totalMs));
  } else {
    delete drain.remainingMs;
  }
}

/** The share of a volume that is at its destination, in bytes of the disk. */
function arrived(bytes: bigint, { progress }: Migration): bigint {
  if (progress === undefined || progress.bytesTotal === 0n) return 0n;
  const done = (bytes * progress.bytesDone) / progress.bytesTotal;
  return done > bytes ? bytes : done;
}

function isCopying({ step }: Migration): boolean {
  return step === MigrationStep.PRECOPY || step === MigrationStep.FORK;
}

/** The rate that the plan was made with. */
function predictedRate({ machines }: Drain): number {
  const bytesMs = ({ predictedCopyMs, predictedFixedMs }: DrainMachine) => predictedCopyMs - predictedFixedMs;
  const known = machines.filter((machine) => machine.bytes > 0n && bytesMs(machine) > 0n);
  // Whole milliseconds of the largest tell most.
  const [largest] = known.sort((a, b) => (a.bytes < b.bytes ? 1 : -1));
  if (largest === undefined) return copyBytesPerSecondDefault;
  return (Number(largest.bytes) * 1000) / Number(bytesMs(largest));
}

function jobOf(machine: DrainMachine, { options }: Drain, migration: Migration | undefined): Job[] {
  const { machineId, network, destination, state } = machine;
  if (state !== WAITING && state !== MOVING) return [];
  if (state === WAITING && destination === '') return [];
  const isCold = options?.strategy === MigrationStrategy.COLD;
  const leftBytes = Number(machine.bytes - (state === MOVING ? machine.bytesDone : 0n));
  const fixedMs = Number(machine.predictedFixedMs);
  const bytesMs = Math.max(0, Number(machine.predictedCopyMs) - fixedMs);
  const besidesMs = Number(machine.predictedLockMs) || lockOverheadMs;
  const downtimeMs = Number(machine.predictedDowntimeMs);
  const phase = state === WAITING ? 'waiting' : phaseOf(migration);
  const inLock = phase === 'locked';
  return [
    {
      machineId,
      network,
      destination,
      phase,
      copyBytes: isCold || inLock ? 0 : leftBytes,
      copyMs: isCold || inLock ? 0 : fixedMs,
      lockedBytes: isCold ? leftBytes : 0,
      lockedMs: besidesMs + (isCold ? Math.max(0, downtimeMs - bytesMs) : downtimeMs),
    },
  ];
}

function phaseOf(migration: Migration | undefined): Job['phase'] {
  if (migration === undefined) return 'copying';
  const { step } = migration;
  if (step === MigrationStep.LOCK) return migration.holdsLock ? 'locked' : 'queued';
  return stepsInOrder.indexOf(step) < stepsInOrder.indexOf(MigrationStep.LOCK) ? 'copying' : 'locked';
}
