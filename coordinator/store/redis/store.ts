// Longer than usual: one class that is the whole Redis side of the store interface, one script or one read an operation.
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import type { ChainableCommander, Redis } from 'ioredis';
import { DrainSchema } from '../../../proto/gen/ferry/v1/drain_pb.ts';
import { CopyLimitsSchema, HostCapacitySchema } from '../../../proto/gen/ferry/v1/host_pb.ts';
import { MachineSchema } from '../../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationSchema } from '../../../proto/gen/ferry/v1/migration_pb.ts';
import { FerryError } from '../../../shared/error.ts';
import type { Random } from '../../../shared/random.ts';
import { acknowledge, judgeJournal, type KnownJournal } from '../journal-counter.ts';
import { drainsKept, drawsMax, sessionKeptMs } from '../limits.ts';
import type {
  ClaimAnswer,
  ClaimBasis,
  CreateDrainAnswer,
  DrainPlan,
  DrainRecord,
  HeartbeatOutcome,
  HostReport,
  HostRow,
  LockAnswer,
  LockRequest,
  LockRow,
  LockWaiterRow,
  MigrationPlan,
  MigrationRecord,
  Placement,
  PlacementFilter,
  SessionRow,
  SessionState,
  Store,
  StoreDescription,
  StoreIdentity,
  TakeAnswer,
} from '../store.ts';
import { isThrough } from '../through.ts';
import { RedisConnection, type RedisTarget } from './connection.ts';
import { examineServer } from './examine.ts';
import { type Argument, type Reply, runScript, type ScriptName } from './scripts.ts';

/** How a Redis store is made. */
export interface RedisStoreOptions {
  readonly target: RedisTarget;
  /** Before the name of each key. */
  readonly prefix: string;
  readonly random: Random;
  /** Longest time of one operation; 3 s when left out. */
  readonly deadlineMs?: number;
}

const deadlineMsDefault = 3000;
/** Numbers that a script may choose from at a time. */
const candidatesMax = 8;
/** Writers of one host that may be in each other's way before a write is given up; each failure means that another succeeded. */
const conflictsMax = 100;
/** Lua counts in doubles. */
const exactMax = 1n << 53n;

const migrationFields = ['version', 'open', 'claim', 'driver', 'term', 'migration', 'plan'] as const;
const drainFields = ['version', 'open', 'driver', 'drain', 'plan'] as const;
const placementFields = ['host', 'epoch', 'network', 'app', 'seen_ms', 'machine'] as const;

/** What a host's key holds: JSON, so that `redis-cli` shows it; messages in base64. */
interface HostJson {
  readonly region: string;
  readonly address: string;
  readonly agentVersion: string;
  readonly cordoned: boolean;
  readonly capacity: string;
  readonly capabilities: readonly string[];
  readonly copyLimits: string | null;
  readonly dnsAddress: string;
  readonly notes: readonly string[];
  readonly journal: { id: string; highest: string; reported: string; wentBack: boolean };
  readonly lastHeartbeatMs: number;
}

/**
 * The store in Redis, for several coordinators. Each operation that changes something is one Lua script (`*.lua`), harmless to
 * repeat when its reply was lost. Migrations, drains and Machines are kept as binary messages, so that a coordinator passes on
 * what a newer one wrote into fields that it does not know; all else is plain text or JSON.
 *
 * Durable is what Redis makes durable: with `appendonly yes` and `appendfsync always` each reply follows its fsync; with
 * `everysec` a power cut can take the last second. A fail-over can lose the last writes whatever the settings; it is noticed
 * (`admit.lua`), and what then guards the Machines is the agents' permits. WAIT is not used: it counts replicas that have a write
 * in memory, it neither undoes a write that too few have nor keeps a replica without it from taking over.
 */
export class RedisStore implements Store {
  readonly #connection: RedisConnection;
  readonly #prefix: string;
  readonly #random: Random;
  /** What this coordinator last asked for: changes to any other store are refused. */
  #believed = '';
  /** What was last seen of the server, to tell on the next connection whether it forgot something. */
  #seen = { generation: '', incarnation: '', run: '', revision: 0 };
  #notes: readonly string[] = [];

  private constructor({ target, prefix, random, deadlineMs = deadlineMsDefault }: RedisStoreOptions) {
    this.#prefix = prefix;
    this.#random = random;
    this.#connection = new RedisConnection(target, deadlineMs, async (redis) => {
      await this.#admit(redis);
    });
  }

  /** Connects and examines the server. Throws store_unreachable or unsupported. */
  static async open(options: RedisStoreOptions): Promise<RedisStore> {
    const store = new RedisStore(options);
    try {
      await store.#connection.first();
      store.#notes = await store.#connection.run(examineServer);
      await store.identity();
      return store;
    } catch (error) {
      await store.close();
      throw error;
    }
  }

  describe(): StoreDescription {
    return { where: this.#connection.address, notes: this.#notes };
  }

  async identity(): Promise<StoreIdentity> {
    const identity = await this.#connection.run((redis) => this.#admit(redis));
    this.#believed = `${identity.generation}:${identity.incarnation}`;
    return identity;
  }

  async #admit(redis: Redis): Promise<StoreIdentity> {
    const { generation, run, revision } = this.#seen;
    const nonce = Buffer.from(this.#random.bytes(16)).toString('hex');
    const reply = await runScript(redis, 'admit', this.#prefix, nonce, generation, run, revision);
    const [foundGeneration, incarnation, foundRun, foundRevision] = texts(reply);
    const isSame = foundGeneration === generation && incarnation === this.#seen.incarnation;
    this.#seen = {
      generation: foundGeneration!,
      incarnation: incarnation!,
      run: foundRun!,
      // What another incarnation forgot is accounted for with it.
      revision: Math.max(Number(foundRevision), isSame ? this.#seen.revision : 0),
    };
    return { generation: foundGeneration!, incarnation: incarnation! };
  }

  /** Runs a script that changes the store which `identity` answered last. */
  #change(script: ScriptName, ...values: readonly Argument[]): Promise<Reply> {
    return this.#run(script, this.#believed, values);
  }

  async #run(script: ScriptName, believed: string, values: readonly Argument[]): Promise<Reply> {
    const reply = await this.#connection.run((redis) => runScript(redis, script, this.#prefix, believed, ...values));
    const [revision, answer] = reply as readonly [Buffer, Reply];
    this.#seen.revision = Math.max(this.#seen.revision, Number(revision));
    return answer;
  }

  /** Reads, and looks afterwards whether it was the store that `identity` answered last: nobody takes a lost one for empty. */
  async #read(
    ask: (pipeline: ChainableCommander, key: (name: string) => string) => unknown,
  ): Promise<readonly Reply[]> {
    return this.#connection.run(async (redis) => {
      const pipeline = redis.pipeline();
      ask(pipeline, (name) => this.#prefix + name);
      pipeline.hmgetBuffer(`${this.#prefix}store`, 'generation', 'incarnation');
      const results = (await pipeline.exec()) ?? [];
      const replies = results.map(([error, reply]) => {
        if (error !== null) throw error;
        return reply as Reply;
      });
      if (texts(replies.pop()!).join(':') === this.#believed) return replies;
      throw new FerryError(
        'rebuilding',
        `the store ${this.#connection.address} was lost or another server took it over`,
      );
    });
  }

  async renewSession({ id, ...row }: SessionRow, ttlMs: number): Promise<boolean> {
    return (await this.#run('renew-session', '', [id, JSON.stringify(row), ttlMs, sessionKeptMs])) !== null;
  }

  async endSession(id: string): Promise<void> {
    await this.#run('end-session', '', [id]);
  }

  async sessions(): Promise<readonly SessionState[]> {
    const [time, rows, ends] = await this.#read((pipeline, key) =>
      pipeline.time().hgetallBuffer(key('session-rows')).zrangeBuffer(key('sessions'), '0', '-1', 'WITHSCORES'),
    );
    const [seconds, micros] = texts(time!).map(Number);
    const nowMs = seconds! * 1000 + Math.floor(micros! / 1000);
    const rowOf = entriesOf(rows!);
    return pairs(texts(ends!))
      .filter(([id, untilMs]) => rowOf.has(id) && Number(untilMs) > nowMs - sessionKeptMs)
      .map(([id, untilMs]) => ({
        ...(JSON.parse(rowOf.get(id)!) as Omit<SessionRow, 'id'>),
        id,
        alive: Number(untilMs) > nowMs,
      }))
      .sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  async networkNumber(name: string, remembered: number): Promise<number> {
    for (const candidates of this.#candidates(remembered)) {
      const number = await this.#change('number', 'network', name, ...candidates);
      if (number !== null) return Number(number);
    }
    throw noNumber('network', name);
  }

  /** Numbers to try, a few at a time. */
  *#candidates(remembered: number): Generator<number[]> {
    for (let drawn = 0; drawn < drawsMax; drawn += candidatesMax) {
      const draw = () => Buffer.from(this.#random.bytes(4)).readUInt32BE();
      yield [...(drawn === 0 ? [remembered] : []), ...Array.from({ length: candidatesMax }, draw)];
    }
  }

  async networks(): Promise<ReadonlyMap<string, number>> {
    const [rows] = await this.#read((pipeline, key) => pipeline.hgetallBuffer(key('numbers:network')));
    const numbers = [...entriesOf(rows!)].sort(([a], [b]) => (a < b ? -1 : 1));
    return new Map(numbers.map(([name, number]) => [name, Number(number)]));
  }

  async recordHeartbeat(report: HostReport): Promise<HeartbeatOutcome> {
    let knownCounter = 0n;
    const host = await this.#putHost(report.id, report.rememberedNumber, (known) => {
      const before = known === undefined ? undefined : journalOf(known);
      const journal = judgeJournal(before, report.journalId, report.journalCounter);
      knownCounter = before?.highest ?? 0n;
      return hostJson(report, known === undefined ? report.cordoned : known.cordoned || journal.wentBack, journal);
    });
    return { host: host!, knownCounter };
  }

  async setCordon(hostId: string, cordoned: boolean): Promise<boolean> {
    const host = await this.#putHost(hostId, 0, (known) => {
      if (known === undefined) return undefined;
      const journal = cordoned ? journalOf(known) : acknowledge(journalOf(known));
      return { ...known, cordoned: cordoned || journal.wentBack, journal: journalJson(journal) };
    });
    return host !== undefined;
  }

  /** Changes the row of a host, once more when somebody else changed it in between. */
  async #putHost(
    id: string,
    remembered: number,
    change: (known: HostJson | undefined) => HostJson | undefined,
  ): Promise<HostRow | undefined> {
    const candidates = this.#candidates(remembered);
    let next = candidates.next();
    for (let conflicts = 0; conflicts < conflictsMax; conflicts += 1) {
      const [row] = await this.#read((pipeline, key) => pipeline.hgetBuffer(key('hosts'), id));
      const before = row === null ? '' : text(row!);
      const after = change(before === '' ? undefined : (JSON.parse(before) as HostJson));
      if (after === undefined) return undefined;
      if (next.done) throw noNumber('host', id);
      const answer = await this.#change('put-host', id, before, JSON.stringify(after), ...next.value);
      const [kind, number] = texts(answer);
      if (kind === 'written') return hostOf(id, Number(number), after);
      if (kind === 'unnumbered') next = candidates.next();
    }
    throw new FerryError('overloaded', `host ${id} is changed by too many at once`);
  }

  async hosts(): Promise<readonly HostRow[]> {
    const [rows, numbers] = await this.#read((pipeline, key) =>
      pipeline.hgetallBuffer(key('hosts')).hgetallBuffer(key('numbers:host')),
    );
    const numberOf = entriesOf(numbers!);
    return [...entriesOf(rows!)]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([id, row]) => hostOf(id, Number(numberOf.get(id)), JSON.parse(row) as HostJson));
  }

  async host(id: string): Promise<HostRow | undefined> {
    const [row, number] = await this.#read((pipeline, key) =>
      pipeline.hgetBuffer(key('hosts'), id).hgetBuffer(key('numbers:host'), id),
    );
    return row === null ? undefined : hostOf(id, Number(number), JSON.parse(text(row!)) as HostJson);
  }

  async removeHost(hostId: string): Promise<boolean> {
    return (await this.#change('remove-host', hostId)) !== null;
  }

  async putPlacement(placement: Placement): Promise<void> {
    await this.#change('put-placements', '', 0, ...placementArguments(placement));
  }

  async putPlacements(hostId: string, placements: readonly Placement[], forgetBeforeMs: number): Promise<void> {
    await this.#change('put-placements', hostId, forgetBeforeMs, ...placements.flatMap(placementArguments));
  }

  async placement(machineId: string): Promise<Placement | undefined> {
    return (await this.#placements([machineId]))[0];
  }

  async placements({ app, hostId, network }: PlacementFilter): Promise<readonly Placement[]> {
    const indexes = ['placements'];
    if (app !== undefined) indexes.push(`placements:app:${app}`);
    if (hostId !== undefined) indexes.push(`placements:host:${hostId}`);
    if (network !== undefined) indexes.push(`placements:network:${network}`);
    const [ids] = await this.#read((pipeline, key) => pipeline.sinterBuffer(...indexes.map(key)));
    const found = await this.#placements(texts(ids!).sort());
    // What moved between the two reads is not what was asked for.
    return found.filter(
      (row) =>
        (app === undefined || row.app === app) &&
        (hostId === undefined || row.hostId === hostId) &&
        (network === undefined || row.network === network),
    );
  }

  async #placements(ids: readonly string[]): Promise<Placement[]> {
    const rows = await this.#fieldsOf('placement', ids, placementFields);
    return ids.flatMap((machineId, at) => {
      const row = rows[at];
      if (row === undefined) return [];
      const [hostId, epoch, network, app, seenMs] = row.map((field) => text(field));
      const machine = fromBinary(MachineSchema, bytes(row[5]!));
      return [
        {
          machineId,
          hostId: hostId!,
          epoch: BigInt(epoch!),
          network: network!,
          app: app!,
          machine,
          seenMs: Number(seenMs),
        },
      ];
    });
  }

  /** The fields of each key KIND:ID; undefined where there is none. */
  async #fieldsOf(
    kind: string,
    ids: readonly string[],
    fields: readonly string[],
  ): Promise<readonly (readonly Reply[] | undefined)[]> {
    if (ids.length === 0) return [];
    const rows = await this.#read((pipeline, key) => {
      for (const id of ids) pipeline.hmgetBuffer(key(`${kind}:${id}`), ...fields);
    });
    return (rows as readonly (readonly Reply[])[]).map((row) => (row[0] === null ? undefined : row));
  }

  async removePlacement(machineId: string): Promise<void> {
    await this.#change('remove-placement', machineId);
  }

  async acquireLock(request: LockRequest): Promise<LockAnswer> {
    const { network, migrationId, machineId, source, destination, sinceMs, priority, fenceAbove } = request;
    const lock = JSON.stringify({ migrationId, machineId, source, destination, sinceMs });
    const waiter = JSON.stringify({ migrationId, machineId, sinceMs, priority });
    const above = exact(fenceAbove, 'fence');
    const answer = await this.#change('acquire-lock', network, migrationId, lock, waiter, priority, above);
    const [kind, held, ...ahead] = texts(answer);
    if (kind === 'granted') return { kind, lock: lockOf(network, held!) };
    return {
      kind: 'waiting',
      lock: held === '' ? undefined : lockOf(network, held!),
      ahead: ahead.map((row) => waiterOf(network, row)),
    };
  }

  async releaseLock(network: string, migrationId: string): Promise<boolean> {
    return (await this.#change('release-lock', network, migrationId)) !== null;
  }

  async locks(): Promise<readonly LockRow[]> {
    const [rows] = await this.#read((pipeline, key) => pipeline.hgetallBuffer(key('locks')));
    return [...entriesOf(rows!)].sort(([a], [b]) => (a < b ? -1 : 1)).map(([network, row]) => lockOf(network, row));
  }

  async lock(network: string): Promise<LockRow | undefined> {
    const [row] = await this.#read((pipeline, key) => pipeline.hgetBuffer(key('locks'), network));
    return row === null ? undefined : lockOf(network, text(row!));
  }

  async lockWaiters(network: string): Promise<readonly LockWaiterRow[]> {
    const [line, rows] = await this.#read((pipeline, key) =>
      pipeline.zrangeBuffer(key(`line:${network}`), '0', '-1').hgetallBuffer(key(`waiters:${network}`)),
    );
    const rowOf = entriesOf(rows!);
    return texts(line!).flatMap((id) => (rowOf.has(id) ? [waiterOf(network, rowOf.get(id)!)] : []));
  }

  async claimMigration(record: MigrationRecord, { takesOver = '', inherits }: ClaimBasis = {}): Promise<ClaimAnswer> {
    const { migration, plan, version, open, claim, driver } = record;
    const answer = await this.#change(
      'claim-migration',
      migration.id,
      migration.machineId,
      takesOver,
      inherits?.migrationId ?? '',
      String(inherits?.version ?? ''),
      version,
      Number(open),
      Number(claim),
      Number(isThrough(migration)),
      driver,
      migration.term,
      toBinary(MigrationSchema, migration),
      JSON.stringify(plan),
    );
    const [kind, holder] = texts(answer);
    if (kind === 'busy') return { kind, migrationId: holder! };
    return { kind: kind === 'claimed' ? 'claimed' : 'changed' };
  }

  async takeMigration(id: string, sessionId: string, termAbove: bigint): Promise<TakeAnswer<MigrationRecord>> {
    const [high, low] = this.#random.bytes(2);
    const answer = await this.#change('take-migration', id, sessionId, exact(termAbove, 'term'), high! * 256 + low!);
    return takeAnswerOf(answer, recordOf);
  }

  async leaveMigration(id: string, sessionId: string): Promise<void> {
    await this.#change('leave-migration', id, sessionId);
  }

  async updateMigration({ migration, plan, version, open, claim }: MigrationRecord): Promise<boolean> {
    const answer = await this.#change(
      'update-migration',
      migration.id,
      version,
      Number(open),
      Number(claim),
      Number(isThrough(migration)),
      toBinary(MigrationSchema, migration),
      JSON.stringify(plan),
    );
    return answer !== null;
  }

  async migration(id: string): Promise<MigrationRecord | undefined> {
    return (await this.#migrations([id]))[0];
  }

  async migrations(limit: number): Promise<readonly MigrationRecord[]> {
    return this.#migrations(await this.#newest('migrations', limit));
  }

  async openMigrations(): Promise<readonly MigrationRecord[]> {
    return this.#migrations((await this.#newest('migrations:open')).reverse());
  }

  async unendedMigrations(limit: number): Promise<readonly MigrationRecord[]> {
    return this.#migrations(await this.#newest('migrations:unended', limit));
  }

  /** IDs of an index, newest first. IDs sort by time. */
  async #newest(index: string, limit = 0): Promise<string[]> {
    const [ids] = await this.#read((pipeline, key) => pipeline.zrevrangeBuffer(key(index), 0, limit - 1));
    return texts(ids!);
  }

  async #migrations(ids: readonly string[]): Promise<MigrationRecord[]> {
    const rows = await this.#fieldsOf('migration', ids, migrationFields);
    return rows.flatMap((row) => (row === undefined ? [] : [recordOf(row)]));
  }

  async pruneMigrations(keep: number): Promise<void> {
    await this.#change('prune-migrations', keep);
  }

  async createDrain({ drain, plan, version, open, driver }: DrainRecord): Promise<CreateDrainAnswer> {
    const answer = await this.#change(
      'create-drain',
      drain.id,
      drain.hostId,
      drainsKept,
      version,
      Number(open),
      driver,
      toBinary(DrainSchema, drain),
      JSON.stringify(plan),
    );
    const [kind, drainId] = texts(answer);
    return kind === 'busy' ? { kind, drainId: drainId! } : { kind: 'created' };
  }

  async updateDrain({ drain, plan, version, open }: DrainRecord): Promise<boolean> {
    const message = toBinary(DrainSchema, drain);
    const answer = await this.#change('update-drain', drain.id, version, Number(open), message, JSON.stringify(plan));
    return answer !== null;
  }

  async drain(id: string): Promise<DrainRecord | undefined> {
    return (await this.#drains([id]))[0];
  }

  async drainOfHost(hostId: string): Promise<DrainRecord | undefined> {
    return (await this.#drains(await this.#newest(`drains:host:${hostId}`, 1)))[0];
  }

  async drains(limit: number): Promise<readonly DrainRecord[]> {
    return this.#drains(await this.#newest('drains', limit));
  }

  async openDrains(): Promise<readonly DrainRecord[]> {
    const [rows] = await this.#read((pipeline, key) => pipeline.hgetallBuffer(key('drains:open')));
    return this.#drains([...entriesOf(rows!).values()].sort());
  }

  async #drains(ids: readonly string[]): Promise<DrainRecord[]> {
    const rows = await this.#fieldsOf('drain', ids, drainFields);
    return rows.flatMap((row) => (row === undefined ? [] : [drainOf(row)]));
  }

  async takeDrain(id: string, sessionId: string): Promise<TakeAnswer<DrainRecord>> {
    return takeAnswerOf(await this.#change('take-drain', id, sessionId), drainOf);
  }

  async close(): Promise<void> {
    this.#connection.close();
  }
}

function noNumber(kind: string, name: string): FerryError {
  return new FerryError('internal', `no free number for ${kind} ${name} in ${drawsMax} draws`);
}

function exact(number: bigint, what: string): bigint {
  if (number < exactMax) return number;
  throw new FerryError('internal', `a ${what} of ${number} is beyond what a store can count (2^53)`);
}

function text(reply: Reply): string {
  return String(reply);
}

function texts(reply: Reply): string[] {
  return (reply as readonly Reply[]).map((each) => (each === null ? '' : text(each)));
}

function bytes(reply: Reply): Uint8Array {
  return reply as Buffer;
}

function pairs(flat: readonly string[]): [string, string][] {
  return Array.from({ length: flat.length / 2 }, (_, at) => [flat[2 * at]!, flat[2 * at + 1]!]);
}

/** A hash, which the client gives as an object of bytes. */
function entriesOf(reply: Reply): Map<string, string> {
  const fields = Object.entries(reply as unknown as Readonly<Record<string, Buffer>>);
  return new Map(fields.map(([name, value]) => [name, String(value)]));
}

function journalOf({ journal }: HostJson): KnownJournal {
  return { ...journal, highest: BigInt(journal.highest), reported: BigInt(journal.reported) };
}

function journalJson({ id, highest, reported, wentBack }: KnownJournal): HostJson['journal'] {
  return { id, highest: String(highest), reported: String(reported), wentBack };
}

function hostJson(report: HostReport, cordoned: boolean, journal: KnownJournal): HostJson {
  const { region, address, agentVersion, capacity, capabilities, copyLimits, dnsAddress, notes, atMs } = report;
  const message = toBinary(HostCapacitySchema, capacity ?? create(HostCapacitySchema));
  return {
    region,
    address,
    agentVersion,
    cordoned,
    capacity: Buffer.from(message).toString('base64'),
    capabilities,
    copyLimits:
      copyLimits === undefined ? null : Buffer.from(toBinary(CopyLimitsSchema, copyLimits)).toString('base64'),
    dnsAddress,
    notes,
    journal: journalJson(journal),
    lastHeartbeatMs: atMs,
  };
}

function hostOf(id: string, number: number, { capacity, copyLimits, journal, ...row }: HostJson): HostRow {
  return {
    ...row,
    id,
    number,
    capacity: fromBinary(HostCapacitySchema, Buffer.from(capacity, 'base64')),
    copyLimits: copyLimits === null ? undefined : fromBinary(CopyLimitsSchema, Buffer.from(copyLimits, 'base64')),
    journalId: journal.id,
    journalCounter: BigInt(journal.highest),
    journalWentBack: journal.wentBack,
  };
}

function placementArguments({ machineId, hostId, epoch, network, app, seenMs, machine }: Placement): Argument[] {
  return [machineId, hostId, epoch, network, app, seenMs, toBinary(MachineSchema, machine)];
}

function lockOf(network: string, json: string): LockRow {
  const { fence, ...row } = JSON.parse(json) as Omit<LockRow, 'network' | 'fence'> & { fence: string };
  return { ...row, network, fence: BigInt(fence) };
}

function waiterOf(network: string, json: string): LockWaiterRow {
  const { migrationId, machineId, sinceMs, priority } = JSON.parse(json) as Omit<LockWaiterRow, 'network'>;
  return { network, migrationId, machineId, sinceMs, priority };
}

function recordOf(row: readonly Reply[]): MigrationRecord {
  const [version, open, claim, driver, term] = row.map((field) => text(field));
  const migration = fromBinary(MigrationSchema, bytes(row[5]!));
  migration.term = BigInt(term!);
  const plan = JSON.parse(text(row[6]!)) as MigrationPlan;
  return { migration, plan, version: Number(version), open: open === '1', claim: claim === '1', driver: driver! };
}

function drainOf(row: readonly Reply[]): DrainRecord {
  const [version, open, driver] = row.map((field) => text(field));
  const drain = fromBinary(DrainSchema, bytes(row[3]!));
  const plan = JSON.parse(text(row[4]!)) as DrainPlan;
  return { drain, plan, version: Number(version), open: open === '1', driver: driver! };
}

function takeAnswerOf<T>(reply: Reply, recordOfRow: (row: readonly Reply[]) => T): TakeAnswer<T> {
  const [kind, ...rest] = reply as readonly Reply[];
  switch (text(kind!)) {
    case 'taken':
      return { kind: 'taken', record: recordOfRow(rest) };
    case 'driven':
      return { kind: 'driven', by: text(rest[0]!) };
    default:
      return { kind: 'unknown' };
  }
}
