/** A bounded set of equal buffers, made on first need and used again; who asks beyond the bound waits its turn. */
export class BufferPool {
  readonly #bufferBytes: number;
  readonly #countMax: number;
  readonly #free: Buffer[] = [];
  readonly #waiting: ((buffer: Buffer) => void)[] = [];
  #count = 0;

  constructor(options: { bufferBytes: number; countMax: number }) {
    this.#bufferBytes = options.bufferBytes;
    this.#countMax = options.countMax;
  }

  async take(): Promise<Buffer> {
    const free = this.#free.pop();
    if (free) return free;
    if (this.#count < this.#countMax) {
      this.#count += 1;
      return Buffer.allocUnsafeSlow(this.#bufferBytes);
    }
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  give(buffer: Buffer): void {
    const next = this.#waiting.shift();
    if (next) next(buffer);
    else this.#free.push(buffer);
  }
}
