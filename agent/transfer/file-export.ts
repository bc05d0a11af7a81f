import { read } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { BASE_ALLOCATION, type Export, type Extent } from '../../nbd/export.ts';
import type { AllocationMap } from './extents.ts';
import { readMap } from './filefrag.ts';

/** A context beside `base:allocation`: flag 1 for bytes that may have changed since a named snapshot. */
export interface ChangedContext {
  readonly name: string;
  /** As `Export.blockStatus`. */
  extents(offset: number, length: number): Extent[];
}

/** A raw image that nobody writes to while it is served, as an NBD export. */
export class FileExport implements Export {
  readonly sizeBytes: number;
  readonly contexts: readonly string[];
  readonly #file: FileHandle;
  readonly #map: AllocationMap;
  readonly #changed: ChangedContext | null;

  private constructor(file: FileHandle, map: AllocationMap, changed: ChangedContext | null) {
    this.#file = file;
    this.#map = map;
    this.#changed = changed;
    this.sizeBytes = map.sizeBytes;
    this.contexts = changed ? [BASE_ALLOCATION, changed.name] : [BASE_ALLOCATION];
  }

  /**
   * Opens the image and reads its map; hand in a `map` read before to spare that. Rejects with the system's error when
   * the file cannot be opened.
   */
  static async open(path: string, given: { map?: AllocationMap; changed?: ChangedContext } = {}): Promise<FileExport> {
    const file = await open(path, 'r');
    try {
      const { size } = await file.stat();
      const map = given.map ?? (await readMap(path, size));
      if (map.sizeBytes !== size) throw new Error(`${path} has ${size} bytes, its map is for ${map.sizeBytes}`);
      return new FileExport(file, map, given.changed ?? null);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** The map that is served. */
  get map(): AllocationMap {
    return this.#map;
  }

  readInto(target: Uint8Array, offset: number, length: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const from = (done: number): void => {
        // The callback form: a promise and a result object less for each of many reads.
        read(this.#file.fd, target, done, length - done, offset + done, (error, count) => {
          if (error) reject(error);
          else if (done + count === length) resolve();
          else if (count === 0) reject(new Error(`the image ends before ${offset + length}: it was cut`));
          else from(done + count);
        });
      };
      from(0);
    });
  }

  async blockStatus(context: string, offset: number, length: number): Promise<Extent[]> {
    if (context === this.#changed?.name) return this.#changed.extents(offset, length);
    return this.#map.extents(offset, length);
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}
