import type { Disk } from './disk.ts';
import { diskError, TransferError } from './error.ts';
import type { AllocationMap } from './extents.ts';
import type { ServedSums } from './served-sums.ts';

/** How far the reading of an image is. */
export interface FillProgress {
  readonly bytesDone: number;
  readonly bytesTotal: number;
}

/** Reads images to know the sums of all their chunks: once for each set of sums, whoever asks and however often. */
export class Fills {
  readonly #disk: Disk;
  readonly #signal: AbortSignal;
  readonly #running = new Map<
    ServedSums,
    { snapshot: string; bytesDone: number; bytesTotal: number; work: Promise<void> }
  >();

  constructor(disk: Disk, signal: AbortSignal) {
    this.#disk = disk;
    this.#signal = signal;
  }

  /** Resolves when all sums of the image at `path` are known. What fails is tried again by the next call. */
  whole(sums: ServedSums, path: string, map: AllocationMap): Promise<void> {
    const running = this.#running.get(sums);
    if (running?.snapshot === sums.snapshot) return running.work;
    if (sums.unknownCount === 0) return Promise.resolve();
    const entry = { snapshot: sums.snapshot, bytesDone: 0, bytesTotal: map.dataBytes, work: Promise.resolve() };
    entry.work = this.#fill(sums, path, map, (bytes) => {
      entry.bytesDone = Math.min(entry.bytesDone + bytes, entry.bytesTotal);
    }).finally(() => this.#running.delete(sums));
    // Whoever waits hears of the failure; nobody may be waiting just now.
    entry.work.catch(() => {});
    this.#running.set(sums, entry);
    return entry.work;
  }

  /** How far `whole` is. */
  progress(sums: ServedSums): FillProgress {
    const { bytesDone, bytesTotal } = this.#running.get(sums) ?? { bytesDone: 0, bytesTotal: 0 };
    return { bytesDone, bytesTotal };
  }

  /** Resolves when nothing is read any more. */
  async ended(): Promise<void> {
    await Promise.allSettled([...this.#running.values()].map(({ work }) => work));
  }

  async #fill(sums: ServedSums, path: string, map: AllocationMap, onProgress: (bytes: number) => void): Promise<void> {
    const image = await this.#disk.open(path, { mode: 'read', direct: false }).catch((error: unknown) => {
      throw diskError(error, `opening ${path}`);
    });
    if (!image) throw new TransferError('target_io', `there is no file ${path}`);
    try {
      await sums.fill({ image, map }, { signal: this.#signal, onProgress });
    } finally {
      await image.close();
    }
  }
}
