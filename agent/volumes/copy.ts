import { constants } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { EXTENT_HOLE, type Extent } from '../../nbd/export.ts';
import type { AllocationMap } from '../transfer/extents.ts';
import { readMap } from '../transfer/filefrag.ts';
import type { Files } from './files.ts';

const bufferBytes = 1024 * 1024;
const blockBytes = 64 * 1024;

/**
 * Copies a file over another, leaving holes where it is zero.
 *
 * @param options.sizeBytes size of the result, at least the source's; the rest is a hole
 * @param options.reflink share the blocks instead of copying; only where the probe found that this works
 */
export async function copySparse(
  files: Files,
  from: string,
  to: string,
  options: { readonly sizeBytes: number; readonly reflink: boolean },
): Promise<void> {
  const isShared = options.reflink && (await tryReflink(files, from, to));
  const source = await files.open(from, 'r');
  try {
    const target = await files.open(to, isShared ? 'r+' : 'w', 0o600);
    try {
      if (!isShared) {
        const map = await readMap(from, (await source.stat()).size);
        for (const { offset, length } of dataOf(map)) await copyBlocks(source, target, offset, offset + length);
      }
      await target.truncate(options.sizeBytes);
    } finally {
      await target.close();
    }
  } finally {
    await source.close();
  }
}

/** Where the file may have data: the holes of a large, sparse disk image would take long to read. */
function* dataOf(map: AllocationMap): Generator<Extent> {
  for (let offset = 0; offset < map.sizeBytes; ) {
    for (const extent of map.extents(offset, map.sizeBytes - offset)) {
      if ((extent.flags & EXTENT_HOLE) === 0) yield extent;
      offset = extent.offset + extent.length;
    }
  }
}

async function copyBlocks(source: FileHandle, target: FileHandle, from: number, to: number): Promise<void> {
  const buffer = Buffer.allocUnsafe(bufferBytes);
  const zeros = Buffer.alloc(blockBytes);
  let offset = from;
  while (offset < to) {
    const { bytesRead } = await source.read(buffer, 0, Math.min(bufferBytes, to - offset), offset);
    if (bytesRead === 0) return;
    for (let start = 0; start < bytesRead; start += blockBytes) {
      const block = buffer.subarray(start, Math.min(start + blockBytes, bytesRead));
      if (!zeros.subarray(0, block.length).equals(block)) await writeAll(target, block, offset + start);
    }
    offset += bytesRead;
  }
}

async function writeAll(target: FileHandle, bytes: Buffer, offset: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await target.write(bytes, done, bytes.length - done, offset + done);
    done += bytesWritten;
  }
}

// The file to copy from may be on another file system, where no block can be shared: then it is copied.
async function tryReflink(files: Files, from: string, to: string): Promise<boolean> {
  try {
    await files.copyFile(from, to, constants.COPYFILE_FICLONE_FORCE);
    await files.chmod(to, 0o600);
    return true;
  } catch {
    return false;
  }
}
