import { setImmediate } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { ManualClock } from './clock.ts';
import { FerryError } from './error.ts';
import { type FinishedStep, runSteps, type Step, type StepFailure, type StepJournal } from './steps.ts';

class MemoryJournal implements StepJournal {
  readonly done: FinishedStep[] = [];
  readonly begun: string[] = [];
  readonly failures: StepFailure[] = [];

  finished(): ReadonlySet<string> {
    return new Set(this.done.map((step) => step.name));
  }

  async advance(done: FinishedStep | undefined, next: string | undefined): Promise<void> {
    if (done !== undefined) this.done.push(done);
    if (next !== undefined) this.begun.push(next);
  }

  async failed(_name: string, failure: StepFailure): Promise<void> {
    this.failures.push(failure);
  }
}

const journal = () => new MemoryJournal();
const never = new AbortController().signal;

/** Lets time pass until the run has ended. */
async function finish<T>(clock: ManualClock, running: Promise<T>): Promise<T> {
  let ended = false;
  const end = () => {
    ended = true;
  };
  running.then(end, end);
  while (!ended) {
    await setImmediate();
    if (clock.sleeping > 0) clock.advance(50);
  }
  return running;
}

const step = (name: string, run: Step<string[]>['run']): Step<string[]> => ({ name, run });
const note = (name: string) =>
  step(name, async (trace) => {
    trace.push(name);
    return `did ${name}`;
  });

test('runs the steps in order, with one write between two of them', async () => {
  const record = journal();
  const trace: string[] = [];
  const options = { journal: record, clock: new ManualClock(), signal: never };
  expect(await runSteps([note('a'), note('b')], trace, options)).toEqual({ kind: 'done' });
  expect(trace).toEqual(['a', 'b']);
  expect(record.begun).toEqual(['a', 'b']);
  expect(record.done).toEqual([
    { name: 'a', message: 'did a' },
    { name: 'b', message: 'did b' },
  ]);
});

test('skips what is finished when it is resumed', async () => {
  const record = journal();
  record.done.push({ name: 'a', message: '' });
  const trace: string[] = [];
  await runSteps([note('a'), note('b')], trace, { journal: record, clock: new ManualClock(), signal: never });
  expect(trace).toEqual(['b']);
});

test('the intent is journalled before a step runs: a journal that fails keeps it from running', async () => {
  const record = journal();
  record.advance = async () => {
    throw new FerryError('no_space', 'full');
  };
  const trace: string[] = [];
  const running = runSteps([note('a')], trace, { journal: record, clock: new ManualClock(), signal: never });
  await expect(running).rejects.toThrow('full');
  expect(trace).toEqual([]);
});

test('retries with a growing, bounded pause, and shows each attempt', async () => {
  const record = journal();
  const clock = new ManualClock();
  let tries = 0;
  const flaky = step('a', async () => {
    tries += 1;
    if (tries <= 6) throw new FerryError('host_unreachable', 'away');
    return 'at last';
  });
  const options = { journal: record, clock, signal: never, pauseMsMin: 100, pauseMsMax: 800 };
  expect(await finish(clock, runSteps([flaky], [], options))).toEqual({ kind: 'done' });
  expect(record.failures.map(({ attempt, pauseMs }) => [attempt, pauseMs])).toEqual([
    [1, 100],
    [2, 200],
    [3, 400],
    [4, 800],
    [5, 800],
    [6, 800],
  ]);
});

test.each([
  ['cannot_run', 'abort'],
  ['io_error', 'park'],
] as const)('%s ends the run as %s, and the step is not finished', async (reason, kind) => {
  const record = journal();
  const failing = step('a', async () => {
    throw new FerryError(reason, 'no');
  });
  const outcome = await runSteps([failing, note('b')], [], {
    journal: record,
    clock: new ManualClock(),
    signal: never,
  });
  expect(outcome).toMatchObject({ kind, step: 'a', error: { reason } });
  expect(record.done).toEqual([]);
});

test('patience turns silence in a row into an abort; a beat begins anew', async () => {
  const clock = new ManualClock();
  let beats = 3;
  const silent: Step<string[]> = {
    name: 'a',
    patienceMs: 2000,
    run: async (_, pulse) => {
      if (beats-- > 0) pulse.beat();
      throw new FerryError('host_unreachable', 'away');
    },
  };
  const record = journal();
  const startMs = clock.nowMs();
  const outcome = await finish(clock, runSteps([silent], [], { journal: record, clock, signal: never }));
  expect(outcome).toMatchObject({ kind: 'abort', error: { reason: 'host_unreachable' } });
  expect(record.failures.slice(0, 4).map(({ attempt }) => attempt)).toEqual([1, 1, 1, 2]);
  expect(clock.nowMs() - startMs).toBeGreaterThanOrEqual(2000);
});

test('an interrupt is an abort with its reason, also during a pause', async () => {
  const clock = new ManualClock();
  const interrupt = new AbortController();
  const failing = step('a', async () => {
    throw new FerryError('host_unreachable', 'away');
  });
  const options = { journal: journal(), clock, signal: never, interrupt: interrupt.signal };
  const running = runSteps([failing], [], options);
  while (clock.sleeping === 0) await setImmediate();
  interrupt.abort(new FerryError('cancelled', 'called off'));
  expect(await running).toMatchObject({ kind: 'abort', step: 'a', error: { reason: 'cancelled' } });
});

test('going down rejects and journals nothing more', async () => {
  const record = journal();
  const down = new AbortController();
  const hanging = step(
    'a',
    (_, { signal }) => new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
  );
  const running = runSteps([hanging], [], { journal: record, clock: new ManualClock(), signal: down.signal });
  await setImmediate();
  down.abort(new Error('going down'));
  await expect(running).rejects.toThrow('going down');
  expect(record.done).toEqual([]);
  expect(record.failures).toEqual([]);
});
