import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../../shared/clock.ts';
import { ulid } from '../../../shared/ids.ts';
import { systemRandom } from '../../../shared/random.ts';
import { ProcessRuntime } from './runtime.ts';

// Runs as an unprivileged user: a Machine whose second process cleared its environment and keeps the volume open.
const [, , home, machineId] = process.argv as [string, string, string, string];
const instanceId = ulid(Date.now(), systemRandom);
const volume = join(home, 'volume.img');
await writeFile(volume, 'data');
const runtime = await ProcessRuntime.open({
  directory: join(home, 'machines'),
  clock: systemClock,
  path: process.env.PATH!,
});
const running = await runtime.start({
  machineId,
  instanceId,
  command: ['sh', '-c', 'env -i setsid sleep 1000 <"$0" & echo ready; sleep 1000 & wait', volume],
  env: { PATH: process.env.PATH! },
  cwd: home,
  memoryMb: 64,
});
for await (const line of runtime.readLog(machineId, {
  tailLines: 1,
  follow: true,
  signal: new AbortController().signal,
})) {
  if (line === 'ready') break;
}
const mains = await runtime.survivors(machineId, []);
await runtime.signal(machineId, instanceId, 'SIGKILL');
const ending = await runtime.waitExit(machineId, instanceId, new AbortController().signal);
const daemon = await runtime.survivors(machineId, [volume]);
await runtime.kill(machineId, [volume]);
const after = await runtime.survivors(machineId, [volume]);
const report = {
  limitsMemory: runtime.limitsMemory,
  running: running.kind,
  survivors: mains.filter((s) => s.why === 'main').map((s) => s.why),
  daemon: daemon.filter((s) => s.why === 'open-file').map((s) => s.why),
  after,
  ending,
};
await runtime.forget(machineId);
process.stdout.write(JSON.stringify(report));
