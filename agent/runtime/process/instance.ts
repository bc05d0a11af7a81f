import { chmod, link, mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type Identity, isAlive, parseIdentity } from './identity.ts';

/** What is durable before the spawn. */
export interface Intent {
  readonly machineId: string;
  readonly instanceId: string;
  readonly command: readonly string[];
  /** Boot in which the spawn was to happen: in a later one nothing of it can be alive. */
  readonly bootId: string;
  /** Count of out-of-memory kills before the start; null = unknown. */
  readonly oomKills: number | null;
}

/** What the shim recorded at the end: a status of sh, or that the program never ran. */
export type ExitRecord = { kind: 'status'; status: number; atMs: number } | { kind: 'refused'; reason: string };

/** What the records of one start say, together with what /proc says of the processes that they name. */
export type Trace =
  | { kind: 'none' }
  | { kind: 'rebooted'; began: boolean }
  /** The agent took the guard before any shim: the program can never run. */
  | { kind: 'fenced' }
  /** Spawn intended; no shim has shown itself yet. */
  | { kind: 'intended' }
  /** A shim has the guard; the program has not begun. */
  | { kind: 'shim'; shimAlive: boolean }
  | { kind: 'main'; main: Identity; startedAtMs: number; mainAlive: boolean; shimAlive: boolean }
  | { kind: 'exit'; exit: ExitRecord };

const FENCED = 'fenced\n';

/** The directory of one start of a Machine's program: `intent`, then the shim's records (see shim.sh). */
export class Instance {
  readonly directory: string;

  constructor(directory: string) {
    this.directory = directory;
  }

  /** Makes the intent durable. Throws when there is one already. */
  async intend(intent: Intent): Promise<void> {
    await mkdir(this.directory, { recursive: true });
    await chmod(this.directory, 0o700);
    const temporary = this.#path('intent.new');
    const file = await open(temporary, 'w', 0o600);
    try {
      await file.writeFile(`${JSON.stringify(intent)}\n`);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, this.#path('intent'));
    // The entry of the intent, of this directory, and of the Machine's.
    for (const path of [this.directory, dirname(this.directory), dirname(dirname(this.directory))])
      await syncDirectory(path);
  }

  async readIntent(): Promise<Intent | undefined> {
    const text = await readRecord(this.#path('intent'));
    return text === undefined ? undefined : (JSON.parse(text) as Intent);
  }

  /** Takes the guard, so that no shim of this start can ever run the program. False when a shim was first. */
  async fence(): Promise<boolean> {
    const temporary = this.#path('fence.new');
    const file = await open(temporary, 'w', 0o600);
    await file.writeFile(FENCED);
    await file.sync();
    await file.close();
    try {
      await link(temporary, this.#path('shim'));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      return (await readRecord(this.#path('shim'))) === FENCED;
    } finally {
      await rm(temporary, { force: true });
    }
    await syncDirectory(this.directory);
    return true;
  }

  /** Reads the records, newest stage first; `bootId` is that of now. */
  async trace(bootId: string): Promise<Trace> {
    const intent = await this.readIntent();
    if (intent === undefined) return { kind: 'none' };
    // The order matters: what is alive is looked at before the exit record, so that a program which ends in between
    // shows as ended and never as vanished.
    const shimText = await readRecord(this.#path('shim'));
    const shim = parseIdentity(shimText ?? '');
    const shimAlive = shim !== undefined && (await isAlive(shim, bootId));
    const main = parseIdentity((await readRecord(this.#path('main'))) ?? '');
    const mainAlive = main !== undefined && (await isAlive(main, bootId));
    const exit = await this.#readExit();
    if (exit !== undefined && !mainAlive) return { kind: 'exit', exit };
    if (intent.bootId !== bootId) return { kind: 'rebooted', began: main !== undefined };
    if (main !== undefined) {
      const startedAtMs = Math.floor((await stat(this.#path('main'))).mtimeMs);
      return { kind: 'main', main, startedAtMs, mainAlive, shimAlive };
    }
    if (shimText === undefined) return { kind: 'intended' };
    return shimText === FENCED ? { kind: 'fenced' } : { kind: 'shim', shimAlive };
  }

  /** Who the shim is; undefined before it shows itself. */
  async readShim(): Promise<Identity | undefined> {
    return parseIdentity((await readRecord(this.#path('shim'))) ?? '');
  }

  async #readExit(): Promise<ExitRecord | undefined> {
    const text = await readRecord(this.#path('exit'));
    if (text === undefined) return undefined;
    const refused = /^refused (.*)\n$/.exec(text);
    if (refused !== null) return { kind: 'refused', reason: refused[1]! };
    const status = /^([0-9]{1,3})\n$/.exec(text);
    // An empty record: the disk was full. Then nobody knows how the program ended.
    if (status === null) return undefined;
    const { mtimeMs } = await stat(this.#path('exit'));
    return { kind: 'status', status: Number(status[1]), atMs: Math.floor(mtimeMs) };
  }

  #path(name: string): string {
    return join(this.directory, name);
  }
}

/** Makes the entries of a directory durable. */
async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

async function readRecord(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}
