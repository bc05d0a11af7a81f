import { systemClock } from '../shared/clock.ts';
import { createLog } from '../shared/log.ts';
import { systemRandom } from '../shared/random.ts';
import { ClientPool } from '../shared/rpc/client.ts';
import { RpcServer } from '../shared/rpc/server.ts';
import type { CoordinatorConfig } from './config.ts';
import { Coordinator, storePath } from './coordinator.ts';
import { SqliteStore } from './store/sqlite.ts';

/**
 * Runs a coordinator until `signal` aborts. Prints `coordinator ready on HOST:PORT` on standard output once it answers.
 * Throws store_locked, not_loopback, invalid_argument (the port is taken), no_space or io_error.
 */
export async function runCoordinator(config: CoordinatorConfig, signal: AbortSignal): Promise<void> {
  const log = createLog('coordinator', config.logLevel);
  const store = new SqliteStore({ path: storePath(config.dataDir), random: systemRandom, clock: systemClock });
  try {
    const clients = new ClientPool();
    const parts = { config, store, clients, clock: systemClock, random: systemRandom, log };
    const coordinator = await Coordinator.create(parts);
    const server = new RpcServer({ ...config.listen, log, routes: coordinator.routes });
    try {
      const address = await server.listen();
      await coordinator.start();
      console.log(`coordinator ready on ${address}`);
      await aborted(signal);
    } finally {
      await Promise.all([server.close(), coordinator.stop()]);
    }
  } finally {
    await store.close();
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
