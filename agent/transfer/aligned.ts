/** The part of the WebAssembly API that is needed here; TypeScript has it only among the browser's types. */
declare const WebAssembly: { Memory: new (size: { initial: number; maximum: number }) => { buffer: ArrayBuffer } };

/**
 * `count` buffers of `bytes` each (a multiple of 64 KiB), at addresses that O_DIRECT accepts. Node's own buffers start
 * anywhere; the memory of a WebAssembly instance is the one kind that starts on a page.
 */
export function alignedBuffers(count: number, bytes: number): Uint8Array[] {
  const pages = (count * bytes) / 65_536;
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
  return Array.from({ length: count }, (_, index) => new Uint8Array(memory.buffer, index * bytes, bytes));
}
