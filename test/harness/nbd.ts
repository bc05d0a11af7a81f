import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { create } from '@bufbuild/protobuf';
import { exportRequestBytes } from '../../agent/handover/peers.ts';
import { openKey } from '../../agent/key.ts';
import { NbdError } from '../../nbd/error.ts';
import * as nbd from '../../nbd/protocol.ts';
import { OpenExportRequestSchema, type OpenExportResponse, PeerService } from '../../proto/gen/ferry/v1/handover_pb.ts';
import { type Machine, MachineState } from '../../proto/gen/ferry/v1/machine_pb.ts';
import { MigrationStep } from '../../proto/gen/ferry/v1/migration_pb.ts';
import { ClientPool } from '../../shared/rpc/client.ts';
import type { TestCluster } from './cluster.ts';
import { untilStep } from './crash.ts';

const run = promisify(execFile);
const toolMsMax = 60_000;
const mib = 1024 ** 2;
/** Random bytes that the writer puts on its volume. */
export const writtenBytes = 24 * mib;

/** Runs a tool; rejects with its output when it fails. */
export async function tool(program: string, ...args: readonly string[]): Promise<string> {
  return (await run(program, args, { timeout: toolMsMax, maxBuffer: 64 * mib })).stdout;
}

/** Runs a Machine that writes random bytes once, then waits; with `gate` its stop lasts until that file is there. */
export async function runWriter(cluster: TestCluster, host: string, gate = '/'): Promise<Machine> {
  const write = `head -c ${writtenBytes} /dev/urandom`;
  const program = [
    `trap 'while [ ! -e "$GATE" ]; do sleep 0.05; done; exit 0' INT`,
    `if [ "$FERRY_VOLUME_KIND" = raw ]; then ${write} | dd of="$FERRY_VOLUME_PATH" bs=1M seek=100 conv=notrunc iflag=fullblock 2>/dev/null`,
    `else ${write} >"$FERRY_VOLUME_PATH/random"; fi`,
    'sync; echo written',
    'while :; do sleep 0.1; done',
  ];
  const machine = await cluster.run(
    {
      init: { exec: ['/bin/sh', '-c', program.join('\n')] },
      env: { GATE: gate },
      mounts: [{ path: '/data', sizeGb: 1, name: 'data' }],
      stopConfig: { signal: 'SIGINT', timeout: { seconds: 60n, nanos: 0 } },
    },
    { host },
  );
  await cluster.until('it has written', async () => {
    const lines = cluster.machines.machineLogs({ machineId: machine.id, tailLines: 1 });
    for await (const { line } of lines) if (line === 'written') return true;
    return false;
  });
  return machine;
}

/** Stops a Machine; resolves when it is stopped. */
export async function stopMachine(cluster: TestCluster, machineId: string): Promise<void> {
  await cluster.machines.stopMachine({ machineId }, { timeoutMs: 30_000 });
  await cluster.until(
    `Machine ${machineId} is stopped`,
    async () => (await cluster.machine(machineId)).state === MachineState.STOPPED,
  );
}

/** The image file of a volume that its host owns. */
export function imagePath(cluster: TestCluster, host: string, volumeId: string, epoch = 1): string {
  return join(cluster.dataDir(host), 'volumes', volumeId, `owned-e${epoch}.img`);
}

/** The NBD ports of an agent, from what it wrote when it was ready. */
export function nbdPorts(cluster: TestCluster, host: string): { stream: number; tools: number } {
  const ready = cluster
    .log(host)
    .split('\n')
    .filter((line) => line.includes('"msg":"ready"'))
    .at(-1);
  if (ready === undefined) throw new Error(`agent ${host} is not ready`);
  const { stream, nbd: tools } = JSON.parse(ready) as { stream: number; nbd: number };
  return { stream, tools };
}

/** What a server did with bytes that were thrown at it. */
export interface RawAnswer {
  readonly received: Buffer;
  /** The server ended the connection. */
  readonly ended: boolean;
}

/** Sends bytes, says goodbye unless `halfOpen`, and resolves when the server has ended the connection. */
export function throwAt(port: number, bytes: Uint8Array, options: { halfOpen?: boolean } = {}): Promise<RawAnswer> {
  return new Promise((resolve) => {
    const received: Buffer[] = [];
    const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
    socket.on('error', () => {});
    socket.on('data', (part) => received.push(part));
    let ended = false;
    socket.on('end', () => {
      ended = true;
      socket.end();
    });
    socket.on('close', (broken) => resolve({ received: Buffer.concat(received), ended: ended || broken }));
    socket.on('connect', () => (options.halfOpen === true ? socket.write(bytes) : socket.end(bytes)));
  });
}

/** The bytes of a client's whole negotiation for an export. */
export function negotiation(token: string): Buffer {
  const name = nbd.encodeString(token);
  const contexts = Buffer.concat([name, Buffer.from([0, 0, 0, 1]), nbd.encodeString('base:allocation')]);
  return Buffer.concat([
    Buffer.from([0, 0, 0, 3]),
    nbd.encodeOption(nbd.OPT_STRUCTURED_REPLY),
    nbd.encodeOption(nbd.OPT_SET_META_CONTEXT, contexts),
    nbd.encodeOption(nbd.OPT_GO, Buffer.concat([name, Buffer.from([0, 0])])),
  ]);
}

/** A plain NBD connection from an address of our choice, as far as the answer to GO. */
export class RawNbd {
  readonly socket: Socket;
  readonly closed: Promise<void>;
  #received = Buffer.alloc(0);
  #wake: () => void = () => {};

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('error', () => {});
    socket.on('data', (bytes) => {
      this.#received = Buffer.concat([this.#received, bytes]);
      this.#wake();
    });
    this.closed = new Promise((resolve) => socket.once('close', () => resolve()));
    void this.closed.then(() => this.#wake());
  }

  /** Opens an export. Rejects with the NbdError of the server's answer. */
  static async open(port: number, token: string, from = '127.0.0.1'): Promise<RawNbd> {
    const raw = new RawNbd(connect({ host: '127.0.0.1', port, localAddress: from }));
    try {
      await raw.read(18);
      const go = nbd.encodeOption(nbd.OPT_GO, Buffer.concat([nbd.encodeString(token), Buffer.from([0, 0])]));
      raw.socket.write(Buffer.concat([Buffer.from([0, 0, 0, 3]), go]));
      for (;;) {
        const head = await raw.read(nbd.OPTION_REPLY_HEADER_BYTES);
        const type = head.readUInt32BE(12);
        const text = (await raw.read(head.readUInt32BE(16))).toString('utf8');
        if (type === nbd.REP_ACK) return raw;
        if (type >= nbd.REP_ERROR_BIT) throw new NbdError(nbd.reasonForReply(type), text);
      }
    } catch (error) {
      raw.close();
      throw error;
    }
  }

  async read(length: number): Promise<Buffer> {
    while (this.#received.length < length) {
      if (this.socket.destroyed) throw new NbdError('disconnected', 'the server ended the connection');
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const bytes = this.#received.subarray(0, length);
    this.#received = this.#received.subarray(length);
    return bytes;
  }

  /** Reads the first bytes of the export; throws when the server refuses. */
  async first(length: number): Promise<Buffer> {
    const request = Buffer.alloc(nbd.REQUEST_BYTES);
    nbd.encodeRequest(request, { flags: 0, command: nbd.CMD_READ, cookie: 1, generation: 0, offset: 0, length });
    this.socket.write(request);
    const head = await this.read(nbd.SIMPLE_REPLY_BYTES);
    if (head.readUInt32BE(4) !== 0) throw new NbdError(nbd.reasonForErrno(head.readUInt32BE(4)), 'read refused');
    return this.read(length);
  }

  close(): void {
    this.socket.destroy();
  }
}

/** A migration held still after the stop and before the copy: the destination's agent is frozen. */
export interface HeldMigration {
  readonly id: string;
  /** Asks the source for the export, as the destination would. */
  openExport(fingerprint?: string): Promise<OpenExportResponse>;
  /** Thaws the destination; twice is harmless. */
  release(): void;
}

/** Begins to migrate a Machine of `runWriter` with this gate, and holds the migration before its copy. */
export async function holdBeforeCopy(
  cluster: TestCluster,
  machineId: string,
  way: { source: string; destination: string; gate: string },
): Promise<HeldMigration> {
  const { source, destination, gate } = way;
  const id = await cluster.migrate(machineId, destination);
  await untilStep(cluster, id, MigrationStep.STOP);
  const pid = cluster.pid(destination);
  process.kill(pid, 'SIGSTOP');
  writeFileSync(gate, '');
  await cluster.until('the source has stopped the Machine', async () => {
    const { handover } = await cluster.handover(source).getHandover({ migrationId: id });
    return handover?.step === 'stopped';
  });
  const key = openKey(join(cluster.dataDir(destination), 'key.pem'));
  const peer = new ClientPool().client(PeerService, cluster.address(source));
  return {
    id,
    openExport: (fingerprint = '') => {
      const request = create(OpenExportRequestSchema, { migrationId: id, nonce: randomBytes(32), fingerprint });
      request.signature = key.sign('ferry.v1.OpenExport', exportRequestBytes(request));
      return peer.openExport(request);
    },
    release: () => process.kill(pid, 'SIGCONT'),
  };
}
