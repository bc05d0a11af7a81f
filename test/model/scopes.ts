/** The bounded worlds that are searched. Each shows another side of the hand-over; together they hold every rule. */
import type { Scope } from './world.ts';

const A = 0;
const B = 1;
const C = 2;

/** One migration, everything that can go wrong on the way, and never a coordinator that comes back. */
export const single: Scope = {
  name: 'one migration',
  migrations: [{ source: A, destination: B }],
  hosts: 2,
  writesMax: 2,
  terms: [1],
  otherEpochs: [],
  restoreHosts: [],
  restoresMax: 0,
  staleSums: false,
  strayProcess: false,
  unpreparedOffers: true,
  oneAfterAnother: false,
  cooperative: false,
  asksForEnd: true,
};

/** Two coordinators drive the same migration. */
export const takeover: Scope = { ...single, name: 'two drivers', terms: [1, 2], writesMax: 1 };

export const restoredSource: Scope = {
  ...single,
  name: 'source journal put back',
  restoreHosts: [A],
  restoresMax: 1,
  unpreparedOffers: false,
  asksForEnd: false,
};

export const restoredDestination: Scope = {
  ...restoredSource,
  name: 'destination journal put back',
  restoreHosts: [B],
  writesMax: 1,
};

/** The map of changes left something out: equal roots, different bytes. */
export const staleSums: Scope = { ...single, name: 'root of stale sums', writesMax: 1, staleSums: true };

/** Something that is not Ferry starts the Machine while it is held. */
export const strayProcess: Scope = { ...single, name: 'stray process', writesMax: 0, strayProcess: true };

const two: Scope = { ...single, writesMax: 1, unpreparedOffers: false };

/** Moved, and moved back. */
export const back: Scope = {
  ...two,
  name: 'there and back',
  migrations: [
    { source: A, destination: B },
    { source: B, destination: A },
  ],
};

/** Two migrations of one Machine to the same host, mixed up in any way. */
export const again: Scope = {
  ...two,
  name: 'twice to the same host',
  migrations: [
    { source: A, destination: B },
    { source: A, destination: B },
  ],
};

export const onwards: Scope = {
  ...two,
  name: 'to two hosts',
  hosts: 3,
  migrations: [
    { source: A, destination: B },
    { source: A, destination: C },
  ],
};

/** A second try to the same host once the first is back. */
export const retried: Scope = { ...again, name: 'tried again', writesMax: 0, oneAfterAnother: true };

/** There, back and there again, each begun when the one before is accepted. */
export const thrice: Scope = {
  ...two,
  name: 'there, back and there',
  writesMax: 0,
  oneAfterAnother: true,
  cooperative: true,
  asksForEnd: false,
  migrations: [
    { source: A, destination: B },
    { source: B, destination: A },
    { source: A, destination: B },
  ],
};

/** What every test run proves. */
export const quick: readonly Scope[] = [
  single,
  takeover,
  restoredSource,
  restoredDestination,
  staleSums,
  strayProcess,
  back,
  { ...again, writesMax: 0 },
];

/** Larger bounds for the long suite. */
export const deep: readonly Scope[] = [
  ...quick,
  again,
  onwards,
  thrice,
  retried,
  { ...thrice, name: 'there, back and there, any order', cooperative: false },
  { ...takeover, writesMax: 3 },
  { ...restoredSource, name: 'source journal put back twice', restoresMax: 2 },
  { ...restoredDestination, name: 'destination journal put back twice', restoresMax: 2, writesMax: 2 },
  { ...back, name: 'there and back, three writes', writesMax: 3 },
  { ...back, name: 'there and back, other epochs named', otherEpochs: [2, 3, 4] },
];
