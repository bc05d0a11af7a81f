import type { Redis } from 'ioredis';
import { FerryError } from '../../../shared/error.ts';

const versionMin = [6, 2] as const;

/**
 * Looks whether a server can be trusted with the store. Answers notes for the operator; throws unsupported when it is too old
 * or may throw keys away.
 */
export async function examineServer(redis: Redis): Promise<readonly string[]> {
  const info = await redis.info();
  const field = (name: string) => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1] ?? '';
  const version = field('redis_version');
  const [major = 0, minor = 0] = version.split('.').map(Number);
  if (major < versionMin[0] || (major === versionMin[0] && minor < versionMin[1])) {
    throw new FerryError('unsupported', `the store is Redis ${version || 'of an unknown version'}`, {
      expected: `Redis ${versionMin.join('.')} or newer`,
      nextAction: 'Install a newer Redis, or use the embedded store (no --store).',
    });
  }
  const notes: string[] = [];
  const policy = field('maxmemory_policy');
  if (policy.startsWith('allkeys-')) {
    throw new FerryError('unsupported', `the store may throw keys away: its maxmemory-policy is ${policy}`, {
      expected: 'maxmemory-policy noeviction',
      nextAction: 'Set "maxmemory-policy noeviction" in redis.conf, or by CONFIG SET and CONFIG REWRITE.',
    });
  }
  if (policy !== 'noeviction') {
    notes.push(`the store's maxmemory-policy is ${policy || 'unknown'}; set it to noeviction`);
  }
  if (field('aof_enabled') !== '1') {
    notes.push(
      'the store is not durable: set "appendonly yes"; without it a restart of Redis loses locks and migrations',
    );
    return notes;
  }
  // Servers run by others may refuse this.
  const appendfsync = (await redis.config('GET', 'appendfsync').catch(() => [])) as readonly string[];
  if (appendfsync[1] === 'no') {
    notes.push('the store is hardly durable: set "appendfsync always" (or at least everysec)');
  } else if (appendfsync[1] === 'everysec') {
    notes.push('a power cut may take the last second of the store: "appendfsync always" would prevent it');
  }
  return notes;
}
