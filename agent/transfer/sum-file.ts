import { CHUNK_BYTES } from './chunks.ts';
import { type Disk, hostDisk } from './disk.ts';
import { diskError, TransferError } from './error.ts';
import type { MapSource } from './extents.ts';
import { RootHash } from './root.ts';
import { type FilePiece, filePieces, PieceSummer } from './sum-pieces.ts';

export interface SumFileOptions {
  readonly path: string;
  readonly signal: AbortSignal;
  /** Read from the disk and not from the page cache, where that works; the result says whether it did. */
  readonly direct: boolean;
  readonly disk?: Disk;
  readonly onProgress?: (progress: { bytesTotal: number; bytesDone: number }) => void;
}

export interface SumFileResult {
  readonly root: string;
  readonly sizeBytes: number;
  /** Bytes read; the others were holes. */
  readonly bytesRead: number;
  /** True when every whole block came from the disk itself. */
  readonly direct: boolean;
  readonly map: MapSource;
}

/**
 * Computes the root of a whole raw image that nobody writes to. Holes are not read. Rejects with a `TransferError`:
 * `aborted`, `target_io` or `size_mismatch` (the file was cut meanwhile).
 */
export async function sumFile(options: SumFileOptions): Promise<SumFileResult> {
  const { path, signal, direct, disk = hostDisk } = options;
  const file = await disk.open(path, { mode: 'read', direct }).catch((error) => {
    throw diskError(error, `opening ${path}`);
  });
  if (!file) throw new TransferError('target_io', `there is no file ${path}`);
  try {
    const { sizeBytes } = await file.stat();
    const map = await disk.map(path, sizeBytes);
    const hash = new RootHash(sizeBytes);
    let bytesRead = 0;
    const pieces = filePieces({ offset: 0, end: sizeBytes }, (offset, length) => map.isHole(offset, length));
    const take = (piece: FilePiece, sums: Buffer | null): void => {
      if (sums === null) hash.addZeros(Math.ceil(piece.length / CHUNK_BYTES));
      else {
        hash.add(sums);
        bytesRead += piece.length;
      }
      options.onProgress?.({ bytesTotal: sizeBytes, bytesDone: piece.offset + piece.length });
    };
    await new PieceSummer(file).run(pieces, take, signal);
    return { root: hash.digest(), sizeBytes, bytesRead, direct: file.direct, map: map.source };
  } finally {
    await file.close();
  }
}
