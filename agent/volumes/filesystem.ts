import { describeFailure, type Run } from './command.ts';
import { VolumeError } from './errors.ts';
import type { Files } from './files.ts';

const superblockOffsetBytes = 1024;
const superblockBytes = 1024;

/**
 * What an image holds, by its first 2 KiB. `clean`: unmounted in order. `needs_recovery`: the journal will be replayed
 * at the next mount. `errors`: the kernel found damage, see `checkExt4`. Everything that is not ext4 is `raw`.
 */
export type Filesystem =
  | {
      readonly kind: 'ext4';
      readonly label: string;
      readonly condition: 'clean' | 'needs_recovery' | 'errors';
      /** Somebody has had it mounted since it was made. */
      readonly wasMounted: boolean;
    }
  | { readonly kind: 'raw' };

/** Reads what an image holds. Only right while the image is not mounted. */
export async function readFilesystem(files: Files, path: string): Promise<Filesystem> {
  const bytes = Buffer.alloc(superblockBytes);
  const file = await files.open(path, 'r');
  try {
    await file.read(bytes, 0, superblockBytes, superblockOffsetBytes);
  } finally {
    await file.close();
  }
  if (bytes.readUInt16LE(0x38) !== 0xef53) return { kind: 'raw' };
  const state = bytes.readUInt16LE(0x3a);
  const isJournalDirty = (bytes.readUInt32LE(0x60) & 0x4) !== 0;
  const condition = state & 0x2 ? 'errors' : isJournalDirty || !(state & 0x1) ? 'needs_recovery' : 'clean';
  const label = bytes.toString('utf8', 0x78, 0x88).replace(/\0.*$/s, '');
  return { kind: 'ext4', label, condition, wasMounted: bytes.readUInt32LE(0x2c) !== 0 };
}

/**
 * Makes an ext4 file system in a fresh, all-zero image; needs no root. Its root folder belongs to `owner`, so that a
 * Machine of that user can write. Nothing is left to be written later in the background: the image stays sparse.
 *
 * @param options.label at most 16 bytes
 */
export async function makeExt4(
  run: Run,
  path: string,
  options: { label: string; owner: { uid: number; gid: number }; timeoutMs: number },
): Promise<void> {
  const base = `root_owner=${options.owner.uid}:${options.owner.gid},nodiscard,lazy_itable_init=1,lazy_journal_init=1`;
  // All blocks are the Machine's (-m 0): root has no business in it. Blocks of 4 KiB at every size.
  const make = (extended: string) =>
    run('mkfs.ext4', ['-q', '-F', '-b', '4096', '-m', '0', '-L', options.label, '-E', extended, path], options);
  let result = await make(`${base},assume_storage_prezeroed=1`);
  // e2fsprogs before 1.47 do not know this option; mounting with noinit_itable does the rest.
  if (result.exitCode === 1) result = await make(base);
  if (result.exitCode !== 0) throw new VolumeError('io', describeFailure('mkfs.ext4', result), { paths: [path] });
}

/** Outcome of a check: `damaged` means that an operator must look; `report` is what e2fsck said. */
export interface FilesystemCheck {
  readonly outcome: 'clean' | 'repaired' | 'damaged';
  readonly report: string;
}

/**
 * Checks an unmounted ext4 image completely (reads all its metadata: minutes for a large one).
 *
 * @param options.repair false: only look. true: replay the journal and repair what is safe to repair.
 */
export async function checkExt4(
  run: Run,
  path: string,
  options: { repair: boolean; timeoutMs: number },
): Promise<FilesystemCheck> {
  const result = await run('e2fsck', ['-f', options.repair ? '-p' : '-n', path], options);
  const report = result.stdout.trim();
  // e2fsck(8): 0 no errors, 1 and 2 corrected, 4 left uncorrected; above that it could not do its work.
  if (result.exitCode === 0) return { outcome: 'clean', report };
  if (result.exitCode === 1 || result.exitCode === 2) return { outcome: 'repaired', report };
  if (result.exitCode !== null && result.exitCode < 8) return { outcome: 'damaged', report };
  throw new VolumeError('io', describeFailure('e2fsck', result), { paths: [path] });
}
