import { MigrationStrategy, MoveReason } from '../proto/gen/ferry/v1/migration_pb.ts';
import { parseDurationMs } from '../shared/duration.ts';
import { invalidArgument } from '../shared/error.ts';
import { checkId } from '../shared/ids.ts';

const orderedByMax = 200;
const budgetMsMin = 10;
const budgetMsMax = 600_000;

/** Why a host is drained or a Machine moved, as operators write it. */
const moveReasons: Readonly<Record<string, MoveReason>> = {
  overcrowded: MoveReason.OVERCROWDED,
  deprecated: MoveReason.DEPRECATED,
  maintenance: MoveReason.MAINTENANCE,
  failing: MoveReason.FAILING,
};

const strategies: Readonly<Record<string, MigrationStrategy>> = {
  precopy: MigrationStrategy.PRECOPY,
  cold: MigrationStrategy.COLD,
};

/** What moves and drains have in common; each is undefined when it was not given. */
export interface MoveOptions {
  readonly reason?: string;
  readonly by?: string;
  readonly downtimeBudget?: string;
  readonly priority?: string;
  readonly strategy?: string;
}

/** The options as a request has them. Throws invalid_argument naming the option. */
export function parseMoveOptions(options: MoveOptions, env: Readonly<Record<string, string | undefined>>) {
  return {
    reason: options.reason === undefined ? MoveReason.UNSPECIFIED : oneOf(options.reason, moveReasons, '--reason'),
    orderedBy: parseOrderedBy(options.by, env),
    downtimeBudgetMs: parseBudgetMs(options.downtimeBudget),
    priority: options.priority === undefined ? 0 : wholeNumber(options.priority, '--priority', -100, 100),
    strategy:
      options.strategy === undefined
        ? MigrationStrategy.UNSPECIFIED
        : oneOf(options.strategy, strategies, '--strategy'),
  };
}

/** A whole number within bounds. Throws invalid_argument. */
export function wholeNumber(text: string, option: string, min: number, max: number): number {
  const value = /^-?\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= min && value <= max) return value;
  throw invalidArgument(option, `is ${JSON.stringify(text)}`, `a whole number from ${min} to ${max}`);
}

/** "host-2,host-3" as host names; for commander, also when given more than once. */
export function hostList(option: string) {
  return (text: string, before: string[] = []): string[] => [
    ...before,
    ...text.split(',').map((host) => checkId('name', host.trim(), option)),
  ];
}

function oneOf<T>(text: string, values: Readonly<Record<string, T>>, option: string): T {
  const value = Object.hasOwn(values, text) ? values[text] : undefined;
  if (value !== undefined) return value;
  throw invalidArgument(option, `is ${JSON.stringify(text)}`, `one of ${Object.keys(values).join(', ')}`);
}

/** undefined = whatever the coordinator does by itself. */
function parseBudgetMs(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const ms = parseDurationMs(text, '--downtime-budget');
  if (ms >= budgetMsMin && ms <= budgetMsMax) return ms;
  throw invalidArgument('--downtime-budget', `is ${JSON.stringify(text)}`, 'a time from 10ms to 10m');
}

/** Who orders: as said, else the person behind sudo, else the user. Throws invalid_argument. */
export function parseOrderedBy(text: string | undefined, env: Readonly<Record<string, string | undefined>>): string {
  const who = text ?? (env.SUDO_USER || env.USER || '');
  const isGood = who.length <= orderedByMax && !/\p{Cc}/u.test(who) && (text === undefined || who.trim() !== '');
  if (isGood) return who;
  throw invalidArgument('--by', `is ${JSON.stringify(who.slice(0, 80))}`, `1 to ${orderedByMax} printable characters`);
}
