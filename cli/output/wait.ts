import type { Wait } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { formatTime } from './units.ts';

/** What somebody waits for, of which kind it is, and since when: "the permit of host-3 (permit, since ...)". */
export function waitText(wait: Wait, message = wait.message): string {
  const parts = [wait.kind];
  // The words usually name it already.
  if (wait.subject !== '' && !message.includes(wait.subject)) parts.push(wait.subject);
  if (wait.since !== undefined) parts.push(`since ${formatTime(wait.since)}`);
  return `${message} (${parts.join(', ')})`;
}
