// Past 300 lines because it is one table.
import { Code } from '@connectrpc/connect';

/** What a caller that drives a migration does about an error: try again, give the migration up, or stop for an operator. */
export type Disposition = 'retry' | 'abort' | 'park';

/** What each reason means: its gRPC code, what a driver does about it, and what an operator reads in docs/errors.md. */
export interface ReasonInfo {
  readonly code: Code;
  readonly disposition: Disposition;
  /** One sentence: "Thrown when ..." without these two words. */
  readonly when: string;
  /** One sentence: what the operator does. */
  readonly remedy: string;
}

const info = (code: Code, disposition: Disposition, when: string, remedy: string): ReasonInfo => ({
  code,
  disposition,
  when,
  remedy,
});

/** The closed list of reasons. docs/errors.md is held equal to it by a test. */
export const reasons = {
  invalid_argument: info(
    Code.InvalidArgument,
    'abort',
    'a request field is wrong',
    'Correct the field that the error names.',
  ),
  same_host: info(
    Code.InvalidArgument,
    'abort',
    'source and destination of a migration are one host',
    'Name another destination.',
  ),
  unknown_machine: info(
    Code.NotFound,
    'abort',
    'no host knows the Machine',
    'Look the ID up with "ferry machine list".',
  ),
  unknown_volume: info(Code.NotFound, 'abort', 'no host knows the volume', 'Look the ID up with "ferry volume list".'),
  unknown_host: info(Code.NotFound, 'abort', 'the roster has no such host', 'Look the name up with "ferry host list".'),
  unknown_network: info(
    Code.NotFound,
    'abort',
    'no Machine ever belonged to the network',
    'Look the name up with "ferry machine list --json".',
  ),
  unknown_drain: info(
    Code.NotFound,
    'abort',
    'nobody knows the drain, or the host was never drained',
    'Look the ID up with "ferry drain list".',
  ),
  drain_exists: info(
    Code.AlreadyExists,
    'abort',
    'the host is drained already',
    'Follow it with "ferry drain watch", or cancel it first.',
  ),
  drain_ended: info(
    Code.FailedPrecondition,
    'abort',
    'the drain has ended',
    'Order a new one with "ferry host drain".',
  ),
  store_unreachable: info(
    Code.Unavailable,
    'retry',
    'the coordinator cannot reach its store',
    'Look at Redis and the network to it; the coordinator goes on by itself when it answers.',
  ),
  rebuilding: info(
    Code.Unavailable,
    'retry',
    'the store was lost and is rebuilt from what the agents know',
    'Wait; "ferry status" says which hosts are waited for. Remove hosts that will not come back.',
  ),
  unknown_migration: info(
    Code.NotFound,
    'abort',
    'nobody knows the migration',
    'Look the ID up with "ferry migration list".',
  ),
  host_taken: info(
    Code.AlreadyExists,
    'abort',
    'another agent that reports has this host name or address',
    'Give this agent another --host (or --listen), or stop the other one.',
  ),
  machine_exists: info(Code.AlreadyExists, 'abort', 'the Machine ID or name is taken', 'Choose another name.'),
  volume_exists: info(Code.AlreadyExists, 'abort', 'the volume ID is taken', 'Repeat the command; it makes a new ID.'),
  machine_busy: info(
    Code.FailedPrecondition,
    'abort',
    'a migration holds the Machine',
    'Wait for the migration that the error names, or cancel it.',
  ),
  machine_running: info(
    Code.FailedPrecondition,
    'abort',
    'the Machine must be stopped for this',
    'Stop the Machine first, or use --force.',
  ),
  volume_in_use: info(
    Code.FailedPrecondition,
    'abort',
    'the volume belongs to a Machine',
    'Stop or destroy the Machine first.',
  ),
  volume_busy: info(
    Code.FailedPrecondition,
    'abort',
    'a process still holds the volume after the stop',
    'End the processes that the error names, then retry the migration.',
  ),
  not_owner: info(
    Code.FailedPrecondition,
    'abort',
    'this host does not own the Machine',
    'Ask again; the Machine may have moved.',
  ),
  cannot_run: info(
    Code.FailedPrecondition,
    'abort',
    'the destination cannot run this config',
    'Install what the error names on the destination, or choose another host.',
  ),
  unsupported: info(
    Code.FailedPrecondition,
    'abort',
    'the host lacks something that this needs',
    'Install what the error names, or choose another host.',
  ),
  host_cordoned: info(
    Code.FailedPrecondition,
    'abort',
    'the destination takes no new Machines',
    'Uncordon the host or choose another.',
  ),
  no_host: info(
    Code.ResourceExhausted,
    'abort',
    'no host can take the Machine',
    'The error says for each host why not; add a host or free room.',
  ),
  no_space: info(
    Code.ResourceExhausted,
    'abort',
    'a disk has no room',
    'Free room on the host that the error names, or choose another destination.',
  ),
  too_large: info(
    Code.ResourceExhausted,
    'abort',
    'a message is larger than 4 MiB',
    'Shorten what the request carries; its config is the usual cause.',
  ),
  overloaded: info(Code.ResourceExhausted, 'retry', 'a bounded queue is full', 'Try again in a moment.'),
  host_unreachable: info(
    Code.Unavailable,
    'retry',
    'an agent does not answer',
    'Look at the host and its agent; what waits for it goes on by itself when it answers.',
  ),
  unreachable: info(
    Code.Unavailable,
    'retry',
    'the daemon asked does not answer',
    'Start it, or name its address with --coordinator.',
  ),
  deadline: info(
    Code.DeadlineExceeded,
    'retry',
    'no answer came in time; whether it was done is unknown',
    'Look at the state before repeating.',
  ),
  cancelled: info(Code.Canceled, 'abort', 'the caller went away', 'Repeat the command.'),
  stale_term: info(
    Code.Aborted,
    'park',
    'another coordinator drives this migration',
    'Nothing: the other coordinator goes on.',
  ),
  stale_fence: info(
    Code.Aborted,
    'retry',
    'the fence of the lock is older than one that the host has seen',
    'Nothing: the coordinator mints a higher one.',
  ),
  permit_refused: info(
    Code.FailedPrecondition,
    'retry',
    'the host promised the network to another migration',
    'Wait; "ferry lock explain NETWORK" says who holds it.',
  ),
  no_permit: info(
    Code.FailedPrecondition,
    'retry',
    "a stop was ordered without the host's permit",
    'Nothing: the coordinator asks for the permit again.',
  ),
  burnt: info(
    Code.FailedPrecondition,
    'abort',
    'the migration ID was ended at this host',
    'Retry the migration: it gets a new ID.',
  ),
  too_late: info(
    Code.FailedPrecondition,
    'abort',
    'the step can no longer be taken back',
    'Let the migration end, then move the Machine back.',
  ),
  not_yet: info(
    Code.FailedPrecondition,
    'abort',
    'the step before this one is not done',
    'Nothing: the coordinator orders the steps in turn.',
  ),
  permit_in_use: info(
    Code.FailedPrecondition,
    'retry',
    'a permit is given back while its migration still keeps a Machine down at the host',
    'Wait until the Machine is up, or accept that it is down.',
  ),
  owner_here: info(
    Code.FailedPrecondition,
    'abort',
    'the destination owns the Machine already',
    'Look at "ferry machine status" for the owner.',
  ),
  not_settled: info(
    Code.FailedPrecondition,
    'abort',
    'a kept copy is asked to be deleted before its migration is settled and its time is over',
    'Wait until the time that the error names.',
  ),
  other_role: info(
    Code.AlreadyExists,
    'abort',
    'the migration ID is known at the host with other particulars',
    'Retry the migration: it gets a new ID.',
  ),
  process_alive: info(
    Code.FailedPrecondition,
    'abort',
    'a process of the Machine still lives',
    'End the processes that the error names, then retry the migration.',
  ),
  root_mismatch: info(
    Code.DataLoss,
    'abort',
    'source and destination hold different bytes',
    'The source keeps its copy; check the disks of both hosts, then retry.',
  ),
  wrong_epoch: info(
    Code.FailedPrecondition,
    'abort',
    'the epoch is not higher than one that the host has held',
    'Look at "ferry machine status" for the owner.',
  ),
  wrong_statement: info(
    Code.FailedPrecondition,
    'abort',
    'a ticket, decline or settlement does not fit this migration',
    'Report it: a coordinator mixed up migrations.',
  ),
  bad_signature: info(
    Code.PermissionDenied,
    'abort',
    'a statement is not signed by the pinned key of the other agent',
    'Check that both hosts run the agents that you think they run.',
  ),
  token_refused: info(
    Code.PermissionDenied,
    'abort',
    "an export token is unknown, expired or another client's",
    'Ask for a new export.',
  ),
  start_failed: info(
    Code.FailedPrecondition,
    'abort',
    'the Machine could not be started',
    'Look at "ferry machine logs".',
  ),
  unhealthy: info(
    Code.FailedPrecondition,
    'abort',
    'the Machine did not become healthy in time',
    'Look at "ferry machine status" and its checks.',
  ),
  journal_went_back: info(
    Code.FailedPrecondition,
    'park',
    "the agent's journal is older than the coordinator remembers",
    'Restore the newer journal, or move the Machines off by hand; nothing is started meanwhile.',
  ),
  copy_broken: info(Code.Unavailable, 'retry', 'the volume stream broke', 'Nothing: the copy resumes where it was.'),
  copy_stuck: info(
    Code.Unavailable,
    'abort',
    'a copy of the running Machine brings nothing any more',
    'Look at the disks and the network of both hosts, then retry; the Machine runs on at the source.',
  ),
  copy_corrupt: info(
    Code.DataLoss,
    'abort',
    "the destination's disk gave back other bytes than were written",
    "Check the destination's disk; the Machine stays at the source.",
  ),
  io_error: info(
    Code.DataLoss,
    'park',
    'a disk failed',
    'Look at the kernel log of the host that the error names; the other copy is kept.',
  ),
  store_locked: info(
    Code.FailedPrecondition,
    'park',
    'another process has this data directory open',
    'Stop the other process or name another --data-dir.',
  ),
  not_loopback: info(
    Code.FailedPrecondition,
    'abort',
    'a daemon without certificates was told to listen beyond loopback',
    'Listen on 127.0.0.1, or configure certificates.',
  ),
  internal: info(
    Code.Internal,
    'retry',
    'Ferry has a defect',
    'Report it with the log of the daemon that the error names.',
  ),
} as const satisfies Record<string, ReasonInfo>;

/** One of the reasons of docs/errors.md. */
export type Reason = keyof typeof reasons;

/** Whether a text is one of the reasons. */
export function isReason(text: string): text is Reason {
  return Object.hasOwn(reasons, text);
}
