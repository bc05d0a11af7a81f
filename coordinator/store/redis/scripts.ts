import { readFileSync } from 'node:fs';
import type { Redis } from 'ioredis';

const names = [
  'acquire-lock',
  'claim-migration',
  'create-drain',
  'end-session',
  'leave-migration',
  'number',
  'prune-migrations',
  'put-host',
  'put-placements',
  'release-lock',
  'remove-host',
  'remove-placement',
  'renew-session',
  'take-drain',
  'take-migration',
  'update-drain',
  'update-migration',
] as const;

/** A script that changes the store: the name of its file. */
export type ScriptName = (typeof names)[number];

/** What goes into a script. */
export type Argument = string | number | bigint | Uint8Array;

/** A reply, as bytes; null for false. */
export type Reply = Buffer | number | null | readonly Reply[];

const read = (name: string) => readFileSync(new URL(`./${name}.lua`, import.meta.url), 'utf8');

const frame = read('frame').split('--[[BODY]]');
const bodies = new Map(names.map((name) => [name, frame.join(read(name))]));
const admission = read('admit');

/** Makes the scripts known to a client: sent by their hash, and whole when the server does not know them (any more). */
export function defineScripts(redis: Redis): void {
  for (const [name, lua] of bodies) redis.defineCommand(name, { numberOfKeys: 1, lua });
  redis.defineCommand('admit', { numberOfKeys: 1, lua: admission });
}

/** Runs a script. */
export function runScript(
  redis: Redis,
  name: ScriptName | 'admit',
  prefix: string,
  ...values: readonly Argument[]
): Promise<Reply> {
  const scripts = redis as unknown as Record<string, (...values: readonly unknown[]) => Promise<Reply>>;
  const sent = values.map((value) => (value instanceof Uint8Array ? Buffer.from(value) : String(value)));
  return scripts[`${name}Buffer`]!.call(redis, prefix, ...sent);
}
