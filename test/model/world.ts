/**
 * What the model looks at: hosts with a journal, volumes with their marker files, and the Machine's processes. Data is a
 * count of acknowledged writes: a volume holds the data of the write whose number it carries.
 */
import type { Marker, Placement } from '../../agent/handover/boot.ts';
import type { DestinationState } from '../../agent/handover/destination.ts';
import type { SourceState } from '../../agent/handover/source.ts';
import type { Decline, Settlement, Ticket } from '../../agent/handover/statements.ts';

/** Nothing was copied yet. */
export const EMPTY = -2;
/** The bytes are freed; the marker file stays. */
export const FREED = -1;

export interface Volume {
  readonly id: string;
  readonly data: number;
  readonly marker: Marker | null;
}

/** Durable, and restored as a whole when an older copy is put back. Rows are indexed by migration. */
export interface Journal {
  readonly sources: readonly (SourceState | null)[];
  readonly destinations: readonly (DestinationState | null)[];
  readonly placement: Placement;
  /** Slot of the volume that the Machine has here. */
  readonly slot: number;
}

export interface Process {
  readonly state: 'alive' | 'dying';
  readonly slot: number;
}

export interface Host {
  readonly journal: Journal;
  /** Slot 0: born here; slot i + 1: the copy prepared by migration i. */
  readonly volumes: readonly (Volume | null)[];
  readonly process: Process | null;
  readonly backup: Journal | null;
}

export type Statement =
  | { readonly type: 'ticket'; readonly migration: number; readonly body: Ticket }
  | { readonly type: 'decline'; readonly migration: number; readonly body: Decline }
  | { readonly type: 'settlement'; readonly migration: number; readonly body: Settlement }
  /** The source's answer to a coordinator: it has ended and will never go on. */
  | { readonly type: 'aborted'; readonly migration: number; readonly body: { readonly volumeId: string } };

export interface World {
  readonly hosts: readonly Host[];
  /** Number of the last acknowledged write. */
  readonly latest: number;
  /** Signed statements that have left their host: from then on the network delivers them never, once or often. */
  readonly known: readonly Statement[];
  /** Copies minted so far, by migration. */
  readonly minted: readonly number[];
  /** Whether the retention time is over, by migration. */
  readonly late: readonly boolean[];
  readonly restoresLeft: number;
  /** Whether a root may once be made of sums that the map of changes left out. */
  readonly staleSumsLeft: number;
  readonly strayProcessLeft: number;
}

export interface Scope {
  readonly name: string;
  /** Host numbers; the Machine is born on host 0. */
  readonly migrations: readonly { readonly source: number; readonly destination: number }[];
  readonly hosts: number;
  readonly writesMax: number;
  readonly terms: readonly number[];
  /** Epochs that a coordinator may name in prepare besides the right one. */
  readonly otherEpochs: readonly number[];
  /** Which hosts' journals may be put back, and how often in all. */
  readonly restoreHosts: readonly number[];
  readonly restoresMax: number;
  readonly staleSums: boolean;
  /** Whether something outside Ferry starts the Machine once while it is stopped. */
  readonly strayProcess: boolean;
  /** Whether a coordinator offers before anything was prepared. */
  readonly unpreparedOffers: boolean;
  /** Each migration is prepared only when the one before is accepted or back. */
  readonly oneAfterAnother: boolean;
  /** Nobody aborts, declines or lets time run out. */
  readonly cooperative: boolean;
  /** Whether I10 is asked. Not with restored journals: there an operator is needed, and told. */
  readonly asksForEnd: boolean;
}

export function hostName(host: number): string {
  return 'ABC'[host] as string;
}

export function firstWorld(scope: Scope): World {
  const none = scope.migrations.map(() => null);
  const hosts: Host[] = [];
  for (let host = 0; host < scope.hosts; host++) {
    const born = host === 0;
    const volume: Volume = { id: 'v', data: 0, marker: { state: 'owned', epoch: 1 } };
    hosts.push({
      journal: {
        sources: none,
        destinations: none,
        placement: born ? { kind: 'owner', epoch: 1 } : { kind: 'none' },
        slot: 0,
      },
      volumes: [born ? volume : null, ...none],
      process: born ? { state: 'alive', slot: 0 } : null,
      backup: null,
    });
  }
  return {
    hosts,
    latest: 0,
    known: [],
    minted: scope.migrations.map(() => 0),
    late: scope.migrations.map(() => false),
    restoresLeft: scope.restoresMax,
    staleSumsLeft: scope.staleSums ? 1 : 0,
    strayProcessLeft: scope.strayProcess ? 1 : 0,
  };
}

/** Equal worlds, equal keys. */
export function keyOf(world: World): string {
  const { latest, minted, late, restoresLeft, staleSumsLeft, strayProcessLeft } = world;
  let key = `${latest}${minted.join('')}${late.map(Number).join('')}${restoresLeft}${staleSumsLeft}${strayProcessLeft}`;
  for (const { journal, volumes, process, backup } of world.hosts) {
    key += `/${textOfJournal(journal)} ${volumes.map(textOf).join(',')} ${textOf(process)} ${backup === null ? '' : textOfJournal(backup)}`;
  }
  return `${key}/${world.known.map(textOf).sort().join(',')}`;
}

function textOfJournal({ sources, destinations, placement, slot }: Journal): string {
  return `${sources.map(textOf).join(',')}:${destinations.map(textOf).join(',')}:${textOf(placement)}:${slot}`;
}

const texts = new WeakMap<object, string>();
const names = new Map<string, string>();

/** A short name for a part of the world; equal parts get equal names. Parts are shared between worlds, so names are kept. */
export function textOf(part: object | null): string {
  if (part === null) return '';
  let text = texts.get(part);
  if (text === undefined) {
    const whole = written(part);
    text = names.get(whole) ?? names.size.toString(36);
    names.set(whole, text);
    texts.set(part, text);
  }
  return text;
}

/** All values in order, without the fields that no rule reads: states that differ in them alone are one. */
function written(part: object): string {
  let whole = '';
  for (const field in part) {
    if (field === 'reason' || field === 'signalSentAtMs') continue;
    const value = (part as Record<string, unknown>)[field];
    whole += typeof value === 'object' && value !== null ? `(${written(value)})` : `${value};`;
  }
  return whole;
}

export function migrationName(migration: number): string {
  return `mig${migration + 1}`;
}

/** Slot of the volume that a migration leaves behind at its source. */
export function retainedSlot(scope: Scope, migration: number): number {
  const source = scope.migrations[migration]?.source;
  const before = scope.migrations.findIndex((other, index) => index < migration && other.destination === source);
  return before < 0 ? 0 : before + 1;
}

/** The world in a few lines for the end of a trace. */
export function picture(world: World): string {
  const lines = world.hosts.map((host, number) => {
    const { placement, sources, destinations } = host.journal;
    const owns = placement.kind === 'none' ? 'none' : `${placement.kind} ${placement.epoch}`;
    const rows = [...sources, ...destinations].flatMap((row) => (row === null ? [] : [row.step])).join(', ') || 'none';
    const volumes = host.volumes
      .flatMap((volume) =>
        volume === null
          ? []
          : [`${volume.id} data ${volume.data} ${volume.marker?.state ?? 'unmarked'} ${volume.marker?.epoch ?? ''}`],
      )
      .join('; ');
    return `  ${hostName(number)}: process ${host.process?.state ?? 'none'} | journal ${owns} | rows ${rows} | ${volumes || 'no volume'}`;
  });
  return [...lines, `  last acknowledged write: ${world.latest}`].join('\n');
}
