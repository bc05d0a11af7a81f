/** Breadth-first search over every reachable state; the first break found is a shortest one. */

export interface Step<World> {
  readonly label: string;
  readonly next: World;
  /** Done by the agents alone, without any coordinator. Ends must be reachable over such steps. */
  readonly alone: boolean;
}

export interface Model<World> {
  readonly initial: World;
  /** Equal keys are equal states. */
  key(world: World): string;
  steps(world: World): readonly Step<World>[];
  /** The broken invariant in words, or null. */
  broken(before: World, step: Step<World>): string | null;
  /** Whether everything has come to a good end; null when the model does not ask. */
  ended: ((world: World) => boolean) | null;
  picture(world: World): string;
}

export type Found =
  | { readonly kind: 'holds'; readonly states: number; readonly steps: number; readonly depth: number }
  | {
      readonly kind: 'broken';
      readonly states: number;
      readonly what: string;
      readonly trace: readonly string[];
      readonly picture: string;
    }
  /** More states than allowed: nothing is proved. */
  | { readonly kind: 'unfinished'; readonly states: number };

export function search<World>(model: Model<World>, statesMax: number): Found {
  const numbers = new Map<string, number>([[model.key(model.initial), 0]]);
  let worlds: World[] = [model.initial];
  let ids: number[] = [0];
  const parent: number[] = [-1];
  const label: string[] = [''];
  const ends: number[] = [];
  const edges = new Edges();
  let steps = 0;
  let depth = 0;
  const traceTo = (state: number): string[] => {
    const trace: string[] = [];
    for (let at = state; at > 0; at = parent[at] as number) trace.unshift(label[at] as string);
    return trace;
  };
  while (worlds.length > 0) {
    const nextWorlds: World[] = [];
    const nextIds: number[] = [];
    for (let index = 0; index < worlds.length; index++) {
      const world = worlds[index] as World;
      const id = ids[index] as number;
      if (model.ended?.(world)) ends.push(id);
      for (const step of model.steps(world)) {
        steps++;
        const what = model.broken(world, step);
        if (what !== null) {
          const trace = [...traceTo(id), step.label];
          return { kind: 'broken', states: numbers.size, what, trace, picture: model.picture(step.next) };
        }
        const key = model.key(step.next);
        let to = numbers.get(key);
        if (to === undefined) {
          to = numbers.size;
          numbers.set(key, to);
          parent.push(id);
          label.push(step.label);
          nextWorlds.push(step.next);
          nextIds.push(to);
        }
        if (step.alone && model.ended !== null && to !== id) edges.add(id, to);
      }
    }
    if (numbers.size > statesMax) return { kind: 'unfinished', states: numbers.size };
    worlds = nextWorlds;
    ids = nextIds;
    if (worlds.length > 0) depth++;
  }
  if (model.ended !== null) {
    const stuck = edges.firstWithoutWayTo(ends, numbers.size);
    if (stuck !== null) {
      const what = 'I10: from here the agents alone reach no end';
      return { kind: 'broken', states: numbers.size, what, trace: traceTo(stuck), picture: '' };
    }
  }
  return { kind: 'holds', states: numbers.size, steps, depth };
}

/** A growing list of edges, compact. */
class Edges {
  #list = new Int32Array(1 << 16);
  #length = 0;

  add(from: number, to: number): void {
    if (this.#length === this.#list.length) {
      const larger = new Int32Array(this.#list.length * 2);
      larger.set(this.#list);
      this.#list = larger;
    }
    this.#list[this.#length++] = from;
    this.#list[this.#length++] = to;
  }

  /** Walks backwards from the ends; the lowest state not reached lies nearest to the start. */
  firstWithoutWayTo(ends: readonly number[], states: number): number | null {
    const first = new Int32Array(states).fill(-1);
    const following = new Int32Array(this.#length / 2);
    for (let edge = 0; edge < following.length; edge++) {
      const to = this.#list[edge * 2 + 1] as number;
      following[edge] = first[to] as number;
      first[to] = edge;
    }
    const reached = new Uint8Array(states);
    const open = [...ends];
    for (const end of ends) reached[end] = 1;
    for (let state = open.pop(); state !== undefined; state = open.pop()) {
      for (let edge = first[state] as number; edge >= 0; edge = following[edge] as number) {
        const from = this.#list[edge * 2] as number;
        if (reached[from] === 0) {
          reached[from] = 1;
          open.push(from);
        }
      }
    }
    const lost = reached.indexOf(0);
    return lost < 0 ? null : lost;
  }
}
