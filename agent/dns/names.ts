import type { DirectoryRow } from '../../proto/gen/ferry/v1/directory_pb.ts';

/** The zone that agents answer for. */
export const zone = 'internal';
/** Machines that `topN` answers at most. */
const topMax = 100;
/** Bytes of one TXT answer: what does not fit is left out, whole entries only. */
const textBytesMax = 32 * 1024;

/** All Machines by app, as the directory has them. */
export type Apps = ReadonlyMap<string, readonly DirectoryRow[]>;

/** What a name stands for. `none`: there is no such name. Machines and texts only of what runs. */
export type Found =
  | { readonly kind: 'none' }
  /** It exists, and has no addresses and no text. */
  | { readonly kind: 'empty' }
  /** `ordered`: nearest first, not to be mixed. */
  | { readonly kind: 'machines'; readonly rows: readonly DirectoryRow[]; readonly ordered: boolean }
  | { readonly kind: 'text'; readonly text: string };

const none: Found = { kind: 'none' };
const empty: Found = { kind: 'empty' };
/** Parts of longer names: below an app that exists, they exist. */
const between = new Set(['vm', 'process', 'of', 'nearest.of', '_metadata', 'kv._metadata']);

/** Looks a name below `internal` up, without the zone and in lower case: "" is the zone itself. `region` is the asker's. */
export function lookUp(name: string, apps: Apps, region: string): Found {
  if (name === '') return empty;
  if (name === '_apps')
    return text(
      [...apps]
        .filter(([, rows]) => rows.some(runs))
        .map(([app]) => app)
        .sort(),
      ',',
    );
  if (name === '_instances') {
    const rows = [...apps.values()].flat().filter(runs).sort(byId);
    const facts = (row: DirectoryRow) =>
      `instance=${row.machineId},app=${row.app},ip=${addressOf(row)},region=${row.region}`;
    return text(rows.map(facts), ';');
  }
  const dot = name.lastIndexOf('.');
  const rows = apps.get(name.slice(dot + 1));
  if (rows === undefined) return none;
  return below(name.slice(0, Math.max(0, dot)), rows, region);
}

/** What stands below an app that exists. */
function below(name: string, rows: readonly DirectoryRow[], region: string): Found {
  const pair = ({ machineId, region: where }: DirectoryRow) => `${machineId} ${where}`;
  if (name === '' || name === 'global') return machines(rows);
  if (name === 'vms') return text(rows.filter(runs).map(pair), ',');
  if (name === 'all.vms') return text(rows.map(pair), ',');
  if (name === 'regions') return text([...new Set(rows.filter(runs).map((row) => row.region))].sort(), ',');
  if (between.has(name)) return empty;
  const top = /^top(\d{1,4})\.nearest\.of$/.exec(name);
  if (top !== null) return nearest(rows, region, Number(top[1]));
  const end = /^(.+)\.(vm|process|kv\._metadata)$/.exec(name);
  if (end === null) return named(rows.filter((row) => row.region === name));
  const [, what = '', kind] = end;
  if (kind === 'vm') return named(rows.filter((row) => row.machineId === what));
  if (kind === 'process') return named(rows.filter((row) => row.processGroup.toLowerCase() === what));
  const matching = rows.filter((row) => pairsOf(row).includes(what));
  if (matching.length === 0 && rows.some((row) => pairsOf(row).some((each) => each.endsWith(`.${what}`)))) return empty;
  return named(matching);
}

/** "<value>.<key>" of each metadata entry. */
function pairsOf(row: DirectoryRow): string[] {
  return Object.entries(row.metadata).map(([key, value]) => `${value}.${key}`.toLowerCase());
}

/** A name that exists only if some Machine, running or not, bears it. */
function named(rows: readonly DirectoryRow[]): Found {
  return rows.length === 0 ? none : machines(rows);
}

function machines(rows: readonly DirectoryRow[], ordered = false): Found {
  return { kind: 'machines', rows: rows.filter(runs), ordered };
}

/** The asker's region first, then the others by name; Machines of one region by ID. */
function nearest(rows: readonly DirectoryRow[], region: string, count: number): Found {
  if (count === 0) return none;
  const rank = (row: DirectoryRow) => `${row.region === region ? 0 : 1} ${row.region} ${row.machineId}`;
  const sorted = rows.filter(runs).sort((a, b) => (rank(a) < rank(b) ? -1 : 1));
  return machines(sorted.slice(0, Math.min(count, topMax)), true);
}

function text(entries: readonly string[], separator: string): Found {
  if (entries.length === 0) return empty;
  let bytes = 0;
  const fitting = entries.filter((entry) => {
    bytes += entry.length + separator.length;
    return bytes <= textBytesMax;
  });
  return { kind: 'text', text: fitting.join(separator) };
}

/** The address that a Machine's program really has: 6PN, or 127.x.y.z where none can be given. */
export function addressOf(row: DirectoryRow): string {
  return row.bindIp === '' ? row.privateIp : row.bindIp;
}

function runs(row: DirectoryRow): boolean {
  return row.started;
}

function byId(a: DirectoryRow, b: DirectoryRow): number {
  return a.machineId < b.machineId ? -1 : 1;
}
