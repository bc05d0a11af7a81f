import { alignedBuffers } from './aligned.ts';
import { CHUNK_BYTES, SUM_BYTES, writeSums } from './chunks.ts';
import type { DiskFile } from './disk.ts';
import { diskError, TransferError } from './error.ts';

/** A part of a file that starts at a chunk: at most one read, or a hole of any length. */
export interface FilePiece {
  readonly offset: number;
  readonly length: number;
  readonly hole: boolean;
}

const READ_BYTES = 1_048_576;
/** Reads under way at a time. */
const READS = 4;
const BLOCK_BYTES = 4_096;

/** Reads pieces of a file, several at a time, and takes the sums of their chunks. One run at a time. */
export class PieceSummer {
  readonly #file: DiskFile;
  readonly #buffers = alignedBuffers(READS, READ_BYTES);
  readonly #sums = Buffer.alloc((READ_BYTES / CHUNK_BYTES) * SUM_BYTES);

  constructor(file: DiskFile) {
    this.#file = file;
  }

  /**
   * Hands each piece on, in order; `sums` is null for a hole and belongs to the callee only until it returns. Rejects with
   * a `TransferError`: `aborted`, `target_io` or `size_mismatch` (the file was cut meanwhile).
   */
  async run(
    pieces: Iterable<FilePiece>,
    take: (piece: FilePiece, sums: Buffer | null) => void,
    signal: AbortSignal,
  ): Promise<void> {
    // Reads run ahead, at most one for each buffer; the sums are taken in order.
    const ahead: { piece: FilePiece; data: Uint8Array; reading: Promise<void> }[] = [];
    const takeFirst = async (): Promise<void> => {
      const { piece, data, reading } = ahead.shift()!;
      await reading;
      if (piece.hole) return take(piece, null);
      writeSums(data, this.#sums);
      take(piece, this.#sums.subarray(0, Math.ceil(piece.length / CHUNK_BYTES) * SUM_BYTES));
    };
    let next = 0;
    try {
      for (const piece of pieces) {
        if (signal.aborted) throw new TransferError('aborted', 'aborted', { cause: signal.reason });
        if (ahead.length === READS) await takeFirst();
        const buffer = this.#buffers[next]!;
        const reading = piece.hole ? Promise.resolve() : this.#read(buffer, piece);
        reading.catch(() => {});
        ahead.push({ piece, data: buffer.subarray(0, piece.hole ? 0 : piece.length), reading });
        next = (next + 1) % READS;
      }
      while (ahead.length > 0) await takeFirst();
    } finally {
      await Promise.allSettled(ahead.map(({ reading }) => reading));
    }
  }

  async #read(buffer: Uint8Array, piece: FilePiece): Promise<void> {
    const whole = Math.ceil(piece.length / BLOCK_BYTES) * BLOCK_BYTES;
    const count = await this.#file.read(buffer.subarray(0, whole), piece.offset).catch((error) => {
      throw diskError(error, `reading at ${piece.offset}`);
    });
    if (count < piece.length) {
      const message = `the image ends at ${piece.offset + count}: it was cut while it was read`;
      throw new TransferError('size_mismatch', message);
    }
  }
}

/** Cuts the chunks from `offset` up to `end`, or to the file's end, into pieces. */
export function* filePieces(
  { offset, end }: { offset: number; end: number },
  isHole: (offset: number, length: number) => boolean,
): Generator<FilePiece> {
  for (let from = offset; from < end; ) {
    const hole = isHole(from, CHUNK_BYTES);
    let to = Math.min(from + CHUNK_BYTES, end);
    while (to < end && (hole || to - from < READ_BYTES) && isHole(to, CHUNK_BYTES) === hole) {
      to = Math.min(to + CHUNK_BYTES, end);
    }
    yield { offset: from, length: to - from, hole };
    from = to;
  }
}
