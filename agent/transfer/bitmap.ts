/** A set of chunk numbers in a flat byte array, two MiB for a volume of one TiB. */
export class Bitmap {
  readonly length: number;
  /** Bit n is `bytes[n >> 3] & (1 << (n & 7))`. */
  readonly bytes: Uint8Array;

  constructor(length: number, bytes: Uint8Array = new Uint8Array(Math.ceil(length / 8))) {
    this.length = length;
    this.bytes = bytes;
  }

  has(index: number): boolean {
    return (this.bytes[index >> 3]! & (1 << (index & 7))) !== 0;
  }

  /** Sets or clears the bits from `from` up to, not including, `to`. */
  fill(from: number, to: number, value: boolean): void {
    let at = from;
    while (at < to) {
      if ((at & 7) === 0 && to - at >= 8) {
        const wholeBytes = (to - at) >> 3;
        this.bytes.fill(value ? 0xff : 0, at >> 3, (at >> 3) + wholeBytes);
        at += wholeBytes * 8;
      } else {
        const mask = 1 << (at & 7);
        if (value) this.bytes[at >> 3]! |= mask;
        else this.bytes[at >> 3]! &= ~mask;
        at += 1;
      }
    }
  }

  /** The first index at or behind `from` whose bit is `value`; `length` when there is none. */
  next(from: number, value: boolean): number {
    const dull = value ? 0 : 0xff;
    for (let at = from; at < this.length; ) {
      if ((at & 7) === 0 && this.bytes[at >> 3] === dull) at += 8;
      else if (this.has(at) === value) return at;
      else at += 1;
    }
    return this.length;
  }

  /** Runs of set bits as [from, to). */
  *runs(): Generator<readonly [number, number]> {
    for (let from = this.next(0, true); from < this.length; ) {
      const to = this.next(from, false);
      yield [from, to];
      from = this.next(to, true);
    }
  }

  count(): number {
    let count = 0;
    for (const [from, to] of this.runs()) count += to - from;
    return count;
  }
}
