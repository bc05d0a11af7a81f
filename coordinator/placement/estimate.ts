import { timestampMs } from '@bufbuild/protobuf/wkt';
import type { Downtime, Machine } from '../../proto/gen/ferry/v1/machine_pb.ts';
import {
  type Migration,
  MigrationState,
  MigrationStep,
  MigrationStrategy,
} from '../../proto/gen/ferry/v1/migration_pb.ts';
import { bytesText, msText } from './words.ts';

/** Bytes a second of a copy when nothing was measured yet. */
export const copyBytesPerSecondDefault = 200e6;
/** Bytes a second at which a source without reflinks reads a stopped volume. */
const readBytesPerSecond = 500e6;
/** Stop and start of a Machine that never moved. */
const stopStartMsDefault = 500;
/** A Machine with checks that never moved becomes healthy in this time. */
const checkedHealthyMs = 1000;
/** Without checks it is healthy once it has run for so long. */
const uncheckedHealthyMs = 5000;
/** Permits, the last round and the release take the lock for so long besides the downtime, when nothing was measured yet. */
export const lockOverheadMs = 500;
/** Each copy takes so long besides its bytes (snapshots, maps, syncs, re-reading), when nothing was measured yet. */
export const copyFixedMsDefault = 400;
/** Smaller copies say nothing about a rate, and larger ones nothing about what each copy takes besides its bytes. */
const measuredBytesMin = 16 * 1024 * 1024;
/** Copies that are looked at: the fastest had the line to itself. */
const measuredCopiesMax = 20;

/** What earlier migrations tell. */
export interface History {
  /** Undefined when no copy was big enough. */
  readonly copyBytesPerSecond: number | undefined;
  /** What each copy takes besides its bytes. */
  readonly copyFixedMs: number;
  /** Time under the lock besides the downtime. */
  readonly lockMs: number;
  /** Stop, start and health of a Machine without its copy, by Machine ID. */
  readonly stopStartMs: ReadonlyMap<string, number>;
}

/** Reads migrations, newest first. */
export function historyOf(migrations: readonly Migration[]): History {
  const stopStartMs = new Map<string, number>();
  const copies: Copy[] = [];
  const heldMs: number[] = [];
  const lockedMs: number[] = [];
  for (const migration of migrations) {
    const { machineId, downtime, state } = migration;
    if (state !== MigrationState.MOVED) continue;
    if (downtime !== undefined && !stopStartMs.has(machineId)) stopStartMs.set(machineId, withoutCopyMs(downtime));
    const bytes = Number(migration.progress?.bytesTransferred ?? 0n);
    const ms = stepMs(migration, MigrationStep.PRECOPY, MigrationStep.FORK);
    if (bytes > 0 && ms !== undefined && ms > 0) copies.push({ bytes, ms });
    const lockMs = stepMs(migration, MigrationStep.LOCK);
    if (lockMs !== undefined) lockedMs.push(lockMs);
    const held = heldBesidesMs(migration);
    if (held !== undefined) heldMs.push(held);
  }
  const copyFixedMs = fixedMsOf(copies.filter(({ bytes }) => bytes < measuredBytesMin));
  return {
    copyBytesPerSecond: rateOf(
      copies.filter(({ bytes }) => bytes >= measuredBytesMin),
      copyFixedMs,
    ),
    copyFixedMs,
    // Most moves stood in line: only the fastest tell what the lock takes by itself.
    lockMs: heldMs.length === 0 ? lockOverheadMs : quantile(lockedMs, 0.1) + quantile(heldMs, 0.5),
    stopStartMs,
  };
}

interface Copy {
  readonly bytes: number;
  readonly ms: number;
}

function fixedMsOf(small: readonly Copy[]): number {
  if (small.length === 0) return copyFixedMsDefault;
  const fixed = small.map(({ bytes, ms }) => Math.max(0, ms - (bytes * 1000) / copyBytesPerSecondDefault));
  return quantile(fixed.slice(0, measuredCopiesMax), 0.5);
}

/** The fastest had the line to itself. A copy that took hardly more than any takes says little: at most half is taken off. */
function rateOf(large: readonly Copy[], fixedMs: number): number | undefined {
  const rates = large.map(({ bytes, ms }) => (bytes * 1000) / Math.max(ms / 2, ms - fixedMs));
  return rates.length === 0 ? undefined : Math.max(...rates.slice(0, measuredCopiesMax));
}

/** From the order to stop to the release of the lock, less the downtime itself. */
function heldBesidesMs({ steps, downtime }: Migration): number | undefined {
  const stopped = steps.find(({ step }) => step === MigrationStep.STOP)?.startedAt;
  const released = steps.find(({ step }) => step === MigrationStep.RELEASE)?.endedAt;
  if (stopped === undefined || released === undefined || downtime === undefined) return undefined;
  return Math.max(0, timestampMs(released) - timestampMs(stopped) - Number(downtime.totalMs));
}

/** The value below which so large a share lies; 0 without any. */
function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length * share)] ?? 0;
}

function withoutCopyMs({ signalToExitMs, verifiedToStartedMs, startedToHealthyMs }: Downtime): number {
  return Number(signalToExitMs + verifiedToStartedMs + startedToHealthyMs);
}

/** Time that a migration spent in these steps, in milliseconds; undefined when it finished none. */
export function stepMs({ steps }: Migration, ...wanted: readonly MigrationStep[]): number | undefined {
  const times = steps.flatMap(({ step, startedAt, endedAt }) =>
    wanted.includes(step) && startedAt !== undefined && endedAt !== undefined
      ? [timestampMs(endedAt) - timestampMs(startedAt)]
      : [],
  );
  return times.length === 0 ? undefined : times.reduce((sum, ms) => sum + ms, 0);
}

/** A move that is to be predicted. */
export interface Prospect {
  readonly machine: Machine;
  /** It shall run: stopping it costs downtime. */
  readonly runs: boolean;
  /** Bytes of its volume on the disk, and in full; undefined without one. */
  readonly volume: { readonly allocatedBytes: number; readonly sizeBytes: number } | undefined;
  readonly sourceReflinks: boolean;
  readonly strategy: MigrationStrategy;
  readonly budgetMs: number;
  readonly bytesPerSecond: number;
}

/** What a move will take. */
export interface Prediction {
  /** The copy, had it the line to itself. */
  readonly copyMs: number;
  /** The part of it that each copy takes, however small. */
  readonly fixedMs: number;
  readonly downtimeMs: number;
  /** How the volume travels, and why, in words. */
  readonly note: string;
}

/** Predicts one move. */
export function predict(
  prospect: Prospect,
  { stopStartMs, copyFixedMs: fixedMs }: Pick<History, 'stopStartMs' | 'copyFixedMs'>,
): Prediction {
  const { machine, runs, volume, strategy, budgetMs, bytesPerSecond } = prospect;
  const hasChecks = Object.keys(machine.config?.checks ?? {}).length > 0;
  const guessMs = stopStartMsDefault + (hasChecks ? checkedHealthyMs : uncheckedHealthyMs);
  const stopMs = runs ? (stopStartMs.get(machine.id) ?? guessMs) : 0;
  if (volume === undefined) return { copyMs: 0, fixedMs: 0, downtimeMs: stopMs, note: 'no volume: nothing to copy' };
  const bytes = volume.allocatedBytes;
  const bytesMs = (bytes * 1000) / bytesPerSecond;
  const copyMs = fixedMs + bytesMs;
  const size = `${bytesText(bytes)} on the disk, ${bytesText(volume.sizeBytes)} in full`;
  if (!runs) return { copyMs, fixedMs, downtimeMs: 0, note: `stopped: copied once (${size}); it stays stopped` };
  if (strategy === MigrationStrategy.COLD) {
    const note = `cold, as ordered: stopped, then copied (${size}), then started`;
    return { copyMs, fixedMs, downtimeMs: stopMs + copyMs, note };
  }
  const lastMs = Math.min(budgetMs, bytesMs);
  if (prospect.sourceReflinks) {
    const note = `copied while it runs, from reflink snapshots (${size}); the last copy is to take at most ${msText(budgetMs)}`;
    return { copyMs, fixedMs, downtimeMs: stopMs + lastMs, note };
  }
  const readMs = (bytes * 1000) / readBytesPerSecond;
  const note =
    `copied while it runs, from the file in use (${size}), because its host has no reflinks: ` +
    `all of it is read once more while it is stopped, about ${msText(readMs)}`;
  return { copyMs, fixedMs, downtimeMs: stopMs + lastMs + readMs, note };
}
