import { closeSync, fsyncSync, mkdirSync, openSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Marker, Seal } from './boot.ts';

/** A marker as a file name: "<machine>.owned-e3", "<machine>.relinquished-e3", "<machine>.receiving-e4.vol_...". */
const fileName = /^([0-9a-f]{14})\.(owned|relinquished|receiving)-e(\d+)(?:\.(vol_[0-9a-z]{16}))?$/;

interface SealFile {
  readonly name: string;
  readonly machineId: string;
  readonly marker: Marker;
  /** Only of a copy being received. */
  readonly volumeId: string | null;
}

function parse(name: string): SealFile | null {
  const match = fileName.exec(name);
  if (match === null) return null;
  const [, machineId, state, epoch, volumeId] = match;
  return {
    name,
    machineId: machineId!,
    marker: { state: state as Marker['state'], epoch: Number(epoch) },
    volumeId: volumeId ?? null,
  };
}

/**
 * The markers of this host's Machines: one empty file each, outside the journal, changed by one rename and a sync of the
 * folder. They tell an agent whose journal was put back to an older copy that it no longer owns what the journal says.
 */
export class Seals {
  readonly #folder: string;
  #files: SealFile[];

  constructor(folder: string) {
    this.#folder = folder;
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    this.#files = readdirSync(folder).flatMap((name) => parse(name) ?? []);
  }

  /** Machines that have a marker here; one for each marker. */
  machineIds(): string[] {
    return this.#files.map((file) => file.machineId);
  }

  /** All markers of a Machine here. */
  of(machineId: string): Marker[] {
    return this.#files.filter((file) => file.machineId === machineId).map((file) => file.marker);
  }

  /** Whether this copy is being received for this epoch. */
  isReceiving(machineId: string, volumeId: string, epoch: number): boolean {
    return this.#files.some(
      (file) => file.machineId === machineId && file.volumeId === volumeId && file.marker.epoch === epoch,
    );
  }

  /** All copies whose marker says that they are being received. */
  receiving(): { machineId: string; volumeId: string }[] {
    return this.#files.flatMap(({ machineId, volumeId }) => (volumeId === null ? [] : [{ machineId, volumeId }]));
  }

  /** Marks a copy as being received, durably. Repeatable. */
  receive(machineId: string, volumeId: string, epoch: number): void {
    if (this.isReceiving(machineId, volumeId, epoch)) return;
    this.#create(`${machineId}.receiving-e${epoch}.${volumeId}`);
  }

  /** Makes this the Machine's seal, durably; the received copy's marker, if named, becomes it. Repeatable. */
  mark(machineId: string, seal: Seal, volumeId: string | null): void {
    const wanted = `${machineId}.${seal.state}-e${seal.epoch}`;
    const mine = this.#files.filter((file) => file.machineId === machineId);
    const received = mine.find((file) => volumeId !== null && file.volumeId === volumeId);
    const older = mine.filter((file) => file.volumeId === null && file.name !== wanted);
    const present = mine.some((file) => file.name === wanted);
    const from = received ?? older[0];
    if (!present && from === undefined) this.#create(wanted);
    else if (!present) this.#rename(from!, wanted);
    for (const file of older) if (file !== from || present) this.#remove(file);
    if (present && received !== undefined) this.#remove(received);
    this.#sync();
  }

  /** Removes the marker of a copy being received, durably. Repeatable. */
  unmark(machineId: string, volumeId: string): void {
    for (const file of this.#files.filter((each) => each.machineId === machineId && each.volumeId === volumeId)) {
      this.#remove(file);
    }
    this.#sync();
  }

  #create(name: string): void {
    const file = openSync(join(this.#folder, name), 'w', 0o400);
    fsyncSync(file);
    closeSync(file);
    this.#files.push(parse(name)!);
    this.#sync();
  }

  #rename(from: SealFile, name: string): void {
    renameSync(join(this.#folder, from.name), join(this.#folder, name));
    this.#files = this.#files.map((file) => (file === from ? parse(name)! : file));
  }

  #remove(file: SealFile): void {
    rmSync(join(this.#folder, file.name), { force: true });
    this.#files = this.#files.filter((other) => other !== file);
  }

  #sync(): void {
    const folder = openSync(this.#folder, 'r');
    fsyncSync(folder);
    closeSync(folder);
  }
}
