import { hostname } from 'node:os';
import { systemClock } from '../shared/clock.ts';
import { createLog } from '../shared/log.ts';
import { systemRandom } from '../shared/random.ts';
import { ClientPool } from '../shared/rpc/client.ts';
import { RpcServer } from '../shared/rpc/server.ts';
import { version } from '../shared/version.ts';
import type { CoordinatorConfig } from './config.ts';
import { Coordinator, storePath } from './coordinator.ts';
import { openStore } from './store/open.ts';

/**
 * Runs a coordinator until `signal` aborts. Prints `coordinator ready on HOST:PORT` on standard output once it answers.
 * Throws store_locked, store_unreachable, unsupported (the store), not_loopback, invalid_argument (the port is taken), no_space or io_error.
 */
export async function runCoordinator(config: CoordinatorConfig, signal: AbortSignal): Promise<void> {
  const log = createLog('coordinator', config.logLevel);
  const store = await openStore({
    address: config.store,
    passwordFile: config.storePasswordFile,
    path: storePath(config.dataDir),
    random: systemRandom,
    clock: systemClock,
  });
  try {
    const { where, notes } = store.describe();
    log.info({ store: where }, 'store opened');
    for (const note of notes) log.warn({ store: where }, note);
    const clients = new ClientPool();
    const { listen } = config;
    // One file is one coordinator's; those that share a store are told apart by where they run.
    const id = config.id || (config.store.kind === 'sqlite' ? 'coordinator' : nameOf(hostname(), listen.port));
    const parts = { config, id, version, store, clients, clock: systemClock, random: systemRandom, log };
    const coordinator = await Coordinator.create(parts);
    const server = new RpcServer({ ...listen, log, routes: coordinator.routes });
    try {
      const address = await server.listen();
      await coordinator.start(address);
      console.log(`coordinator ready on ${address}`);
      await aborted(signal);
    } finally {
      await Promise.all([server.close(), coordinator.stop()]);
    }
  } finally {
    await store.close();
  }
}

/** A name made of the host's and the port. */
function nameOf(host: string, port: number): string {
  const plain = host.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-');
  return `${plain.slice(0, 50)}-${port}`.replace(/^-/, '');
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
