import { writeFileSync } from 'node:fs';
import type { Reporter, TestCase, TestModule } from 'vitest/node';

/** What a run came to, as test/run.ts reads it. */
export interface Summary {
  readonly passed: number;
  readonly failed: number;
  /** Full names of the skipped tests; a title says why. */
  readonly skipped: readonly string[];
  /** Errors outside any test: a file that does not load, a rejection that nobody caught. */
  readonly errors: readonly string[];
}

/** Writes the summary of a run to the file that FERRY_TEST_SUMMARY names. */
export default class SummaryReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly { message?: string }[]): void {
    const tests: TestCase[] = modules.flatMap((module) => [...module.children.allTests()]);
    const named = (state: string) => tests.filter((test) => test.result().state === state);
    const moduleErrors = modules.flatMap((module) =>
      module.errors().map((error) => `${module.moduleId}: ${error.message}`),
    );
    const summary: Summary = {
      passed: named('passed').length,
      failed: named('failed').length + named('pending').length,
      skipped: named('skipped').map((test) => `${test.module.relativeModuleId} > ${test.fullName}`),
      errors: [...moduleErrors, ...unhandled.map((error) => error.message ?? String(error))],
    };
    writeFileSync(process.env.FERRY_TEST_SUMMARY ?? '/dev/null', JSON.stringify(summary));
  }
}
