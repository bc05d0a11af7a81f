// The program of the benchmarks' Machines: needs Node alone. It fills its volume once, answers every request, goes on
// writing to random places, and says by a datagram where it answers as soon as it does.
//
//   FILL_MIB         random data on the volume, made at the first start
//   WRITE_KB_PER_S   bytes written to random places, in pieces of 64 KiB; 0 = none
//   ANNOUNCE_PORT    port of 127.0.0.1 that is told "ADDRESS PORT"
//   GET /            -> 200
//   POST /scribble?mib=N  overwrites N MiB in pieces of 64 KiB at random places, synced before it is answered
import { randomFillSync, randomInt } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { closeSync, constants, existsSync, fdatasyncSync, openSync, renameSync, writeSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';

const port = 8080;
const mib = 1_048_576;
const pieceBytes = 65_536;
const blockBytes = 4096;
const ticksPerSecond = 10;

const { FERRY_VOLUME_PATH = '', FERRY_BIND_IP = '127.0.0.1' } = process.env;
const fillBytes = Number(process.env.FILL_MIB ?? 0) * mib;
const writeBytesPerSecond = Number(process.env.WRITE_KB_PER_S ?? 0) * 1000;
const path = join(FERRY_VOLUME_PATH, 'data');
const piece = randomFillSync(Buffer.alloc(pieceBytes));

/** A volume is full of data only under its last name. */
function fill(): void {
  if (existsSync(path)) return;
  const file = openSync(`${path}.new`, 'w');
  const buffer = randomFillSync(Buffer.alloc(4 * mib));
  for (let at = 0; at < fillBytes; at += buffer.length) {
    // Every chunk is another one; random bytes for each would take longer than the disk.
    for (let chunk = 0; chunk < buffer.length; chunk += pieceBytes) buffer.writeDoubleLE(at + chunk, chunk);
    writeSync(file, buffer, 0, Math.min(buffer.length, fillBytes - at), at);
  }
  fdatasyncSync(file);
  closeSync(file);
  renameSync(`${path}.new`, path);
}

function scribble(bytes: number): void {
  for (let done = 0; done < bytes && fillBytes > pieceBytes; done += pieceBytes) {
    randomFillSync(piece, 0, blockBytes);
    writeSync(file, piece, 0, pieceBytes, randomInt(fillBytes / pieceBytes) * pieceBytes);
  }
}

fill();
const file = openSync(path, constants.O_RDWR);
const server = createServer((request, response) => {
  if (request.method === 'POST') {
    scribble(Number(new URL(request.url ?? '/', 'http://machine').searchParams.get('mib')) * mib);
    fdatasyncSync(file);
  }
  response.end('ok');
});
server.listen(port, FERRY_BIND_IP, () => {
  const socket = createSocket('udp4');
  const announcement = `${FERRY_BIND_IP} ${port}`;
  socket.send(announcement, Number(process.env.ANNOUNCE_PORT), '127.0.0.1', () => socket.close());
});
if (writeBytesPerSecond > 0) setInterval(() => scribble(writeBytesPerSecond / ticksPerSecond), 1000 / ticksPerSecond);
