/**
 * The source's side of the stream benchmark, as a process of its own: serves one raw image and prints its ports as JSON.
 * Arguments: image, size to serve, directory with certificates. A size beyond the image's repeats it, every second
 * stretch as zeros that are not marked as a hole. Ends with its standard input.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { AllocationMap } from '../agent/transfer/extents.ts';
import { FileExport } from '../agent/transfer/file-export.ts';
import type { Export } from '../nbd/export.ts';
import { NbdServer } from '../nbd/server.ts';

const [image, size, pki] = process.argv.slice(2) as [string, string, string];
const sizeBytes = Number(size);

const server = new NbdServer({ directory: { open: async () => repeated(await FileExport.open(image)) } });
const pem = (name: string): Buffer => readFileSync(join(pki, name));
const tls = {
  mode: 'direct',
  cert: pem('server-cert.pem'),
  key: pem('server-key.pem'),
  ca: pem('ca-cert.pem'),
} as const;
const plain = await server.listen({ host: '127.0.0.1', port: 0 });
const secured = await server.listen({ host: '127.0.0.1', port: 0, tls });
console.log(JSON.stringify({ plain: plain.port, tls: secured.port }));
process.stdin.resume().once('end', () => void server.close());

function repeated(file: FileExport): Export {
  if (sizeBytes === file.sizeBytes) return file;
  const map = AllocationMap.assumed(sizeBytes, 'repeated for the benchmark');
  return {
    sizeBytes,
    contexts: file.contexts,
    readInto: async (target, offset, length) => {
      const stretch = Math.floor(offset / file.sizeBytes);
      if (stretch % 2 === 1) target.fill(0, 0, length);
      else await file.readInto(target, offset % file.sizeBytes, length);
    },
    blockStatus: async (_, offset, length) => map.extents(offset, length),
    close: () => file.close(),
  };
}
