import { join } from 'node:path';
import { LedgerClient, readAcknowledgements } from '../../examples/ledger/client.ts';
import { type Verdict, verifyLedger } from '../../examples/ledger/verify.ts';
import type { Machine } from '../../proto/gen/ferry/v1/machine_pb.ts';
import type { TestCluster } from './cluster.ts';

/** A client that keeps appending to a ledger, whichever Machine runs it; `LedgerLoad` runs the Machine, too. */
export interface Load {
  /** Resolves after so many more acknowledgements. */
  more(count: number): Promise<void>;
  /** Stops it; answers whether every acknowledged entry is in the ledger where the Machine is now. */
  verdict(): Promise<Verdict>;
}

/** Starts a client; resolves after the first acknowledgements. */
export async function loadOn(cluster: TestCluster, machine: Machine, port: number): Promise<Load> {
  const ackPath = join(cluster.dir, `${machine.id}.acknowledged`);
  const locate = async () => `http://${await cluster.whereabouts(machine.id)}:${port}`;
  const client = new LedgerClient({ locate, ackPath });
  const over = new AbortController();
  const running = client.run(over.signal);
  const load: Load = {
    more: (count) => client.more(count, AbortSignal.timeout(60_000)),
    verdict: async () => {
      over.abort();
      await running;
      return verifyLedger(await locate(), readAcknowledgements(ackPath));
    },
  };
  await load.more(20);
  return load;
}
