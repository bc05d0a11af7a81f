/** What the order of moves goes by. */
export interface Movable {
  readonly machineId: string;
  readonly network: string;
  readonly bytes: number;
}

/**
 * The order in which the Machines of a host are moved: networks take turns, because stops of one network wait for one
 * another; the network with the most Machines goes first, because its line is the longest; within a network the small
 * ones go first, so that its first stop comes soon while the big ones are still copied.
 */
export function moveOrder<T extends Movable>(machines: readonly T[]): T[] {
  const networks = new Map<string, T[]>();
  for (const machine of machines) networks.set(machine.network, [...(networks.get(machine.network) ?? []), machine]);
  const lines = [...networks]
    .sort(([a, some], [b, others]) => others.length - some.length || (a < b ? -1 : 1))
    .map(([, line]) => line.sort((a, b) => a.bytes - b.bytes || (a.machineId < b.machineId ? -1 : 1)));
  const longest = Math.max(0, ...lines.map((line) => line.length));
  return Array.from({ length: longest }, (_, turn) => lines.flatMap((line) => line.slice(turn, turn + 1))).flat();
}

/** How many moves may be under way at once. */
export interface MoveLimits {
  readonly perSource: number;
  readonly perDestination: number;
  /** Of all drains of the cluster together. */
  readonly total: number;
}

/** A move that is under way, as the limits see it. */
export interface UnderWay {
  readonly network: string;
  readonly destination: string;
}

/** Moves that are under way, by whom they count for. */
export interface Load {
  readonly fromSource: number;
  readonly total: number;
  readonly toDestination: ReadonlyMap<string, number>;
  /** Of this drain. */
  readonly ofNetwork: ReadonlyMap<string, number>;
}

/** Which limit keeps a move from beginning, in words; undefined when none does. */
export function slotRefusal({ destination }: UnderWay, load: Load, limits: MoveLimits): string | undefined {
  if (load.fromSource >= limits.perSource) return `${limits.perSource} moves of this host are under way`;
  if (load.total >= limits.total) return `${limits.total} moves of the cluster's drains are under way`;
  const there = load.toDestination.get(destination) ?? 0;
  return there >= limits.perDestination ? `${limits.perDestination} moves to ${destination} are under way` : undefined;
}

/** The next to begin: of those that the limits allow the first whose network has the fewest under way. */
export function nextToBegin<T extends UnderWay>(waiting: readonly T[], load: Load, limits: MoveLimits): T | undefined {
  const ofNetwork = ({ network }: T) => load.ofNetwork.get(network) ?? 0;
  let best: T | undefined;
  for (const each of waiting) {
    if (slotRefusal(each, load, limits) !== undefined) continue;
    if (best === undefined || ofNetwork(each) < ofNetwork(best)) best = each;
  }
  return best;
}

/** The load once this move is under way too. */
export function withMove(load: Load, { network, destination }: UnderWay): Load {
  return {
    fromSource: load.fromSource + 1,
    total: load.total + 1,
    toDestination: counted(load.toDestination, destination),
    ofNetwork: counted(load.ofNetwork, network),
  };
}

export const noLoad: Load = { fromSource: 0, total: 0, toDestination: new Map(), ofNetwork: new Map() };

function counted(counts: ReadonlyMap<string, number>, key: string): Map<string, number> {
  return new Map(counts).set(key, (counts.get(key) ?? 0) + 1);
}
