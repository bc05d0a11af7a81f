import { expect, test } from 'vitest';
import { type ImageState, imageName, parseImageName } from './image.ts';

const states: [string, ImageState][] = [
  ['receiving.img', { state: 'receiving' }],
  ['owned-e1.img', { state: 'owned', epoch: 1 }],
  ['owned-e9007199254740991.img', { state: 'owned', epoch: Number.MAX_SAFE_INTEGER }],
  ['relinquished-e12.img', { state: 'relinquished', epoch: 12 }],
];

test.each(states)('%s means the same both ways', (name, state) => {
  expect(imageName(state)).toBe(name);
  expect(parseImageName(name)).toEqual(state);
});

test.each([
  '',
  'owned.img',
  'owned-e.img',
  'owned-e0.img',
  'owned-e01.img',
  'owned-e-1.img',
  'owned-e1.5.img',
  'owned-e9007199254740993.img',
  'owned-e1.img.tmp',
  'Owned-e1.img',
  'receiving-e1.img',
  'receiving.img\n',
])('%j is no image name', (name) => {
  expect(parseImageName(name)).toBeNull();
});
