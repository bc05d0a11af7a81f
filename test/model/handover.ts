/**
 * Every step that the world of one Machine can take: an adversarial coordinator that gives any order at any time, agents
 * that do what their rows leave pending, a network that delivers statements never, once or often, processes that die
 * slowly, hosts that reboot, journals put back to older copies.
 *
 * An agent's crash needs no step of its own: each durable write is one step, and whatever an agent does next is told from
 * its durable state alone, so every state is also the state right after a crash.
 *
 * Longer than most files: one world, one list of its steps.
 */

import type { Placement, Seal } from '../../agent/handover/boot.ts';
import type { DestinationContext, DestinationEvent, DestinationState } from '../../agent/handover/destination.ts';
import type { SourceContext, SourceEvent, SourceOutcome, SourceState } from '../../agent/handover/source.ts';
import type { Subject } from '../../agent/handover/statements.ts';
import { broken } from './invariants.ts';
import type { Rules } from './rules.ts';
import type { Model, Step } from './search.ts';
import {
  EMPTY,
  FREED,
  firstWorld,
  type Host,
  hostName,
  type Journal,
  keyOf,
  migrationName,
  picture,
  retainedSlot,
  type Scope,
  type Statement,
  textOf,
  type Volume,
  type World,
} from './world.ts';

const NETWORK = 'n';
const RECORD = 'd';
const RETENTION_MS = 1;

export function handover(scope: Scope, rules: Rules): Model<World> {
  return {
    initial: firstWorld(scope),
    key: keyOf,
    steps: (world) => new Steps(scope, rules, world).all(),
    broken: (before, step) => broken(scope, before, step),
    ended: scope.asksForEnd ? ended : null,
    picture,
  };
}

/** The Machine runs, and each row has come to an end of its own. */
function ended(world: World): boolean {
  if (!world.hosts.some((host) => host.process?.state === 'alive')) return false;
  return world.hosts.every(
    ({ journal }) => journal.sources.every(sourceEnded) && journal.destinations.every(destinationEnded),
  );
}

/** An offer holds nothing: it waits for a coordinator, and the Machine runs. */
function sourceEnded(row: SourceState | null): boolean {
  if (row === null) return true;
  if (row.step === 'aborted' || row.step === 'returned') return row.up;
  return row.step === 'offered' || row.step === 'tombstoned' || row.step === 'parked';
}

function destinationEnded(row: DestinationState | null): boolean {
  return row === null || row.step === 'declined' || (row.step === 'owner' && row.up && row.settlementKnown);
}

/** Lists of volumes are shared between worlds. */
const seals = new WeakMap<object, Seal | null>();

class Steps {
  readonly #scope: Scope;
  readonly #rules: Rules;
  readonly #world: World;
  readonly #steps: Step<World>[] = [];

  constructor(scope: Scope, rules: Rules, world: World) {
    this.#scope = scope;
    this.#rules = rules;
    this.#world = world;
  }

  all(): readonly Step<World>[] {
    for (let migration = 0; migration < this.#scope.migrations.length; migration++) {
      this.#orders(migration);
      this.#sourceAlone(migration);
      this.#destinationAlone(migration);
      this.#copying(migration);
      this.#deliveries(migration);
    }
    for (let host = 0; host < this.#scope.hosts; host++) this.#hostSteps(host);
    return this.#steps;
  }

  /** Whatever a coordinator may order, sensible or not. */
  #orders(migration: number): void {
    const { source, destination } = this.#ends(migration);
    const subject = this.#subject(migration);
    const copy = this.#destinationRow(migration)?.subject;
    for (const term of this.#scope.terms) {
      const by = this.#scope.terms.length > 1 ? `term ${term}: ` : '';
      const name = migrationName(migration);
      const { placement } = this.#host(source).journal;
      const epochs = new Set(this.#scope.otherEpochs);
      if (placement.kind === 'owner') epochs.add(placement.epoch + 1);
      if (this.#scope.oneAfterAnother && !this.#beforeHasEnded(migration)) epochs.clear();
      for (const epoch of epochs)
        this.#prepare(
          migration,
          term,
          { ...subject, epoch },
          `${by}prepare ${name} at ${hostName(destination)} for epoch ${epoch}`,
        );
      const unprepared = this.#scope.unpreparedOffers && placement.kind === 'owner';
      const offered = copy ?? (unprepared ? { ...subject, epoch: placement.epoch + 1 } : null);
      if (offered !== null) {
        const offer = { ...offered, network: NETWORK, lockHolder: name };
        this.#source(migration, { type: 'offer', term, offer }, `${by}offer ${name} to ${hostName(source)}`);
      }
      this.#source(migration, { type: 'stop', term, fence: 1 }, `${by}stop ${name}`);
      const gone = this.#host(source).process === null || !this.#rules.executor.looksAgain;
      for (const root of this.#roots(migration)) {
        const event: SourceEvent = { type: 'relinquish', term, root, recordDigest: RECORD, processGone: gone };
        this.#source(migration, event, `${by}relinquish ${name} with root ${root}`);
      }
      if (this.#scope.cooperative) continue;
      this.#abort(migration, term, `${by}abort ${name}`);
      const refused = copy ?? { ...subject, epoch: this.#sourceRow(migration)?.offer?.epoch ?? 2 };
      this.#destination(
        migration,
        { type: 'decline', term, subject: refused, reason: 'ordered' },
        `${by}decline ${name}`,
      );
    }
  }

  #beforeHasEnded(migration: number): boolean {
    if (migration === 0) return true;
    const step = this.#sourceRow(migration - 1)?.step;
    return step === 'aborted' || step === 'returned' || this.#destinationRow(migration - 1)?.step === 'owner';
  }

  /** The answer "aborted" leaves with it, and must stay true. */
  #abort(migration: number, term: number, label: string): void {
    const outcome = this.#askSource(migration, { type: 'abort', term, reason: 'ordered' });
    if (!outcome.ok) return;
    const after = this.#afterSource(migration, { type: 'abort', term, reason: 'ordered' }) ?? this.#world;
    const answer: Statement = { type: 'aborted', migration, body: { volumeId: '' } };
    const told =
      !this.#scope.unpreparedOffers ||
      this.#world.known.some((other) => other.type === 'aborted' && other.migration === migration);
    this.#addJournalled(
      label,
      told ? after : { ...after, known: [...after.known, answer] },
      this.#ends(migration).source,
      false,
    );
  }

  /** The roots that a coordinator may name: what either side wrote down. */
  #roots(migration: number): Set<string> {
    const roots = new Set<string>();
    const row = this.#sourceRow(migration);
    const copy = this.#destinationRow(migration);
    if (row?.step === 'stopped' && row.root !== null) roots.add(row.root);
    if (copy?.step === 'verified') roots.add(copy.root);
    return roots;
  }

  #prepare(migration: number, term: number, wanted: Subject, label: string): void {
    const { destination } = this.#ends(migration);
    const minted = this.#world.minted[migration] as number;
    const subject = { ...wanted, volumeId: `v${migration + 1}.${this.#rules.executor.mintsNewIds ? minted + 1 : 1}` };
    const known = this.#destinationRow(migration) !== null;
    if (!known && minted >= 1 + this.#scope.restoresMax) return;
    const after = this.#afterDestination(migration, { type: 'prepare', term, subject });
    if (after === null) return;
    const fresh: Volume = { id: subject.volumeId, data: EMPTY, marker: { state: 'receiving', epoch: subject.epoch } };
    const host = this.#host(destination);
    const next = known
      ? after
      : this.#put(after, destination, { volumes: replaced(host.volumes, migration + 1, fresh) });
    this.#add(label, known ? next : { ...next, minted: replaced(next.minted, migration, minted + 1) }, false);
  }

  /** What the source's executor does by itself. */
  #sourceAlone(migration: number): void {
    const { source } = this.#ends(migration);
    const row = this.#sourceRow(migration);
    if (row === null) return;
    const host = this.#host(source);
    const { executor } = this.#rules;
    const name = migrationName(migration);
    const at = hostName(source);
    if (row.step === 'stopping') {
      if (host.process?.state === 'alive') {
        const dying = this.#put(this.#world, source, { process: { ...host.process, state: 'dying' } });
        this.#add(`${at} signals or kills the process for ${name}`, dying, true);
      }
    }
    if (row.step === 'stopping') {
      this.#source(migration, { type: 'signal-sent', atMs: 0 }, `${at} records the signal of ${name}`, true);
    }
    const assumed = host.process?.state === 'dying' && !executor.observesGone;
    const seenBefore = host.process?.state === 'alive' && !executor.holdsBeforeSignal;
    if (host.process === null || assumed || seenBefore) {
      this.#source(migration, { type: 'gone-observed' }, `${at} takes the process for gone: ${name}`, true);
    }
    if (row.step === 'stopped' && host.process === null && this.#world.strayProcessLeft > 0) {
      const stray = this.#put(this.#world, source, { process: { state: 'alive', slot: host.journal.slot } });
      this.#add(`something else starts the Machine on ${at}`, { ...stray, strayProcessLeft: 0 }, false);
    }
    this.#takeRoot(migration);
    if (!this.#scope.cooperative)
      this.#source(migration, { type: 'driver-silent' }, `${at} hears no driver of ${name} for 60 s`, true);
    const slot = retainedSlot(this.#scope, migration);
    const retained = host.volumes[slot] ?? null;
    if (row.step === 'settled' && retained !== null) {
      const event: SourceEvent = { type: 'retained-root-read', root: rootOf(retained) };
      this.#source(migration, event, `${at} re-reads its retained volume: ${name}`, true);
    }
    const epoch = (row.offer?.epoch ?? 0) + 1;
    if (this.#isUp(host, epoch)) this.#source(migration, { type: 'up' }, `${at} finds the Machine up: ${name}`, true);
    this.#deliver(host, row.step === 'relinquished' ? { type: 'ticket', migration, body: row.ticket } : null, at);
    this.#retention(migration, row, retained, source, slot);
  }

  #takeRoot(migration: number): void {
    const { source } = this.#ends(migration);
    const host = this.#host(source);
    const row = this.#sourceRow(migration);
    const volume = host.volumes[host.journal.slot] ?? null;
    if (volume === null || row === null) return;
    const name = migrationName(migration);
    const label = `${hostName(source)} reads the root of ${name}`;
    if (row.step === 'stopped' && row.root === null) {
      this.#source(migration, { type: 'root-taken', root: rootOf(volume) }, label, true);
      const copy = this.#host(this.#ends(migration).destination).volumes[migration + 1];
      if (this.#world.staleSumsLeft > 0 && copy && copy.data >= 0 && copy.data !== volume.data) {
        const after = this.#afterSource(migration, { type: 'root-taken', root: rootOf(copy) });
        if (after !== null) this.#add(`${label} from stale sums`, { ...after, staleSumsLeft: 0 }, false);
      }
    }
    if (row.step === 'stopping' && !this.#rules.executor.readsRootAfterStopped) {
      // The reading ran ahead: it is recorded with STOPPED, though it began before it.
      const root = rootOf(volume);
      if (host.process === null || host.process.state === 'dying') {
        const early: SourceState = { step: 'stopped', offer: row.offer, term: row.term, fence: row.fence, root };
        if (host.process !== null) {
          const seen = { ...host.journal, sources: replaced(host.journal.sources, migration, early) };
          // The process is seen gone only afterwards; what it still wrote is missing in the root.
          this.#add(`${label} before STOPPED`, this.#put(this.#world, source, { journal: seen }), true);
        }
      }
    }
  }

  #retention(migration: number, row: SourceState, retained: Volume | null, source: number, slot: number): void {
    const late = this.#world.late[migration] as boolean;
    const at = hostName(source);
    const held = row.step === 'relinquished' || row.step === 'settled' || row.step === 'tombstoned';
    if (!late && held && retained !== null && retained.data !== FREED) {
      this.#add(
        `the retention time of ${migrationName(migration)} passes`,
        { ...this.#world, late: replaced(this.#world.late, migration, true) },
        false,
      );
    }
    if (retained === null || retained.data === FREED) return;
    if (!this.#rules.product.mayDelete(row, 0, late ? RETENTION_MS : 0, RETENTION_MS).ok) return;
    const volumes = replaced(this.#host(source).volumes, slot, { ...retained, data: FREED });
    this.#add(
      `${at} deletes the volume retained by ${migrationName(migration)}`,
      this.#put(this.#world, source, { volumes }),
      false,
    );
  }

  /** What the destination's executor does by itself. */
  #destinationAlone(migration: number): void {
    const { source, destination } = this.#ends(migration);
    const row = this.#destinationRow(migration);
    const host = this.#host(destination);
    const at = hostName(destination);
    const name = migrationName(migration);
    if (row === null) return;
    if (!this.#scope.cooperative) this.#destination(migration, { type: 'expire' }, `${at} lets ${name} expire`, true);
    if (this.#isUp(host, row.subject.epoch)) {
      this.#destination(migration, { type: 'up' }, `${at} finds the Machine up: ${name}`, true);
    }
    const theirs = this.#sourceRow(migration)?.step;
    if (theirs === 'settled' || theirs === 'tombstoned' || theirs === 'parked') {
      this.#destination(
        migration,
        { type: 'settlement-known' },
        `${at} hears that the settlement of ${name} is known to ${hostName(source)}`,
        true,
      );
    }
    const slot = migration + 1;
    const copy = host.volumes[slot] ?? null;
    const pending = this.#rules.product.pendingDestination(row);
    const mine = copy !== null && copy.id === row.subject.volumeId;
    if (mine && copy.marker?.state === 'receiving' && pending.some((effect) => effect.do === 'unmark')) {
      const volumes = replaced(host.volumes, slot, { ...copy, marker: null });
      this.#add(
        `${at} removes the marker of the copy of ${name}`,
        this.#put(this.#world, destination, { volumes }),
        true,
      );
    }
    const mayFree = pending.some((effect) => effect.do === 'free-volume') && copy?.marker?.state !== 'receiving';
    const early = !this.#rules.executor.declinesBeforeFreeing && (row.step === 'prepared' || row.step === 'verified');
    if (mine && copy.data !== FREED && (mayFree || early)) {
      const volumes = replaced(host.volumes, slot, { ...copy, data: FREED });
      this.#add(`${at} frees the copy of ${name}`, this.#put(this.#world, destination, { volumes }), true);
    }
    const settles = row.step === 'owner' && pending.some((effect) => effect.do === 'deliver-settlement');
    if (settles) this.#deliver(host, { type: 'settlement', migration, body: row.settlement }, at);
    const { unmarksBeforeDelivering, declinesBeforeDelivering } = this.#rules.executor;
    if (!declinesBeforeDelivering && (row.step === 'prepared' || row.step === 'verified')) {
      this.#deliver(host, { type: 'decline', migration, body: row.subject }, at);
    }
    const unmarked = copy?.marker?.state !== 'receiving' || !unmarksBeforeDelivering;
    if (row.step === 'declined' && unmarked) this.#deliver(host, { type: 'decline', migration, body: row.decline }, at);
  }

  /** Bytes go over at any time, before and after the stop, whoever asked for it. */
  #copying(migration: number): void {
    const { source, destination } = this.#ends(migration);
    const row = this.#destinationRow(migration);
    const host = this.#host(destination);
    const copy = host.volumes[migration + 1] ?? null;
    if (row === null || copy === null || copy.id !== row.subject.volumeId || copy.data === FREED) return;
    const at = hostName(destination);
    const name = migrationName(migration);
    const { journal, volumes } = this.#host(source);
    const original = volumes[journal.slot] ?? null;
    const careless = row.step === 'verified' && !this.#rules.executor.reopensBeforeReceiving;
    if (
      (row.step === 'prepared' || careless) &&
      copy.marker?.state === 'receiving' &&
      original !== null &&
      original.data >= 0
    ) {
      // Half-written bytes are nobody's data.
      const torn = copy.data !== EMPTY && (careless || copy.data !== original.data);
      const data = torn ? EMPTY : original.data;
      const filled = replaced(host.volumes, migration + 1, { ...copy, data });
      const label = `${at} ${torn ? 'begins to receive' : 'has received'} the bytes of ${name}`;
      if (data !== copy.data) this.#add(label, this.#put(this.#world, destination, { volumes: filled }), false);
    }
    if (row.step === 'verified') this.#destination(migration, { type: 'receive' }, `${at} reopens the copy of ${name}`);
    if (copy.data !== EMPTY) {
      this.#destination(migration, { type: 'verified', root: rootOf(copy) }, `${at} verifies the copy of ${name}`);
    }
  }

  /** The network hands any statement that ever left to either agent of this migration; the coordinator also makes some up. */
  #deliveries(migration: number): void {
    const { source, destination } = this.#ends(migration);
    const name = migrationName(migration);
    for (const { type, migration: from, body } of this.#world.known) {
      const its = this.#ends(from);
      const label = `${type} of ${migrationName(from)} arrives for ${name}`;
      const alone = from === migration;
      if (type === 'ticket') {
        const ticket = { statement: body, signatureValid: its.source === source };
        this.#destination(migration, { type: 'accept', ticket, recordDigest: RECORD }, label, alone);
      } else if (type === 'aborted') {
        // An answer to a coordinator: nothing for an agent.
      } else if (type === 'settlement') {
        const settlement = { statement: body, signatureValid: its.destination === destination };
        this.#source(migration, { type: 'settled', settlement }, label, alone);
      } else {
        const decline = { statement: body, signatureValid: its.destination === destination };
        this.#source(migration, { type: 'declined', decline }, label, alone);
      }
    }
    const copy = this.#destinationRow(migration);
    if (copy?.step === 'verified') {
      const ticket = { statement: { ...copy.subject, root: copy.root, recordDigest: RECORD }, signatureValid: false };
      this.#destination(
        migration,
        { type: 'accept', ticket, recordDigest: RECORD },
        `a forged ticket arrives for ${name}`,
      );
    }
    const row = this.#sourceRow(migration);
    if (row?.step === 'relinquished') {
      const { root } = row.ticket;
      const decline = { statement: subjectOnly(row.offer), signatureValid: false };
      const settlement = { statement: { ...subjectOnly(row.offer), root }, signatureValid: false };
      this.#source(migration, { type: 'declined', decline }, `a forged decline arrives for ${name}`);
      this.#source(migration, { type: 'settled', settlement }, `a forged settlement arrives for ${name}`);
    }
  }

  /** Boot, processes, markers, writes, reboots, older journals. */
  #hostSteps(number: number): void {
    const host = this.#host(number);
    const at = hostName(number);
    const { process, journal, volumes } = host;
    const { product } = this.#rules;
    const agreement = product.reconcile(journal.placement, this.#seal(host));
    if (agreement.kind === 'finish') {
      const marked = this.#marked(host, journal.slot, agreement.marker);
      this.#add(
        `${at} renames the marker to ${agreement.marker.state} ${agreement.marker.epoch}`,
        this.#put(this.#world, number, { volumes: marked }),
        true,
      );
    }
    if (process === null) {
      const heldBy = this.#rules.executor.abortsBeforeStarting ? this.#heldBy(journal) : this.#stillStopping(journal);
      const may = product.mayStart(journal.placement, this.#seal(host), heldBy, false);
      if (may.allowed) {
        this.#add(
          `${at} starts the Machine`,
          this.#put(this.#world, number, { process: { state: 'alive', slot: journal.slot } }),
          true,
        );
      }
    } else {
      const { state, slot } = process;
      const volume = volumes[slot] ?? null;
      if (volume !== null && this.#world.latest < this.#scope.writesMax) {
        const latest = this.#world.latest + 1;
        const written = this.#put(this.#world, number, {
          volumes: replaced(volumes, slot, { ...volume, data: latest }),
        });
        this.#add(`the ${state} process on ${at} acknowledges write ${latest}`, { ...written, latest }, false);
      }
      this.#add(`the process on ${at} is gone`, this.#put(this.#world, number, { process: null }), true);
    }
    if (!this.#scope.restoreHosts.includes(number) || this.#world.restoresLeft === 0) return;
    if (host.backup === null) {
      this.#add(`someone copies the journal of ${at}`, this.#put(this.#world, number, { backup: journal }), false);
    } else if (host.backup !== journal) {
      const restored = this.#put(this.#world, number, { journal: host.backup, volumes: this.#withoutStrays(host) });
      this.#add(
        `the journal of ${at} is put back to the copy`,
        { ...restored, restoresLeft: restored.restoresLeft - 1 },
        false,
      );
    }
  }

  /** At agent start the copies go that no row is filling. */
  #withoutStrays(host: Host): readonly (Volume | null)[] {
    const wanted = new Set<string>();
    for (const row of host.backup?.destinations ?? []) {
      if (row?.step === 'prepared' || row?.step === 'verified') wanted.add(row.subject.volumeId);
    }
    const receiving = host.volumes.flatMap((volume) => (volume?.marker?.state === 'receiving' ? [volume.id] : []));
    const stray = new Set(this.#rules.product.strayCopies(receiving, wanted));
    return host.volumes.map((volume) =>
      volume !== null && stray.has(volume.id) ? { ...volume, data: FREED, marker: null } : volume,
    );
  }

  /** A signed statement leaves its host once the effects before it are done. */
  #deliver(host: Host, statement: Statement | null, at: string): void {
    if (statement === null) return;
    const agreement = this.#rules.product.reconcile(host.journal.placement, this.#seal(host));
    if (agreement.kind === 'finish' && this.#rules.executor.marksBeforeDelivering) return;
    if (agreement.kind === 'journal-behind') return;
    const text = textOf(statement.body);
    if (this.#world.known.some((other) => other.type === statement.type && textOf(other.body) === text)) return;
    const known = [...this.#world.known, statement];
    this.#add(
      `the ${statement.type} of ${migrationName(statement.migration)} leaves ${at}`,
      { ...this.#world, known },
      true,
    );
  }

  #source(migration: number, event: SourceEvent, label: string, alone = false): void {
    const next = this.#afterSource(migration, event);
    if (next !== null) this.#addJournalled(label, next, this.#ends(migration).source, alone);
  }

  #afterSource(migration: number, event: SourceEvent): World | null {
    const number = this.#ends(migration).source;
    const { journal } = this.#host(number);
    const outcome = this.#askSource(migration, event);
    const row = this.#sourceRow(migration);
    if (!outcome.ok || this.#unchanged(row, outcome.state, journal.placement, outcome.placement)) return null;
    const sources = replaced(journal.sources, migration, outcome.state);
    return this.#put(this.#world, number, { journal: { ...journal, sources, placement: outcome.placement } });
  }

  #askSource(migration: number, event: SourceEvent): SourceOutcome {
    const number = this.#ends(migration).source;
    const host = this.#host(number);
    const { journal } = host;
    const context: SourceContext = {
      migrationId: migrationName(migration),
      host: hostName(number),
      placement: journal.placement,
      seal: this.#seal(host),
      journalWentBack: false,
      heldBy: this.#heldBy(journal),
      permit: { network: NETWORK, holder: migrationName(migration), fence: 1 },
    };
    return this.#rules.product.nextSource(journal.sources[migration] ?? null, event, context);
  }

  #destination(migration: number, event: DestinationEvent, label: string, alone = false): void {
    const next = this.#afterDestination(migration, event);
    if (next !== null) this.#addJournalled(label, next, this.#ends(migration).destination, alone);
  }

  #afterDestination(migration: number, event: DestinationEvent): World | null {
    const number = this.#ends(migration).destination;
    const host = this.#host(number);
    const { journal } = host;
    const row = journal.destinations[migration] ?? null;
    const copy = host.volumes[migration + 1] ?? null;
    const context: DestinationContext = {
      migrationId: migrationName(migration),
      host: hostName(number),
      placement: journal.placement,
      seal: this.#seal(host),
      journalWentBack: false,
      receiving: copy !== null && copy.id === row?.subject.volumeId && copy.marker?.state === 'receiving',
    };
    const outcome = this.#rules.product.nextDestination(row, event, context);
    if (!outcome.ok || this.#unchanged(row, outcome.state, journal.placement, outcome.placement)) return null;
    const destinations = replaced(journal.destinations, migration, outcome.state);
    const accepted = outcome.placement !== journal.placement;
    const slot = accepted ? migration + 1 : journal.slot;
    return this.#put(this.#world, number, {
      journal: { ...journal, destinations, placement: outcome.placement, slot },
    });
  }

  /** The usual order is journal, then marker as a step of its own. Turned round, a crash between leaves the marker alone. */
  #addJournalled(label: string, next: World, number: number, alone: boolean): void {
    const before = this.#host(number);
    const after = next.hosts[number] as Host;
    if (!this.#rules.executor.journalsBeforeMarking && after.journal.placement !== before.journal.placement) {
      const seal = sealFor(after.journal.placement);
      if (seal !== null) {
        const volumes = this.#marked(before, after.journal.slot, seal);
        this.#add(`${label}; marker first, then a crash`, this.#put(this.#world, number, { volumes }), alone);
        this.#add(`${label}; marker first`, this.#put(this.#world, number, { ...after, volumes }), alone);
        return;
      }
    }
    this.#add(label, next, alone);
  }

  #unchanged(was: object | null, is: object, before: Placement, after: Placement): boolean {
    return textOf(was) === textOf(is) && textOf(before) === textOf(after);
  }

  #add(label: string, next: World, alone: boolean): void {
    this.#steps.push({ label, next, alone });
  }

  #marked(host: Host, slot: number, marker: Seal): readonly (Volume | null)[] {
    const volume = host.volumes[slot];
    return volume ? replaced(host.volumes, slot, { ...volume, marker }) : host.volumes;
  }

  /** Up: running as the owner of that epoch, or taken on by a later hand-over. */
  #isUp(host: Host, epoch: number): boolean {
    const { placement } = host.journal;
    if (placement.kind === 'none') return false;
    if (placement.epoch > epoch || (placement.epoch === epoch && placement.kind === 'tombstone')) return true;
    return placement.kind === 'owner' && host.process?.state === 'alive';
  }

  #heldBy(journal: Journal): string | null {
    const held = journal.sources.findIndex((row) => row !== null && this.#rules.product.holdsMachine(row));
    return held < 0 ? null : migrationName(held);
  }

  /** What holds the Machine when an abort starts it before its row is written: no STOPPED row does. */
  #stillStopping(journal: Journal): string | null {
    const held = journal.sources.findIndex((row) => row?.step === 'stopping');
    return held < 0 ? null : migrationName(held);
  }

  #seal({ volumes }: Host): Seal | null {
    let seal = seals.get(volumes);
    if (seal === undefined) {
      seal = this.#rules.product.sealOf(volumes.flatMap((volume) => (volume?.marker ? [volume.marker] : [])));
      seals.set(volumes, seal);
    }
    return seal;
  }

  #subject(migration: number): Subject {
    const { source, destination } = this.#ends(migration);
    return {
      migrationId: migrationName(migration),
      machineId: 'm',
      epoch: 0,
      source: hostName(source),
      destination: hostName(destination),
      volumeId: `v${migration + 1}.0`,
    };
  }

  #sourceRow(migration: number): SourceState | null {
    return this.#host(this.#ends(migration).source).journal.sources[migration] ?? null;
  }

  #destinationRow(migration: number): DestinationState | null {
    return this.#host(this.#ends(migration).destination).journal.destinations[migration] ?? null;
  }

  #ends(migration: number): { source: number; destination: number } {
    return this.#scope.migrations[migration] as { source: number; destination: number };
  }

  #host(number: number): Host {
    return this.#world.hosts[number] as Host;
  }

  #put(world: World, number: number, change: Partial<Host>): World {
    return { ...world, hosts: replaced(world.hosts, number, { ...(world.hosts[number] as Host), ...change }) };
  }
}

function sealFor(placement: Placement): Seal | null {
  if (placement.kind === 'none') return null;
  return { state: placement.kind === 'owner' ? 'owned' : 'relinquished', epoch: placement.epoch };
}

function subjectOnly(subject: Subject): Subject {
  const { migrationId, machineId, epoch, source, destination, volumeId } = subject;
  return { migrationId, machineId, epoch, source, destination, volumeId };
}

function rootOf(volume: Volume): string {
  return `r${volume.data}`;
}

function replaced<Value>(list: readonly Value[], index: number, value: Value): readonly Value[] {
  const copy = [...list];
  copy[index] = value;
  return copy;
}
