import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { FerryError } from '../../../shared/error.ts';

/**
 * The absolute path of a program: itself, or found in `path`. Throws cannot_run, naming what was looked for and where.
 */
export async function resolveExecutable(program: string | undefined, path: string): Promise<string> {
  if (program === undefined || program === '') {
    throw cannotRun('the command is empty', 'a program in image or init.exec', '');
  }
  if (program.includes('/') && !program.startsWith('/')) {
    throw cannotRun(`"${program}" is a relative path`, 'an absolute path, or a bare name found in PATH', program);
  }
  const candidates = program.startsWith('/')
    ? [program]
    : path.split(':').flatMap((directory) => (directory.startsWith('/') ? [join(directory, program)] : []));
  for (const candidate of candidates) if (await isExecutable(candidate)) return candidate;
  const where = program.startsWith('/') ? '' : ` in PATH ${path}`;
  throw cannotRun(`"${program}" is not an executable file on this host`, `an executable file${where}`, program);
}

/** Throws cannot_run when `cwd` is not a directory that can be entered. */
export async function requireDirectory(cwd: string): Promise<void> {
  const found = cwd.startsWith('/') ? await stat(cwd).catch(() => undefined) : undefined;
  if (found?.isDirectory() && (await isAccessible(cwd))) return;
  throw cannotRun(`working directory "${cwd}" cannot be entered`, 'an absolute path of a directory on this host', cwd);
}

function cannotRun(message: string, expected: string, path: string): FerryError {
  return new FerryError('cannot_run', message, { expected, facts: { path } });
}

async function isExecutable(path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  return found?.isFile() === true && (await isAccessible(path));
}

function isAccessible(path: string): Promise<boolean> {
  return access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}
