import { join } from 'node:path';
import type { VolumeCapabilities } from './capabilities.ts';
import type { Run } from './command.ts';
import { copySparse } from './copy.ts';
import { VolumeError } from './errors.ts';
import { type Files, syncDirectory, syncFile } from './files.ts';
import { makeExt4 } from './filesystem.ts';
import { type ImageState, imageName } from './image.ts';

/** How the folder of a volume begins while the volume is being made; what begins so after a crash is rubbish. */
export const creatingPrefix = '.creating-';

const fullDiskProbeBytes = 1024 * 1024;

export interface CreateTools {
  readonly files: Files;
  readonly run: Run;
  readonly capabilities: VolumeCapabilities;
  /** The user whose Machines write on the volumes: the agent's own. */
  readonly owner: { readonly uid: number; readonly gid: number };
  /** Deadline of mkfs. */
  readonly timeoutMs: number;
}

/** A volume to be made. `hole` is all zeros. */
export interface VolumeRequest {
  readonly volumeId: string;
  readonly image: ImageState;
  readonly sizeBytes: number;
  readonly content:
    | { readonly kind: 'hole' }
    | { readonly kind: 'ext4' }
    | { readonly kind: 'copy'; readonly from: string };
}

/** Makes a volume's whole folder under a temporary name, syncs it, then gives it its own name in `parent`. */
export async function createFolder(tools: CreateTools, parent: string, request: VolumeRequest): Promise<void> {
  const { files } = tools;
  const creating = join(parent, `${creatingPrefix}${request.volumeId}`);
  await files.rm(creating, { recursive: true, force: true });
  try {
    await files.mkdir(creating, { mode: 0o700 });
    const path = join(creating, imageName(request.image));
    await makeHole(files, path, request.sizeBytes);
    if (request.content.kind === 'ext4') await format(tools, path, request.volumeId);
    if (request.content.kind === 'copy') await fill(tools, path, request.content.from, request.sizeBytes);
    await syncFile(files, path);
    await syncDirectory(files, creating);
    await files.rename(creating, join(parent, request.volumeId));
    await syncDirectory(files, parent);
  } catch (error) {
    await files.rm(creating, { recursive: true, force: true });
    throw error;
  }
}

async function makeHole(files: Files, path: string, sizeBytes: number): Promise<void> {
  const file = await files.open(path, 'wx', 0o600);
  try {
    await file.truncate(sizeBytes);
  } finally {
    await file.close();
  }
}

async function format({ files, run, owner, timeoutMs }: CreateTools, path: string, volumeId: string) {
  try {
    // An ext4 label has room for 16 bytes: the ID without its prefix.
    await makeExt4(run, path, { label: volumeId.slice('vol_'.length), owner, timeoutMs });
  } catch (error) {
    // mkfs tells of a full disk in words only; a write of our own tells it by its code.
    await files.writeFile(`${path}.probe`, Buffer.alloc(fullDiskProbeBytes, 1), { flush: true });
    throw error;
  }
}

/** Looks at a file whose bytes a volume is to start with. Throws `invalid` for anything but a regular file. */
export async function fileToImport(files: Files, from: string): Promise<{ readonly size: number }> {
  const source = await files.stat(from).catch((cause: unknown) => {
    throw new VolumeError('invalid', `${from} cannot be read: ${(cause as Error).message}`, { paths: [from], cause });
  });
  if (source.isFile()) return source;
  throw new VolumeError('invalid', `${from} is not a file: expected a raw disk image`, { paths: [from] });
}

async function fill({ files, capabilities }: CreateTools, path: string, from: string, sizeBytes: number) {
  const { size } = await fileToImport(files, from);
  if (size > sizeBytes) {
    const text = `${from} has ${size} bytes: expected a file of at most ${sizeBytes} bytes`;
    throw new VolumeError('invalid', text, { paths: [from] });
  }
  await copySparse(files, from, path, { sizeBytes, reflink: capabilities.reflink });
}
