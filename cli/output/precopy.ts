import type { PrecopyReport, PrecopyRound } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { keyValues, table } from './table.ts';
import { formatBytes, formatMs } from './units.ts';

/** One round on one line: "round 2: 12.0 MiB had changed, 12.1 MiB sent in 110 ms, snapshot 4 ms". */
export function roundLine({ number, changedBytes, bytesTransferred, durationMs, snapshotMs }: PrecopyRound): string {
  const changed = `${formatBytes(changedBytes)} ${number === 1 ? 'of data' : 'had changed'}`;
  const snapshot = snapshotMs > 0n ? `, snapshot ${formatMs(snapshotMs)}` : '';
  return `round ${number}: ${changed}, ${formatBytes(bytesTransferred)} sent in ${formatMs(durationMs)}${snapshot}`;
}

/** What a word of `ended` means. */
const endings: Readonly<Record<string, string>> = {
  fits: 'the last copy fits the budget',
  not_shrinking: 'the rounds stopped shrinking',
  no_room: 'the source has no room for snapshots',
  too_many_extents: 'the image has too many extents for a snapshot',
  not_supported: "the source's file system cannot",
  cold: 'not wanted',
};

/** Why the copy of the running Machine ended: "fits: 3.0 MiB are left, 300 ms are allowed"; empty while it runs. */
export function endingText({ ended, endedReason, modeReason }: PrecopyReport): string {
  // The mode's reason has been told already.
  const why = endedReason === modeReason ? '' : endedReason;
  return ended === '' ? '' : `${ended}: ${why || (endings[ended] ?? '')}`;
}

/** The block of `migration status`. `budgetMs`: longest time that the last copy may take. */
export function renderPrecopy(report: PrecopyReport, budgetMs: bigint): string {
  const { mode, modeReason, rounds, finalBytes, predictedFinalMs, baseRoot } = report;
  const pairs: [string, string][] = [['Mode', modeReason === '' ? mode : `${mode}: ${modeReason}`]];
  if (baseRoot !== '') pairs.push(['Began with', `the copy kept at the destination, root ${baseRoot}`]);
  if (report.ended !== '') pairs.push(['Ended', endingText(report)]);
  const predicted = `predicted ${formatMs(predictedFinalMs)}, budget ${formatMs(budgetMs)}`;
  pairs.push(['Last copy', finalBytes === undefined ? predicted : `${formatBytes(finalBytes)}, ${predicted}`]);
  const rows = rounds.map((round) => [
    String(round.number),
    formatBytes(round.changedBytes),
    formatBytes(round.bytesTransferred),
    formatMs(round.durationMs),
    formatMs(round.snapshotMs),
  ]);
  const list = rows.length === 0 ? '' : table(['Round', 'Changed', 'Sent', 'Time', 'Snapshot'], rows);
  return `Copy of the running Machine\n${keyValues(pairs)}${list}`;
}
