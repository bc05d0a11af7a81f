import { type FSWatcher, watch } from 'node:fs';
import { mkdir } from 'node:fs/promises';

/** The part of the clock that waiting needs. */
export interface Sleeper {
  /** Resolves after `ms`; rejects with the reason of `signal` when that aborts first. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** Waits for changes in a directory. Changes between two waits are not lost. */
export class DirectoryWatch {
  #changed = false;
  #wake: () => void = () => {};
  readonly #watcher: FSWatcher | undefined;

  private constructor(directory: string) {
    this.#watcher = openWatcher(directory, () => {
      this.#changed = true;
      this.#wake();
    });
  }

  static async on(directory: string): Promise<DirectoryWatch> {
    await mkdir(directory, { recursive: true });
    return new DirectoryWatch(directory);
  }

  /** Resolves at the next change (true), or after `timeoutMs` (false). Rejects when `signal` aborts. */
  async next(timeoutMs: number, clock: Sleeper, signal?: AbortSignal): Promise<boolean> {
    signal?.throwIfAborted();
    if (!this.#changed) {
      const over = new AbortController();
      const changed = new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      const both = signal === undefined ? over.signal : AbortSignal.any([signal, over.signal]);
      const slept = clock.sleep(timeoutMs, both).catch((error) => {
        if (!over.signal.aborted) throw error;
      });
      try {
        await Promise.race([changed, slept]);
      } finally {
        over.abort();
      }
    }
    const changed = this.#changed;
    this.#changed = false;
    return changed;
  }

  close(): void {
    this.#watcher?.close();
  }
}

/** Without a watcher (inotify's limits are per user) the timeout of each wait still finds every change. */
function openWatcher(directory: string, onChange: () => void): FSWatcher | undefined {
  try {
    return watch(directory, { persistent: true }, onChange).on('error', () => {});
  } catch {
    return undefined;
  }
}
