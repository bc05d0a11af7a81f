import { create } from '@bufbuild/protobuf';
import { type Downtime, DowntimeSchema } from '../../proto/gen/ferry/v1/machine_pb.ts';
import type { HandoverDetail } from '../journal.ts';

/** The split of a move's downtime; undefined while a part is missing. By each host's own clock, never below zero. */
export function downtimeOf(detail: HandoverDetail): Downtime | undefined {
  const { signalSentAtMs, stoppedAtMs, copiedAtMs, verifiedAtMs, startedAtMs, healthyAtMs } = detail;
  if (
    signalSentAtMs === undefined ||
    stoppedAtMs === undefined ||
    startedAtMs === undefined ||
    healthyAtMs === undefined
  ) {
    return undefined;
  }
  const verified = verifiedAtMs ?? stoppedAtMs;
  const copied = copiedAtMs ?? verified;
  const between = (fromMs: number, toMs: number) => BigInt(Math.max(0, Math.round(toMs - fromMs)));
  return create(DowntimeSchema, {
    signalToExitMs: between(signalSentAtMs, stoppedAtMs),
    exitToCopiedMs: between(stoppedAtMs, copied),
    copiedToVerifiedMs: between(copied, verified),
    verifiedToStartedMs: between(verified, startedAtMs),
    startedToHealthyMs: between(startedAtMs, healthyAtMs),
    totalMs: between(signalSentAtMs, healthyAtMs),
    longestWriteStallMs: BigInt(detail.longestWriteStallMs ?? 0),
  });
}
