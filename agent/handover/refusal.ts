import { FerryError } from '../../shared/error.ts';
import type { Reason } from '../../shared/reasons.ts';
import type { Refusal, RefusalReason } from './outcome.ts';

/** Each refusal of the protocol as a reason of docs/errors.md. */
const reasonOf: Readonly<Record<RefusalReason, Reason>> = {
  unknown_migration: 'unknown_migration',
  burnt: 'burnt',
  too_late: 'too_late',
  not_yet: 'not_yet',
  stale_term: 'stale_term',
  stale_fence: 'stale_fence',
  no_permit: 'no_permit',
  held_by_other: 'permit_refused',
  in_use: 'permit_in_use',
  not_owner: 'not_owner',
  owner_here: 'owner_here',
  wrong_epoch: 'wrong_epoch',
  wrong_statement: 'wrong_statement',
  bad_signature: 'bad_signature',
  root_mismatch: 'root_mismatch',
  process_alive: 'process_alive',
  journal_behind: 'journal_went_back',
  not_settled: 'not_settled',
  other_role: 'other_role',
};

/** The error for a refusal; `facts.seen` is the highest term or fence seen here, `facts.holder` who has the permit. */
export function refusalError(refusal: Refusal, facts: Readonly<Record<string, string>> = {}): FerryError {
  const all = refusal.seen === undefined ? facts : { ...facts, seen: String(refusal.seen) };
  return new FerryError(reasonOf[refusal.reason], refusal.message, { facts: all });
}
