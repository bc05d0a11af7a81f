// The ledger of examples/ that can be told to misbehave on some hosts, by files in the folder FUSSY_DIR:
//   refuse.HOST     it does not start there
//   refuse.MACHINE  this Machine starts nowhere
//   unhealthy.HOST  it serves there, but its second port, which a check looks at, stays closed
// With FUSSY_STOP_MS it takes so long to stop, and serves meanwhile. Which host it is on it sees from the path of its volume.
import { existsSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { Ledger, serve } from '../../examples/ledger/ledger.ts';

const {
  FERRY_VOLUME_PATH = '',
  FERRY_VOLUME_KIND,
  FERRY_BIND_IP = '',
  FERRY_MACHINE_ID = '',
  FUSSY_DIR = '',
  FUSSY_STOP_MS = '0',
  PORT,
} = process.env;
const host = /\/(host-[a-z])\//.exec(FERRY_VOLUME_PATH)?.[1] ?? '';
const told = (what: string) => [host, FERRY_MACHINE_ID].some((whom) => existsSync(join(FUSSY_DIR, `${what}.${whom}`)));

if (told('refuse')) {
  console.error(`fussy ledger: will not run on ${host}`);
  process.exit(1);
}
const raw = FERRY_VOLUME_KIND === 'raw';
const ledger = new Ledger(raw ? FERRY_VOLUME_PATH : join(FERRY_VOLUME_PATH, 'ledger'), raw);
serve(ledger).listen(Number(PORT), FERRY_BIND_IP);
if (!told('unhealthy')) createServer((socket) => socket.end()).listen(Number(PORT) + 1, FERRY_BIND_IP);
process.once('SIGINT', () => setTimeout(() => process.exit(0), Number(FUSSY_STOP_MS)));
