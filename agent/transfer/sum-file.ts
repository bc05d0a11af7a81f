import { alignedBuffers } from './aligned.ts';
import { CHUNK_BYTES, SUM_BYTES, writeSums } from './chunks.ts';
import { type Disk, type DiskFile, hostDisk } from './disk.ts';
import { diskError, TransferError } from './error.ts';
import type { MapSource } from './extents.ts';
import { RootHash } from './root.ts';

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

const READ_BYTES = 1_048_576;
/** Reads under way at a time. */
const READS = 4;
const BLOCK_BYTES = 4_096;

interface Piece {
  readonly offset: number;
  readonly length: number;
  readonly hole: boolean;
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
    const buffers = alignedBuffers(READS, READ_BYTES);
    const sums = Buffer.alloc((READ_BYTES / CHUNK_BYTES) * SUM_BYTES);
    let bytesRead = 0;
    // Reads run ahead, at most one for each buffer; the sums are taken in order.
    const ahead: { piece: Piece; data: Uint8Array; reading: Promise<void> }[] = [];
    const take = async (): Promise<void> => {
      const { piece, data, reading } = ahead.shift()!;
      await reading;
      const count = Math.ceil(piece.length / CHUNK_BYTES);
      if (piece.hole) hash.addZeros(count);
      else {
        writeSums(data, sums);
        hash.add(sums.subarray(0, count * SUM_BYTES));
        bytesRead += piece.length;
      }
      options.onProgress?.({ bytesTotal: sizeBytes, bytesDone: piece.offset + piece.length });
    };
    let next = 0;
    try {
      for (const piece of pieces(sizeBytes, (offset, length) => map.isHole(offset, length))) {
        if (signal.aborted) throw new TransferError('aborted', 'aborted', { cause: signal.reason });
        if (ahead.length === READS) await take();
        const data = buffers[next]!.subarray(0, piece.hole ? 0 : piece.length);
        const reading = piece.hole ? Promise.resolve() : readWhole(file, buffers[next]!, piece);
        reading.catch(() => {});
        ahead.push({ piece, data, reading });
        next = (next + 1) % READS;
      }
      while (ahead.length > 0) await take();
    } finally {
      await Promise.allSettled(ahead.map(({ reading }) => reading));
    }
    return { root: hash.digest(), sizeBytes, bytesRead, direct: file.direct, map: map.source };
  } finally {
    await file.close();
  }
}

/** Cuts the image into pieces of at most one read, and into holes of any length; all start at a chunk. */
function* pieces(sizeBytes: number, isHole: (offset: number, length: number) => boolean): Generator<Piece> {
  for (let offset = 0; offset < sizeBytes; ) {
    const hole = isHole(offset, CHUNK_BYTES);
    let end = Math.min(offset + CHUNK_BYTES, sizeBytes);
    while (end < sizeBytes && (hole || end - offset < READ_BYTES) && isHole(end, CHUNK_BYTES) === hole) {
      end = Math.min(end + CHUNK_BYTES, sizeBytes);
    }
    yield { offset, length: end - offset, hole };
    offset = end;
  }
}

async function readWhole(file: DiskFile, buffer: Uint8Array, piece: Piece): Promise<void> {
  const whole = Math.ceil(piece.length / BLOCK_BYTES) * BLOCK_BYTES;
  const count = await file.read(buffer.subarray(0, whole), piece.offset).catch((error) => {
    throw diskError(error, `reading at ${piece.offset}`);
  });
  if (count < piece.length) {
    throw new TransferError('size_mismatch', `the image ends at ${piece.offset + count}: it was cut while it was read`);
  }
}
