import { create } from '@bufbuild/protobuf';
import { type CopyLimits, CopyLimitsSchema } from '../proto/gen/ferry/v1/host_pb.ts';
import type { Clock } from '../shared/clock.ts';
import { invalidArgument } from '../shared/error.ts';
import type { Journal } from './journal.ts';
import { RateLimiter } from './transfer/limiter.ts';

/** Below this a request of one MiB would take longer than its deadline. */
const bytesPerSecondMin = 1024 ** 2;
const metaKey = 'copy_limits';

/** How fast copies may leave and reach this host, all together. Durable in the journal; a change is felt at once. */
export class HostCopyLimits {
  readonly #journal: Journal;
  /** For all that other agents and NBD tools read here. */
  readonly send: RateLimiter;
  /** For all that this host pulls from others. */
  readonly receive: RateLimiter;

  constructor({ journal, clock }: { journal: Journal; clock: Clock }) {
    this.#journal = journal;
    const [send = 0, receive = 0] = JSON.parse(journal.meta(metaKey) ?? '[]') as number[];
    this.send = new RateLimiter({ clock, bytesPerSecond: send || null });
    this.receive = new RateLimiter({ clock, bytesPerSecond: receive || null });
  }

  get limits(): CopyLimits {
    return create(CopyLimitsSchema, {
      sendBytesPerSecond: BigInt(this.send.bytesPerSecond ?? 0),
      receiveBytesPerSecond: BigInt(this.receive.bytesPerSecond ?? 0),
    });
  }

  /** Durable when it returns. Throws invalid_argument below 1 MiB/s. */
  set({ sendBytesPerSecond, receiveBytesPerSecond }: CopyLimits): void {
    const send = readRate(sendBytesPerSecond, 'limits.send_bytes_per_second');
    const receive = readRate(receiveBytesPerSecond, 'limits.receive_bytes_per_second');
    this.#journal.write(() => this.#journal.setMeta(metaKey, JSON.stringify([send ?? 0, receive ?? 0])));
    this.send.setRate(send);
    this.receive.setRate(receive);
  }
}

function readRate(value: bigint, field: string): number | null {
  if (value === 0n) return null;
  if (value >= bytesPerSecondMin && value <= Number.MAX_SAFE_INTEGER) return Number(value);
  throw invalidArgument(field, `is ${value} bytes a second`, `0 (no limit), or at least ${bytesPerSecondMin}`);
}
