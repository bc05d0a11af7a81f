/** One mount of a mount namespace. */
export interface MountEntry {
  /** Device of the file system, as `major:minor`. */
  readonly device: string;
  readonly mountPoint: string;
  readonly type: string;
  readonly isReadOnly: boolean;
}

/** Reads the text of `/proc/<pid>/mountinfo` (proc(5)); lines that it cannot read are left out. */
export function parseMountinfo(text: string): MountEntry[] {
  const entries: MountEntry[] = [];
  for (const line of text.split('\n')) {
    const [before, after] = line.split(' - ', 2);
    const [, , device, , mountPoint, options] = before!.split(' ');
    const [type, , superOptions] = after?.split(' ') ?? [];
    if (!device || !mountPoint || !options || !type) continue;
    const isReadOnly = [options, superOptions ?? ''].some((list) => list.split(',').includes('ro'));
    entries.push({ device, mountPoint: unescapeOctal(mountPoint), type, isReadOnly });
  }
  return entries;
}

/** A device number of `stat()` as `major:minor`, as the kernel prints it. */
export function deviceName(dev: number): string {
  return `${(dev >>> 8) & 0xfff}:${(dev & 0xff) | ((dev >>> 12) & 0xfff00)}`;
}

// The kernel writes blank, tab, line feed and backslash as \040 \011 \012 \134, byte by byte.
function unescapeOctal(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}
