import type { Command } from 'commander';
import {
  AcceptDownResponseSchema,
  CancelMigrationResponseSchema,
  GetMigrationResponseSchema,
  ListMigrationsResponseSchema,
  MigrationService,
  OverrideHostResponseSchema,
  RetryMigrationResponseSchema,
} from '../proto/gen/ferry/v1/coordinator_pb.ts';
import { FerryError } from '../shared/error.ts';
import { checkId } from '../shared/ids.ts';
import { type CommonOptions, type Outcome, Session, type Terminal, withCommonOptions } from './context.ts';
import { wholeNumber } from './options.ts';
import { exitCodes } from './output/errors.ts';
import { jsonDocument } from './output/json.ts';
import { migrationState, renderMigrationList, renderMigrationStatus, renderOutcome } from './output/migration.ts';
import { watchMigration } from './watch.ts';

/** A cancel waits for the source's answer; the others answer at once. */
const cancelMsMax = 60_000;

/** Registers `ferry migration ...`. */
export function registerMigration(program: Command, terminal: Terminal, outcome: Outcome): void {
  const noun = program.command('migration').description('look at, follow and end migrations');

  withCommonOptions(noun.command('list'))
    .description('migrations, newest first')
    .option('--open', 'only those that run or are parked')
    .option('--limit <count>', 'at most this many, 1 to 1000', '100')
    .addHelpText('after', '\nExample: ferry migration list --open')
    .action(async (options: CommonOptions & { open?: boolean; limit: string }) => {
      const session = new Session(terminal, options);
      const request = { openOnly: options.open === true, limit: wholeNumber(options.limit, '--limit', 1, 1000) };
      const response = await session.call((call) => session.client(MigrationService).listMigrations(request, call));
      if (session.json) terminal.out(jsonDocument(ListMigrationsResponseSchema, response));
      else terminal.out(renderMigrationList(response.migrations));
    });

  withCommonOptions(noun.command('status <id>'))
    .description('one migration with its steps, downtime and roots')
    .addHelpText('after', '\nExample: ferry migration status mig_01J08P60K8NK33K9P5MQ5M4QN8')
    .action(async (id: string, options: CommonOptions) => {
      const session = new Session(terminal, options);
      const request = { migrationId: migrationId(id) };
      const response = await session.call((call) => session.client(MigrationService).getMigration(request, call));
      if (session.json) terminal.out(jsonDocument(GetMigrationResponseSchema, response));
      else terminal.out(renderMigrationStatus(present(response.migration)));
    });

  withCommonOptions(noun.command('watch <id>'))
    .description('follow a migration to its end')
    .addHelpText('after', '\nExample: ferry migration watch mig_01J08P60K8NK33K9P5MQ5M4QN8')
    .action(async (id: string, options: CommonOptions) => {
      outcome.exitCode = await watchMigration(new Session(terminal, options), migrationId(id));
    });

  withCommonOptions(noun.command('cancel <id>'))
    .description('ask the source to give a migration up; its answer counts')
    .addHelpText('after', '\nExample: ferry migration cancel mig_01J08P60K8NK33K9P5MQ5M4QN8')
    .action(async (id: string, options: CommonOptions) => {
      const session = new Session(terminal, options);
      const request = { migrationId: migrationId(id) };
      const response = await session.call(
        (call) => session.client(MigrationService).cancelMigration(request, call),
        cancelMsMax,
      );
      const aborted = response.outcome === 'aborted';
      outcome.exitCode = aborted ? exitCodes.done : exitCodes.failed;
      if (session.json) return terminal.out(jsonDocument(CancelMigrationResponseSchema, response));
      if (aborted) session.line(`Aborted: the Machine stays on ${present(response.migration).source}.`);
      else {
        session.line(`The source answers "${response.outcome}": the migration goes on.`);
        session.line(`  next: follow it with "ferry migration watch ${id}", then move the Machine back`);
      }
    });

  withCommonOptions(noun.command('retry <id>'))
    .description('try a parked or moved-back migration again under a new ID, and follow it')
    .option('--detach', 'answer as soon as the new migration is claimed')
    .addHelpText('after', '\nExample: ferry migration retry mig_01J08P60K8NK33K9P5MQ5M4QN8')
    .action(async (id: string, options: CommonOptions & { detach?: boolean }) => {
      const session = new Session(terminal, options);
      const request = { migrationId: migrationId(id) };
      const interrupted = options.detach ? undefined : terminal.interrupted();
      const response = await session.order((call) => session.client(MigrationService).retryMigration(request, call));
      const next = present(response.migration);
      if (!options.detach) {
        outcome.exitCode = await watchMigration(session, next.id, interrupted);
        return;
      }
      if (session.json) terminal.out(jsonDocument(RetryMigrationResponseSchema, response));
      session.line(`Migration ${next.id} tries again.\n  follow it: ferry migration watch ${next.id}`);
    });

  withCommonOptions(noun.command('accept-down <id>'))
    .description('accept that the Machine of a parked migration is down, which frees its network')
    .addHelpText('after', '\nExample: ferry migration accept-down mig_01J08P60K8NK33K9P5MQ5M4QN8')
    .action(async (id: string, options: CommonOptions) => {
      const session = new Session(terminal, options);
      const request = { migrationId: migrationId(id) };
      const response = await session.call((call) => session.client(MigrationService).acceptDown(request, call));
      if (session.json) return terminal.out(jsonDocument(AcceptDownResponseSchema, response));
      const migration = present(response.migration);
      session.line(`Network ${migration.network} is ${migration.holdsLock ? 'about to be freed' : 'free'}.`);
      terminal.out(renderOutcome(migration));
    });

  withCommonOptions(noun.command('override-host <id> <host>'))
    .description('do not wait for the permit of a host of which you know that it stops nothing')
    .addHelpText('after', '\nExample: ferry migration override-host mig_01J08P60K8NK33K9P5MQ5M4QN8 host-3')
    .action(async (id: string, host: string, options: CommonOptions) => {
      const session = new Session(terminal, options);
      const request = { migrationId: migrationId(id), hostId: checkId('name', host, 'HOST') };
      const response = await session.call((call) => session.client(MigrationService).overrideHost(request, call));
      if (session.json) return terminal.out(jsonDocument(OverrideHostResponseSchema, response));
      session.line(
        `Migration ${id} (${migrationState(present(response.migration))}) goes on without the permit of ${host}.`,
      );
    });
}

function migrationId(text: string): string {
  return checkId('migration', text, 'ID');
}

function present<T>(migration: T | undefined): T {
  if (migration === undefined) throw new FerryError('internal', 'the coordinator answered without the migration');
  return migration;
}
